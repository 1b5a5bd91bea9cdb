"""The workspace: where the registry, MLflow, artifacts and dataset versions live. Knows its settings, alone.

Everything is embedded below one folder until a setting points elsewhere; the same code then talks to servers.
"""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from registry.errors import SettingError

PREFIX = "OLMOEARTH_"
NOT_SETTINGS = ("OLMOEARTH_TEST_DATA", "OLMOEARTH_CODE_COMMIT")
"""Variables with our prefix that are no setting of a workspace: the tests' real data sets, the commit of an image."""


class _Environment(BaseSettings):
    """The settings as the environment gives them; an empty value counts as not set."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", env_ignore_empty=True, frozen=True)

    home: str = Field("~/.olmoearth", description="Folder of the workspace.")
    registry_url: str | None = Field(
        None, description="Database of the registry: sqlite:///<path> or postgresql+psycopg2://. <home>/registry.db."
    )
    tracking_uri: str | None = Field(
        None,
        validation_alias="MLFLOW_TRACKING_URI",
        description="MLflow: a server's http(s)://, sqlite:///<path> or postgresql+psycopg2://. <home>/mlflow.db.",
    )
    artifacts: str | None = Field(
        None, description="Where MLflow keeps model files: a folder or s3://. <home>/artifacts."
    )
    templates: str | None = Field(None, description="Folder of your own templates for `init`. <home>/templates.")
    dvc_remote: str | None = Field(
        None, description="DVC remote of new projects' dataset versions: a folder or s3://. <home>/dvc-remote."
    )
    dask_scheduler: str | None = Field(
        None, description="Dask scheduler of `--engine dask`: tcp://host:8786. A temporary cluster on this machine."
    )
    exchange: str | None = Field(
        None,
        description="Where Dask workers find their work and leave tiles: s3://, or a folder that all of them see. "
        "<home>/exchange.",
    )
    signing_key: str | None = Field(
        None, description="Signs the provenance of maps: an ed25519 private key (PEM), or a file with it. None."
    )
    trusted_keys: str | None = Field(
        None, description="Who may have signed: ed25519 public keys (PEM), or a file with them. The signing key's own."
    )


@dataclass(frozen=True)
class Workspace:
    """Where everything of one house lives. Made by `from_environment`, or by `at` for a folder of one's own."""

    home: Path
    """Absolute path; embedded state lies below it."""
    registry_url: str
    """SQLAlchemy URL."""
    tracking_uri: str
    """MLflow tracking and model registry."""
    artifacts: str
    """Absolute folder or s3:// URL, without a slash at the end."""
    dvc_remote: str
    """Absolute folder or s3:// URL, without a slash at the end."""
    templates: Path
    """Absolute path of the folder of a partner's own templates; need not exist."""
    exchange: str
    """Absolute folder or s3:// URL, without a slash at the end."""
    dask_scheduler: str | None = None
    """Address of a running Dask cluster; None for temporary ones."""
    signing_key: str | None = field(default=None, repr=False)
    """PEM, or the file that holds it (`signing.signing_key`)."""
    trusted_keys: str | None = None
    """PEMs, or the file that holds them (`signing.trusted_keys`)."""

    @classmethod
    def from_environment(cls) -> Workspace:
        """Read the settings.

        Raises:
            SettingError: a variable that is unknown (a spelling mistake would silently mean the default), or a value
                that cannot work.
        """
        _refuse_unknown()
        found = _Environment()
        made = cls._make(
            found.home,
            found.registry_url,
            found.tracking_uri,
            found.artifacts,
            found.dvc_remote,
            found.exchange,
            found.dask_scheduler,
            found.templates,
        )
        return replace(made, signing_key=found.signing_key, trusted_keys=found.trusted_keys)

    @classmethod
    def at(
        cls,
        home: Path,
        *,
        registry_url: str | None = None,
        tracking_uri: str | None = None,
        artifacts: str | None = None,
        dvc_remote: str | None = None,
    ) -> Workspace:
        """The workspace in the folder `home`, whatever the environment says.

        Raises:
            SettingError: a value that cannot work.
        """
        return cls._make(str(home), registry_url, tracking_uri, artifacts, dvc_remote)

    @classmethod
    def _make(
        cls,
        where: str,
        registry: str | None,
        tracking: str | None,
        artifacts: str | None,
        remote: str | None,
        exchange: str | None = None,
        scheduler: str | None = None,
        templates: str | None = None,
    ) -> Workspace:
        home = Path(where).expanduser().absolute()
        return cls(
            home=home,
            registry_url=_database("OLMOEARTH_REGISTRY_URL", registry or f"sqlite:///{home / 'registry.db'}"),
            tracking_uri=_tracking(tracking or f"sqlite:///{home / 'mlflow.db'}"),
            artifacts=_place("OLMOEARTH_ARTIFACTS", artifacts or str(home / "artifacts")),
            dvc_remote=_place("OLMOEARTH_DVC_REMOTE", remote or str(home / "dvc-remote")),
            templates=Path(templates).expanduser().absolute() if templates else home / "templates",
            exchange=_place("OLMOEARTH_EXCHANGE", exchange or str(home / "exchange")),
            dask_scheduler=scheduler and _scheduler(scheduler),
        )

    @property
    def shown_registry(self) -> str:
        """The registry's URL without its password."""
        from sqlalchemy.engine import make_url

        return make_url(self.registry_url).render_as_string(hide_password=True)

    @staticmethod
    def settings() -> dict[str, str]:
        """Every environment variable that a workspace reads -> what it is for."""
        return {
            str(setting.validation_alias or f"{PREFIX}{name.upper()}"): setting.description or ""
            for name, setting in _Environment.model_fields.items()
        }

    @staticmethod
    def setting_names() -> tuple[str, ...]:
        """The names of every environment variable that a workspace reads."""
        return tuple(Workspace.settings())


def _refuse_unknown() -> None:
    known = [name for name in Workspace.setting_names() if name.startswith(PREFIX)]
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and name not in known and name not in NOT_SETTINGS:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"settings are {', '.join(known)}."
            raise SettingError(f"{name}: no such setting; unset it, or {hint}")


def _database(setting: str, url: str) -> str:
    scheme = urlsplit(url).scheme
    if scheme in ("postgresql", "postgres"):
        raise SettingError(
            f"{setting}: write postgresql+psycopg2:// in full instead of {scheme}://, "
            "which driver the short form means depends on the version of SQLAlchemy."
        )
    if scheme not in ("sqlite", "postgresql+psycopg2"):
        raise SettingError(
            f"{setting}: a URL that begins with '{scheme}://' cannot be used; allowed are sqlite:///<path> and "
            "postgresql+psycopg2://user:password@host/database."
        )
    return url


def _tracking(uri: str) -> str:
    if urlsplit(uri).scheme in ("http", "https"):
        return uri
    if urlsplit(uri).scheme in ("", "file"):
        raise SettingError(
            f"MLFLOW_TRACKING_URI: '{uri}' is a folder, and MLflow no longer keeps its state in folders; allowed are "
            "http(s)://, sqlite:///<path> and postgresql+psycopg2://."
        )
    return _database("MLFLOW_TRACKING_URI", uri)


def _scheduler(address: str) -> str:
    if urlsplit(address).scheme not in ("tcp", "tls", "ws", "wss"):
        raise SettingError(f"OLMOEARTH_DASK_SCHEDULER: '{address}' is no address of a scheduler like tcp://host:8786.")
    return address


def _place(setting: str, where: str) -> str:
    scheme = urlsplit(where).scheme
    if scheme == "s3":
        return where.rstrip("/")
    if scheme:
        raise SettingError(f"{setting}: '{where}' cannot be used; allowed are a folder and s3://bucket/prefix.")
    return str(Path(where).expanduser().absolute())
