"""The git and DVC ties: which commit, which dataset version."""
