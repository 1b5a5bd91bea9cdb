"""What can go wrong on the top floor."""

from olmoearth_core.errors import TransientError


class FlowError(Exception):
    """Root of every error that flows raises on purpose."""


class DeployError(FlowError):
    """A project that cannot be deployed: no server, or one that refuses."""


class GateError(FlowError):
    """A model that the gates did not let through."""


class ElsewhereError(FlowError):
    """A stage that ran as a flow run of its own, on another worker, and did not end well."""


class LostRunError(ElsewhereError, TransientError):
    """Such a flow run whose process or machine is gone."""


class EngineError(FlowError):
    """An engine that cannot compute tiles: no cluster answers, or it has no workers."""
