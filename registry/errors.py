"""What can go wrong in the registry, as classes a caller would want to catch.

Every message names the setting, file or version, what was found, what is allowed, and what to do.
"""

import re


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


class ArtifactError(RegistryError, OSError):
    """Files of the artifact store that cannot be kept, found, or trusted."""


class ReproduceError(RegistryError, RuntimeError):
    """A map that cannot be made again: it, or what it was made of, is not to be had."""


class BackupError(RegistryError, OSError):
    """A workspace that cannot be backed up, or a backup that cannot be restored."""


class SignatureError(RegistryError, ValueError):
    """A signed statement, or a key, that is not what it should be."""


def without_passwords(text: str) -> str:
    """What a message may show of addresses: not their passwords, nor a token in place of a user."""
    return re.sub(r"//([^/@:\s]*:\S*|[^/@:\s]+)@", "//***@", text)  # a password may hold what a URL should not: / @ #
