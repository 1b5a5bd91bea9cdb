"""The sections task, labels and auxiliary of project.yaml: what is predicted, and what is known about it."""

from __future__ import annotations

import itertools
import math
import re
import unicodedata
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)

from olmoearth_core.labels.values import UNMAPPED, Value, ValueMap, as_list
from olmoearth_core.section import Date, Name, Section, distinct

STRATA = 5
"""Parts of a regression's range."""
MAX_CLASSES = 250
"""Classes are uint8 in targets and maps; 251 to 255 are kept for nodata and the ignore index."""


def _color(value: str) -> str:
    if not re.fullmatch(r"#[0-9a-fA-F]{6}", value):
        raise ValueError(f"'{value}' is no colour; allowed is #rrggbb, for example '#2c7fb8'")
    return value.lower()


def _one_line(value: str) -> str:
    if any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in value):
        raise ValueError(f"{value!r} holds a line break or another control character; write it on one line")
    return value


class ClassConfig(Section):
    """One class of the map."""

    name: Annotated[
        str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100), AfterValidator(_one_line)
    ]
    color: Annotated[str, AfterValidator(_color)]


LARGEST, SMALLEST, FINEST = 1e15, 1e-15, 1e-4
"""Largest value, narrowest range, and narrowest range as a share of its larger end, of a regression: models compute in
float32, which squares up to 1e19 and tells seven digits apart."""


def possible_range(low: float, high: float) -> tuple[float, float]:
    """The ends of a regression's range, where a model can tell the values between them apart.

    Raises:
        ValueError: says what is allowed.
    """
    try:
        low, high = float(low), float(high)
    except OverflowError:
        raise ValueError(
            f"expected numbers from {-LARGEST:g} to {LARGEST:g}, found one of hundreds of digits"
        ) from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"expected two numbers of which the first is the smaller, found [{low:g}, {high:g}]")
    size = max(abs(low), abs(high))
    if size > LARGEST or high - low < max(SMALLEST, FINEST * size):
        raise ValueError(
            f"expected numbers from {-LARGEST:g} to {LARGEST:g} that are {SMALLEST:g} or more, and a ten-thousandth of "
            f"the larger one, apart (models compute with seven digits), found [{low!r}, {high!r}]; choose another unit"
        )
    return low, high


def _ends(value: Any) -> tuple[float, float] | None:
    if value is None:
        return None
    numbers = list(value) if isinstance(value, list | tuple) else []
    if len(numbers) != 2 or any(isinstance(n, bool) or not isinstance(n, int | float) for n in numbers):
        raise ValueError(f"expected the least and the largest value that is possible, as in [0, 100], found {value!r}")
    return possible_range(*numbers)


class TaskConfig(Section):
    """What is predicted."""

    name: Name = "main"
    kind: Literal["segmentation", "classification", "regression"] = "segmentation"
    """A class for each pixel, a class for the window around a label, or a measured value for each pixel."""
    classes: list[ClassConfig] = Field(default_factory=list, max_length=MAX_CLASSES, validate_default=True)
    unit: Annotated[str, StringConstraints(strip_whitespace=True, max_length=30), AfterValidator(_one_line)] = ""
    """kind regression: what the values are in ("%", "t/ha")."""
    range: Annotated[tuple[float, float] | None, BeforeValidator(_ends)] = None
    """kind regression: the least and the largest value that is possible."""

    @field_validator("classes")
    @classmethod
    def _as_many_as_needed(cls, classes: list[ClassConfig], info: ValidationInfo) -> list[ClassConfig]:
        kind = info.data.get("kind")
        if kind == "regression" and classes:
            raise ValueError("a regression has no classes; say what values are possible with task.range")
        if kind not in (None, "regression") and len(classes) < 2:
            raise ValueError(f"needs 2 or more, found {len(classes)}")
        return classes

    @model_validator(mode="after")
    def _keys_of_its_kind(self) -> TaskConfig:
        if self.kind == "regression" and self.range is None:
            raise ValueError("a regression needs range, the least and the largest value that is possible: [0, 100]")
        if self.kind != "regression" and (strange := [key for key in ("unit", "range") if getattr(self, key)]):
            raise ValueError(f"{', '.join(strange)} means nothing to kind '{self.kind}'; it takes classes")
        return self

    @model_validator(mode="after")
    def _names_differ(self) -> TaskConfig:
        names = self.class_names
        if doubled := sorted({n for n in names if names.count(n) > 1}):
            raise ValueError(f"class names must differ; {', '.join(doubled)} stands more than once")
        return self

    @property
    def class_names(self) -> list[str]:
        """Class names; a class's index here is its value in targets and maps. None for a regression."""
        return [c.name for c in self.classes]

    @property
    def strata(self) -> list[str]:
        """What is counted, sampled and dealt alike: classes, or the parts of equal width of a regression's range."""
        if self.range is None:
            return self.class_names
        edges = np.linspace(*self.range, STRATA + 1)
        return [f"{low:.10g}..{high:.10g}" for low, high in itertools.pairwise(edges)]

    def strata_of(self, values: np.ndarray) -> np.ndarray:
        """Position in `strata` of each value of a regression.

        Args:
            values: of any shape, in the task's unit.

        Returns:
            The shape of `values`, int16; UNMAPPED where a value is outside the range or none. Where two strata meet,
            the upper one has the value.
        """
        assert self.range is not None, "only a regression has values"
        low, high = self.range
        with np.errstate(invalid="ignore"):
            inside = (values >= low) & (values <= high)
            part = np.floor((np.where(inside, values, low) - low) * (STRATA / (high - low)))
        return np.where(inside, np.minimum(part, STRATA - 1), UNMAPPED).astype(np.int16)


class SamplingConfig(Section):
    """Which of the labelled windows are used, where there are more than are wanted (labels/sampling.py)."""

    max_per_class: int | None = Field(None, ge=1)
    """Windows kept for each class; a window with several classes counts for the rarest of them."""
    max_windows: int | None = Field(None, ge=1)
    """Windows kept in all, each class in turn giving one."""
    near: float | None = Field(None, gt=0)
    """Metres. Of a class's windows, those that hold or lie this near to another class are kept first: the hard ones."""
    seed: int = Field(0, ge=0)


class LabelsConfig(Section):
    """Where the labels are and how to read them."""

    files: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1), AfterValidator(distinct)]
    """Vector files, CSV tables and GeoTIFFs, relative to the project folder."""
    crs: str | None = None
    """CRS of the coordinates in CSV tables; longitude and latitude (EPSG:4326) when not given."""
    class_property: str = "class"
    value_property: str = "value"
    """kind regression: property with the measured value; rasters hold it in band 1."""
    classes: dict[str, Annotated[list[Value], BeforeValidator(as_list)]] = Field(default_factory=dict)
    """Class -> the values of property or raster that mean it, where they are not the class's own name: one or a list
    of words, numbers and ranges ("0-30" or "0..30", both ends in it; "30.." has no end)."""
    unmapped: Literal["error", "ignore"] = "error"
    """What becomes of a value that means no class, or is outside task.range: refused, or not labelled."""
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

    def value_map(self, task: TaskConfig) -> ValueMap:
        """Which value of the files means which class of `task`; empty for a regression.

        Raises:
            ValueError: one value means two classes.
        """
        return ValueMap.of(task.class_names, self.classes)


class AuxiliaryConfig(Section):
    """A further task, trained along with the main one."""

    task: TaskConfig
    labels: LabelsConfig
    weight: float = Field(1.0, gt=0, le=100)
    """Of its loss, where the main task's is 1."""


def labels_fit(task: TaskConfig, labels: LabelsConfig, where: str = "") -> None:
    """Check that labels are said in the words of their task.

    Args:
        where: what stands before both keys: "" or "auxiliary.0.".

    Raises:
        ValueError: names the key that means nothing to the task, or another value than it needs.
    """
    if task.kind == "regression":
        if labels.classes or labels.class_property != "class":
            key = "classes" if labels.classes else "class_property"
            raise ValueError(
                f"{where}labels.{key} means nothing to a regression; it reads {where}labels.value_property, and band 1 "
                "of rasters"
            )
        return
    if labels.value_property != "value":
        raise ValueError(
            f"{where}labels.value_property means nothing to a {task.kind}; it reads {where}labels.class_property"
        )
    if task.kind == "classification" and labels.windows != "centred":
        raise ValueError(
            f"{where}labels.windows: a classification needs windows around its labels; write 'centred', "
            f"found '{labels.windows}'"
        )
    if strange := sorted(labels.classes.keys() - set(task.class_names)):
        raise ValueError(f"{where}labels.classes names {', '.join(strange)}, which is not in {where}task.classes")
    try:
        labels.value_map(task)
    except ValueError as error:
        raise ValueError(f"{where}labels.classes: {error}") from None
