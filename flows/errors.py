"""What can go wrong on the top floor."""


class FlowError(Exception):
    """Root of every error that flows raises on purpose."""
