"""The section imagery of project.yaml: which imagery, how it is reached, and how it is framed in time."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PlainValidator, model_validator

from olmoearth_core.framing import Framing
from olmoearth_core.section import Section, distinct


def _catalogue(value: Any) -> str | dict[str, str]:
    names = value.values() if isinstance(value, dict) and value else [value]
    if not all(isinstance(name, str) and name for name in names):
        raise ValueError(
            f"expected the name, URL or path of a catalogue, or one for each modality, found {value!r}; "
            "an example is {sentinel2_l2a: earth-search}"
        )
    return value  # type: ignore[no-any-return]


def _collections(value: Any) -> list[str] | dict[str, list[str]]:
    lists = value.values() if isinstance(value, dict) else [value]
    if not all(isinstance(ids, list) and all(isinstance(name, str) and name for name in ids) for ids in lists):
        raise ValueError(f"expected a list of collections, or such a list for each modality, found {value!r}")
    return value  # type: ignore[no-any-return]


class AccessConfig(Section):
    """How servers are reached (imagery/access.py); where a key is left out, the environment's AWS_* settings hold."""

    profile: str | None = Field(None, min_length=1)
    """Profile of ~/.aws/config."""
    endpoint: str | None = Field(None, pattern="^https?://")
    """URL of an S3 server that is not AWS."""
    requester_pays: bool = False
    """Agree to pay for what is read from buckets that ask it."""
    anonymous: bool = False
    """Read public buckets without credentials."""
    attempts: int = Field(5, ge=1, le=20)
    """Times that a request is made before a fault that may pass is believed."""
    first_pause: float = Field(0.5, ge=0, le=60)
    """Seconds before the second attempt; doubles with each."""
    timeout: float = Field(60.0, gt=0, le=3600)
    """Seconds that one request may take."""
    connections: int = Field(8, ge=1, le=256)
    """Requests at once to one host."""


class ImageryConfig(Section):
    """Which imagery, and how it is framed in time."""

    catalogue: Annotated[str | dict[str, str], PlainValidator(_catalogue)]
    """A known catalogue (imagery/presets.py), URL of a STAC API, or URL or path (relative to the project folder) of a
    static catalogue's JSON file; or one of them for each modality."""
    collections: Annotated[list[str] | dict[str, list[str]], PlainValidator(_collections)] = Field(default_factory=list)
    """Collections to search, or a list of them for each modality; empty means the modality's usual one on an API,
    every one in a static catalogue."""
    access: AccessConfig = AccessConfig()
    modalities: Annotated[list[Literal["sentinel2_l2a", "sentinel1", "landsat"]], AfterValidator(distinct)] = Field(
        ["sentinel2_l2a"], min_length=1
    )
    resolution: float = Field(10.0, ge=0.1, le=1000)
    """Edge of a grid pixel in metres."""
    crs: str | None = None
    """CRS of the grid; the UTM zone of the labels when not given."""
    framing: Framing
    max_cloud_cover: float = Field(90.0, ge=0, le=100)
    """Scenes with more cloud than this (per cent, eo:cloud_cover) are not used."""
    composite: Literal["least_cloudy", "first_valid", "median", "medoid"] = "least_cloudy"
    """What becomes of several observations of a timestep (imagery/compose.py)."""
    cloud_mask: Literal["catalogue", "s2cloudless", "none"] = "catalogue"
    """What tells clouds: the catalogue's own quality asset (SCL, QA_PIXEL), s2cloudless for Sentinel-2, or nothing."""

    @model_validator(mode="after")
    def _a_catalogue_each(self) -> ImageryConfig:
        for key in ("catalogue", "collections"):
            named = getattr(self, key)
            if not isinstance(named, dict):
                continue
            if strange := [name for name in named if name not in self.modalities]:
                raise ValueError(
                    f"{key} names '{strange[0]}', which imagery.modalities does not ask for "
                    f"({', '.join(self.modalities)})"
                )
            if key == "catalogue" and (left := [name for name in self.modalities if name not in named]):
                raise ValueError(f"catalogue names none for the modality '{left[0]}'; give each its own")
        return self

    def catalogue_for(self, modality: str) -> str:
        """The catalogue of a modality, as it is named here."""
        return self.catalogue if isinstance(self.catalogue, str) else self.catalogue[modality]
