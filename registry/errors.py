"""What can go wrong in the registry, as classes a caller would want to catch.

Every message names the setting, file or version, what was found, what is allowed, and what to do.
"""


class RegistryError(Exception):
    """Root of every error that registry raises on purpose."""


class SettingError(RegistryError, ValueError):
    """An environment variable of the workspace that cannot be used."""


class DatabaseError(RegistryError, OSError):
    """A registry database that cannot be reached, read, written, or is of another version."""


class ModelError(RegistryError, LookupError):
    """A model version that is not there, or that MLflow cannot take or give."""


class VersioningError(RegistryError, OSError):
    """Git or DVC cannot do its part."""


class AuditError(RegistryError, OSError):
    """A file that cannot be looked at."""


class SignatureError(RegistryError, ValueError):
    """A signed statement, or a key, that is not what it should be."""
