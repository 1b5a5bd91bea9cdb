"""What can go wrong on the top floor."""


class FlowError(Exception):
    """Root of every error that flows raises on purpose."""


class DemoError(FlowError):
    """The demo's map, or its world, is not what it promises to be."""
