"""Making a map again from a folder that holds all that it needs, and comparing the two."""
