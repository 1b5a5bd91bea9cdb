"""What becomes of a model in use: drift of what it is shown and of what it says, and how fresh everything is."""
