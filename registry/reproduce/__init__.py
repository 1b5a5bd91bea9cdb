"""What runs read, kept; and a map laid out again from its rows alone, and compared."""
