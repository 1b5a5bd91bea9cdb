"""project.yaml: a partner's project, validated. The one place that knows its keys and defaults."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainValidator,
    StringConstraints,
    ValidationError,
    model_validator,
)

from olmoearth_core.errors import ProjectError
from olmoearth_core.framing import Framing
from olmoearth_core.labels.values import Value, ValueMap, as_list
from olmoearth_core.section import Date, Section
from olmoearth_core.sentences import sentences
from olmoearth_core.settings_file import read_settings

PROJECT_FILE = "project.yaml"
MAX_CLASSES = 250
"""Classes are uint8 in targets and maps; 251 to 255 are kept for nodata and the ignore index."""


def _color(value: str) -> str:
    if not re.fullmatch(r"#[0-9a-fA-F]{6}", value):
        raise ValueError(f"'{value}' is no colour; allowed is #rrggbb, for example '#2c7fb8'")
    return value.lower()


def _distinct(values: list[Any]) -> list[Any]:
    if doubled := sorted({value for value in values if values.count(value) > 1}):
        raise ValueError(f"{', '.join(doubled)} stands more than once")
    return values


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


def _cron(value: str) -> str:
    from datetime import datetime

    from cronsim import CronSim, CronSimError

    try:
        CronSim(value, datetime(2026, 1, 1))
    except CronSimError as error:
        raise ValueError(f"'{value}' is no cron expression ({error}); an example is '0 4 1 * *'") from error
    return value


def _name(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,62}", value):
        raise ValueError(f"'{value}' cannot be a name; allowed are lower-case letters, digits, '-' and '_', up to 63")
    return value


class ClassConfig(Section):
    """One class of the map."""

    name: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)]
    color: Annotated[str, AfterValidator(_color)]


class TaskConfig(Section):
    """What is predicted."""

    kind: Literal["segmentation"] = "segmentation"
    classes: list[ClassConfig] = Field(min_length=2, max_length=MAX_CLASSES)

    @model_validator(mode="after")
    def _names_differ(self) -> TaskConfig:
        names = [c.name for c in self.classes]
        if doubled := sorted({n for n in names if names.count(n) > 1}):
            raise ValueError(f"class names must differ; {', '.join(doubled)} stands more than once")
        return self

    @property
    def class_names(self) -> list[str]:
        """Class names; a class's index here is its value in targets and maps."""
        return [c.name for c in self.classes]


class SamplingConfig(Section):
    """Which of the labelled windows are used, where there are more than are wanted (labels/sampling.py)."""

    max_per_class: int | None = Field(None, ge=1)
    """Windows kept for each class; a window with several classes counts for the rarest of them."""
    max_windows: int | None = Field(None, ge=1)
    """Windows kept in all, each class in turn giving one."""
    near: float | None = Field(None, gt=0)
    """Metres. Of a class's windows, those that hold or lie this near to another class are kept first: the hard ones."""
    seed: int = 0


class LabelsConfig(Section):
    """Where the labels are and how to read them."""

    files: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1), AfterValidator(_distinct)]
    """Vector files, CSV tables and GeoTIFFs, relative to the project folder."""
    crs: str | None = None
    """CRS of the coordinates in CSV tables; longitude and latitude (EPSG:4326) when not given."""
    class_property: str = "class"
    classes: dict[str, Annotated[list[Value], BeforeValidator(as_list)]] = Field(default_factory=dict)
    """Class -> the values of property or raster that mean it, where they are not the class's own name: one or a list
    of words, numbers and ranges ("0-30" or "0..30", both ends in it; "30.." has no end)."""
    unmapped: Literal["error", "ignore"] = "error"
    """What becomes of a value that means no class: refused, or not labelled."""
    date_property: str = "start_datetime"
    """Property with the date a label is true for (ISO 8601)."""
    date: Date | None = None
    """One date for all labels, for files without a date property."""
    dates: dict[str, Date] = Field(default_factory=dict)
    """File -> date, for files without a date property; before labels.date."""
    area: str | None = None
    """Vector file; labels outside it are not used."""
    windows: Literal["lattice", "centred"] = "lattice"
    """Windows on the grid's lattice wherever there are labels, or one around the middle of each label."""
    sampling: SamplingConfig = SamplingConfig()

    @model_validator(mode="after")
    def _dates_are_of_files(self) -> LabelsConfig:
        if strange := sorted(self.dates.keys() - set(self.files)):
            raise ValueError(f"dates names {', '.join(strange)}, which is not in files")
        return self


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
    modalities: Annotated[list[Literal["sentinel2_l2a", "sentinel1", "landsat"]], AfterValidator(_distinct)] = Field(
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


_SPLIT_KEYS = {
    "blocks": {"block_size", "validation", "test", "seed", "buffer"},
    "time": {"validation_from", "test_from"},
    "property": {"property", "buffer"},
}
"""Kind of split -> the keys that mean something to it."""


class SplitConfig(Section):
    """What keeps training, validation and test apart: blocks of ground, dates, or the partner's own word."""

    kind: Literal["blocks", "time", "property"] = "blocks"
    block_size: float = Field(640.0, gt=0)
    """Edge of a block in metres; rounded up to whole windows."""
    validation: float = Field(0.2, ge=0, lt=1)
    test: float = Field(0.2, ge=0, lt=1)
    seed: int = 0
    buffer: float = Field(0.0, ge=0)
    """Metres. A training window nearer than this to one of another split is left out, as is one that overlaps it."""
    validation_from: Date | None = None
    """kind time: labels from this date on are for validation."""
    test_from: Date | None = None
    """kind time: labels from this date on are for the test."""
    property: str = "split"
    """kind property: property of the label files that says train, validation or test."""

    def held_out(self) -> list[str]:
        """The splits besides training that are asked for."""
        wanted = {
            "blocks": (self.validation > 0, self.test > 0),
            "time": (self.validation_from is not None, self.test_from is not None),
            "property": (True, True),
        }[self.kind]
        return [name for name, asked in zip(("validation", "test"), wanted, strict=True) if asked]

    @model_validator(mode="after")
    def _leaves_training(self) -> SplitConfig:
        if self.validation + self.test >= 1:
            raise ValueError(f"validation + test is {self.validation + self.test}; training needs a share as well")
        return self

    @model_validator(mode="after")
    def _means_something(self) -> SplitConfig:
        allowed = _SPLIT_KEYS[self.kind]
        unusual = {key for key, field in type(self).model_fields.items() if getattr(self, key) != field.default}
        if strange := sorted(unusual - allowed - {"kind"}):
            raise ValueError(
                f"{', '.join(strange)} means nothing to kind '{self.kind}'; it takes {', '.join(sorted(allowed))}"
            )
        first, last = self.validation_from, self.test_from
        if self.kind == "time" and first is None and last is None:
            raise ValueError("kind 'time' needs validation_from or test_from, the first date of that split")
        if first is not None and last is not None and first >= last:
            raise ValueError(f"validation_from {first} is not before test_from {last}; the test is what comes last")
        return self


class DatasetConfig(Section):
    """How windows become a training set."""

    split: SplitConfig = SplitConfig()
    min_valid: float = Field(0.05, ge=0, le=1)
    """Windows with a smaller share of valid pixels than this, over all timesteps, are left out and listed."""
    min_samples: int = Field(2, ge=1)
    """Fewest windows a class must appear in."""


class ModelConfig(Section):
    """The encoder and the sizes it works at."""

    encoder: str = "v1.1-nano"
    """Catalogue name, as in `olmoearth encoders list`: "v1.1-nano", "galileo-nano"."""
    weights: str | None = Field(None, min_length=1)
    """Checkpoint (folder, hf://, s3://); random weights when not given."""
    patch_size: int = Field(ge=1, le=8)
    window_size: int = Field(ge=1, le=512)
    """Edge of a window in pixels."""

    @model_validator(mode="after")
    def _divides(self) -> ModelConfig:
        if self.window_size % self.patch_size:
            raise ValueError(
                f"window_size {self.window_size} is not divisible by patch_size {self.patch_size}; "
                f"the next that is: {-(-self.window_size // self.patch_size) * self.patch_size}"
            )
        return self


class TrainingConfig(Section):
    """How the model is fine-tuned."""

    epochs: int = Field(30, ge=1, le=100_000)
    batch_size: int = Field(8, ge=1, le=65_536)
    learning_rate: float = Field(1e-3, gt=0, le=1)
    weight_decay: float = Field(0.01, ge=0, le=1)
    augment: bool = True
    """Show windows turned, brighter or darker, and without single timesteps (training/augment.py)."""
    seed: int = 0


class MapConfig(Section):
    """What is mapped."""

    area: str
    """Vector file of the area, relative to the project folder."""
    date: Date
    """Anchor of the temporal framing, as a label's date is while training."""
    tile_size: int = Field(1024, ge=64, le=8192)
    """Edge of a tile in pixels: the unit of resume and distribution."""
    overlap: float = Field(0.25, ge=0, le=0.75)
    """Share of a window that it has in common with its neighbour."""
    min_area: float = Field(0.0, ge=0)
    """Minimum mapping unit of the polygons in square metres; smaller patches join their largest neighbour."""


class RetrainingConfig(Section):
    """When the model is trained anew."""

    cron: Annotated[str, AfterValidator(_cron)]


class ProjectConfig(Section):
    """All of project.yaml."""

    name: Annotated[str, AfterValidator(_name)]
    task: TaskConfig
    labels: LabelsConfig
    imagery: ImageryConfig
    dataset: DatasetConfig
    model: ModelConfig
    training: TrainingConfig
    map: MapConfig
    retraining: RetrainingConfig | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> ProjectConfig:
        window = self.model.window_size
        if self.map.tile_size < window:
            raise ValueError(f"map.tile_size {self.map.tile_size} is smaller than model.window_size {window}")
        if strange := sorted(self.labels.classes.keys() - set(self.task.class_names)):
            raise ValueError(f"labels.classes names {', '.join(strange)}, which is not in task.classes")
        try:
            self.value_map  # noqa: B018 (two classes for one value are told here)
        except ValueError as error:
            raise ValueError(f"labels.classes: {error}") from None
        return self

    @property
    def value_map(self) -> ValueMap:
        """Which value of the label files means which class."""
        return ValueMap.of(self.task.class_names, self.labels.classes)


@dataclass(frozen=True)
class Project:
    """A project folder and its validated settings."""

    root: Path
    """Absolute path of the folder."""
    config: ProjectConfig

    @property
    def state(self) -> Path:
        """The platform's own state in the folder: lock, work folders, records. Never hashed, never in git."""
        return self.root / ".olmoearth"

    def path(self, relative: str) -> Path:
        """A path of project.yaml, made absolute.

        Raises:
            ProjectError: no file system takes it.
        """
        try:
            path = self.root / Path(relative).expanduser()
            path.exists()
        except (RuntimeError, OSError, ValueError) as error:
            raise ProjectError(
                f"{self.root / PROJECT_FILE}: '{relative[:80]}' cannot be a path ({str(error)[:80]}). Correct it."
            ) from error
        return path


def parse_project(text: str, source: str = PROJECT_FILE) -> ProjectConfig:
    """Validate the text of a project.yaml.

    Raises:
        ProjectError: with one line for each wrong key: the key, what was found, what is allowed.
    """
    values = read_settings(text, source)
    try:
        return ProjectConfig.model_validate(values)
    except ValidationError as error:
        lines = sentences(error, ProjectConfig)
        raise ProjectError(
            f"{source}: {lines[0]}"
            if len(lines) == 1
            else "\n  ".join([f"{source}: {len(lines)} keys are wrong", *lines])
        ) from error


def load_project(folder: Path) -> Project:
    """Read and validate `folder`/project.yaml (UTF-8); the file itself may be named as well.

    Raises:
        ProjectError: no such file, or a wrong key in it.
    """
    root = folder.expanduser().resolve()
    if root.name == PROJECT_FILE and root.is_file():
        root = root.parent
    path = root / PROJECT_FILE
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ProjectError(
            f"{path}: no such file. Name a project folder, or make one with `olmoearth init NAME --template T`."
        ) from None
    except UnicodeDecodeError as error:
        raise ProjectError(f"{path}: is no text file (UTF-8); save it as plain text") from error
    except OSError as error:
        raise ProjectError(f"{path}: cannot be read ({error.strerror})") from error
    return Project(root, parse_project(text, str(path)))
