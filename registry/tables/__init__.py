"""The tables, the database that holds them, and the steps from one schema to the next."""
