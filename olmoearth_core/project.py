"""project.yaml: a partner's project, validated. The one place that knows its keys and defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from olmoearth_core.errors import ProjectError
from olmoearth_core.labels.values import ValueMap
from olmoearth_core.project_imagery import AccessConfig, ImageryConfig
from olmoearth_core.project_labels import (
    MAX_CLASSES,
    AuxiliaryConfig,
    ClassConfig,
    LabelsConfig,
    SamplingConfig,
    TaskConfig,
    labels_fit,
)
from olmoearth_core.project_monitoring import MonitoringConfig
from olmoearth_core.project_training import AugmentConfig, TrainingConfig
from olmoearth_core.project_upkeep import (
    DeploymentConfig,
    GatesConfig,
    NotificationsConfig,
    RetrainingConfig,
    check_gates,
)
from olmoearth_core.section import Date, Name, Section
from olmoearth_core.sentences import sentences
from olmoearth_core.settings_file import read_settings

__all__ = [
    "MAX_CLASSES",
    "PROJECT_FILE",
    "AccessConfig",
    "AugmentConfig",
    "AuxiliaryConfig",
    "ClassConfig",
    "ConformalConfig",
    "DatasetConfig",
    "DeploymentConfig",
    "GatesConfig",
    "ImageryConfig",
    "LabelsConfig",
    "MapConfig",
    "ModelConfig",
    "MonitoringConfig",
    "NotificationsConfig",
    "Project",
    "ProjectConfig",
    "RetrainingConfig",
    "SamplingConfig",
    "SplitConfig",
    "TaskConfig",
    "TrainingConfig",
    "load_project",
    "parse_project",
]

PROJECT_FILE = "project.yaml"


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
    seed: int = Field(0, ge=0)
    buffer: float = Field(0.0, ge=0)
    """Metres. A training window nearer than this to a block or window of another split is left out; one that overlaps
    such a window always is."""
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
    head: Literal["auto", "linear", "upsample", "unet", "pool"] = "auto"
    """What stands on the encoder (models/heads.py); auto is pool for classification, else as the recipe says."""

    @model_validator(mode="after")
    def _divides(self) -> ModelConfig:
        if self.window_size % self.patch_size:
            raise ValueError(
                f"window_size {self.window_size} is not divisible by patch_size {self.patch_size}; "
                f"the next that is: {-(-self.window_size // self.patch_size) * self.patch_size}"
            )
        return self


class ConformalConfig(Section):
    """A layer of the classes that are not ruled out at each pixel (models/prediction_sets.py)."""

    coverage: float = Field(0.9, ge=0.5, le=0.99)
    """Share of the pixels of each class whose set should hold it; kept are some coverages, the next higher is taken."""


def _which_model(value: Any) -> Any:
    if value is None or value in ("latest", "champion"):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    raise ValueError(f"must be latest, champion or the number of a version, found {value!r}")


class MapConfig(Section):
    """What is mapped."""

    area: str
    """Vector file of the area, relative to the project folder."""
    date: Date
    """Anchor of the temporal framing, as a label's date is while training."""
    model: Annotated[Literal["latest", "champion"] | int | None, BeforeValidator(_which_model)] = None
    """Which model maps: the latest, the champion, or a version of the registered model; when not given the champion
    where there is a section retraining, else the latest."""
    tile_size: int = Field(1024, ge=64, le=8192)
    """Edge of a tile in pixels: the unit of resume and distribution."""
    overlap: float = Field(0.25, ge=0, le=0.75)
    """Share of a window that it has in common with its neighbour."""
    min_area: float = Field(0.0, ge=0)
    """Minimum mapping unit of the polygons in square metres; smaller patches join their largest neighbour."""
    simplify: float = Field(0.0, ge=0)
    """Stairs of pixels in the polygons' outlines are taken out up to this size in metres; 0 keeps pixel edges."""
    events: list[str] = Field(default_factory=list)
    """Classes whose patches are told as points and boxes too (events.geojson, events.gpkg)."""
    conformal: ConformalConfig | None = None
    """sets.tif beside the map; none by default."""


class ProjectConfig(Section):
    """All of project.yaml."""

    name: Name
    task: TaskConfig
    """What is predicted and mapped."""
    labels: LabelsConfig
    auxiliary: list[AuxiliaryConfig] = Field(default_factory=list)
    """Further tasks with labels of their own, trained along on the same encoder; judged, not mapped."""
    imagery: ImageryConfig
    dataset: DatasetConfig
    model: ModelConfig
    training: TrainingConfig
    map: MapConfig
    retraining: RetrainingConfig | None = None
    deployment: DeploymentConfig = DeploymentConfig()
    notifications: NotificationsConfig | None = None
    monitoring: MonitoringConfig = MonitoringConfig()

    @model_validator(mode="after")
    def _fits_together(self) -> ProjectConfig:
        window = self.model.window_size
        if self.map.tile_size < window:
            raise ValueError(f"map.tile_size {self.map.tile_size} is smaller than model.window_size {window}")
        if self.map.conformal and self.task.kind == "regression":
            raise ValueError("map.conformal is for maps of classes, but task.kind is regression; remove map.conformal")
        for name in self.map.events:
            if name not in self.task.class_names:
                allowed = ", ".join(self.task.class_names) or "none, as task.kind is regression"
                raise ValueError(f"map.events names '{name}', which is no class of the task; these are {allowed}")
        if self.retraining is not None:
            check_gates(self.retraining.gates, self.task.kind)
        labels_fit(self.task, self.labels)
        for k, more in enumerate(self.auxiliary):
            labels_fit(more.task, more.labels, f"auxiliary.{k}.")
            if more.task.name in [self.task.name, *(earlier.task.name for earlier in self.auxiliary[:k])]:
                raise ValueError(
                    f"auxiliary.{k}.task.name: '{more.task.name}' names a task already; give each its own "
                    "('main' stands for one without a name)"
                )
        return self

    @property
    def tasks(self) -> dict[str, TaskConfig]:
        """Name -> task: the one that is mapped, then the auxiliary ones."""
        return {task.name: task for task in (self.task, *(more.task for more in self.auxiliary))}

    @property
    def maps_with(self) -> str:
        """Which model maps: "latest", or an alias or version of the registered model."""
        return str(self.map.model or ("champion" if self.retraining else "latest"))

    @property
    def value_map(self) -> ValueMap:
        """Which value of the label files means which class."""
        return self.labels.value_map(self.task)


@dataclass(frozen=True)
class Project:
    """A project folder and its validated settings."""

    root: Path
    """Absolute path of the folder."""
    config: ProjectConfig
    pinned: Mapping[str, Path] = field(default_factory=dict)
    """Stage -> folder of outputs that the stages after it read in place of the newest: the model that maps, where it is
    not the latest. Nothing of project.yaml; who opens the project for a stage decides (flows/champion.py)."""
    start: Path | None = None
    """Folder of the trained model that fine-tuning goes on from, in place of the base encoder."""

    def view(self, task: str) -> Project:
        """The same project with the task of that name, and its labels, in the place of the main ones."""
        config = self.config
        if task == config.task.name:
            return self
        [more] = [more for more in config.auxiliary if more.task.name == task]
        return replace(self, config=config.model_copy(update={"task": more.task, "labels": more.labels}))

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
    except UnicodeEncodeError as error:
        raise ProjectError(f"{source}: holds half a character (\\ud800 to \\udfff); write the whole one.") from error
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
