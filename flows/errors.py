"""What can go wrong on the top floor."""


class FlowError(Exception):
    """Root of every error that flows raises on purpose."""


class FlowStateError(FlowError, RuntimeError):
    """A flow run that ended without saying why (its server went away, it was cancelled)."""
