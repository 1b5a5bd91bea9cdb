"""What can go wrong in the core, as classes a caller would want to catch.

Every message names the file or key, what was found, what is allowed, and what to do.
"""


class CoreError(Exception):
    """Root of every error that olmoearth_core raises on purpose."""


class ProjectError(CoreError, ValueError):
    """A project.yaml or project folder that cannot be used as it is."""


class LabelError(CoreError, ValueError):
    """A label file, feature or class that cannot be used."""


class CatalogueError(CoreError, OSError):
    """A STAC catalogue that is missing, unreachable, or does not answer with STAC."""


class NoSceneError(CatalogueError):
    """A catalogue that answers, but has nothing for the place and time."""


class WrongProductError(CatalogueError):
    """An item of the right sensor and of a product that cannot be used (Landsat Level 2, Sentinel-1 GRD)."""


class SourceError(CoreError, ValueError):
    """Rasters, patches, cubes or outlines of a partner's own that cannot be imported as they are."""


class ImageryError(CoreError, OSError):
    """Scenes or assets that cannot be read or composed."""


class DatasetError(CoreError, ValueError):
    """A training set that cannot be made, opened, or trusted."""


class ExpectationError(DatasetError):
    """A training set that fails an expectation of severity error."""


class CheckpointError(CoreError, ValueError):
    """Weights, configuration or model card that cannot be loaded or do not fit."""


class EncoderInputError(CoreError, ValueError):
    """Inputs that an encoder refuses before any compute is spent."""


class TrainingError(CoreError, RuntimeError):
    """A training run that cannot start or has to stop."""


class MappingError(CoreError, RuntimeError):
    """An area, tile or product that cannot be mapped."""


class StoreError(CoreError, OSError):
    """An output that cannot be written or does not verify (full disk, no permission, changed bytes)."""


class BusyError(CoreError, RuntimeError):
    """Another run is at work on the same project."""


class TransientError(CoreError, OSError):
    """An input/output fault that is worth trying again (a time-out, a 503, a truncated body)."""
