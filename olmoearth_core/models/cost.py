"""What an encoder costs: tokens and multiply-accumulates by arithmetic, windows per second by a short measurement.

A token passes 12 D^2 weights in each of L blocks and meets every other token of its window twice (scores, and the sum
over them): L (12 D^2 N + 2 N^2 D), plus the patch embedding. `estimate` puts it together for `olmoearth estimate`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from olmoearth_core.errors import EncoderInputError
from olmoearth_core.grid import window_stride
from olmoearth_core.models.catalogue import named
from olmoearth_core.models.family import EncoderConfig
from olmoearth_core.models.modalities import MODALITIES
from olmoearth_core.project import Project

if TYPE_CHECKING:
    from olmoearth_core.models.card import TaskCard


@dataclass(frozen=True)
class Workload:
    """One window of a map, and how windows lie."""

    window_size: int = 64
    """Pixels per edge."""
    patch_size: int = 4
    timesteps: int = 12
    """Those that are present; missing ones cost nothing."""
    modalities: tuple[str, ...] = ("sentinel2_l2a",)
    resolution: float = 10.0
    """Metres per pixel."""
    overlap: float = 0.0
    """Share of a window's edge that it has in common with its neighbour."""

    def __post_init__(self) -> None:
        if unknown := [m for m in self.modalities if m not in MODALITIES]:
            raise EncoderInputError(f"'{unknown[0]}' is no modality; known are {', '.join(MODALITIES)}")
        if not 1 <= self.patch_size <= 8 or self.window_size % self.patch_size or self.timesteps < 1:
            raise EncoderInputError(
                f"window_size {self.window_size}, patch_size {self.patch_size}, timesteps {self.timesteps}: patches of "
                "1 to 8 pixels must divide the window, and there must be a timestep"
            )
        if not (self.window_size > 0 and 0 < self.resolution < math.inf and 0 <= self.overlap < 1):
            raise EncoderInputError(
                f"window_size {self.window_size}, resolution {self.resolution}, overlap {self.overlap}: a window has "
                "pixels, a pixel has metres, and windows share less than all of themselves"
            )

    @property
    def stride(self) -> int:
        """Pixels from window to window: whole patches, as mapping lays them."""
        return window_stride(self.window_size, self.patch_size, self.overlap)

    @property
    def windows_per_km2(self) -> float:
        """How many windows a square kilometre of a large map takes."""
        return 1e6 / (self.stride * self.resolution) ** 2

    @property
    def patches(self) -> int:
        """Patches of a window."""
        return (self.window_size // self.patch_size) ** 2


def workload_of(project: Project) -> Workload:
    """The windows that mapping `project` would run."""
    config = project.config
    return Workload(
        window_size=config.model.window_size,
        patch_size=config.model.patch_size,
        timesteps=len(config.imagery.framing.spans(config.map.date)),
        modalities=tuple(config.imagery.modalities),
        resolution=config.imagery.resolution,
        overlap=config.map.overlap,
    )


def tokens(config: EncoderConfig, work: Workload) -> int:
    """Tokens of one window.

    Raises:
        EncoderInputError: a modality that the encoder does not read.
    """
    config.check_reads(work.modalities)
    return config.tokens(work)


def macs(config: EncoderConfig, work: Workload, *, locations: bool = False) -> int:
    """Multiply-accumulates of one window; with `locations`, also v1.3's location tokens.

    Raises:
        EncoderInputError: a modality that the encoder does not read.
    """
    total = config.embedding_macs(work) + config.transformer_macs(tokens(config, work))
    return total + config.location_macs(work) if locations else total


@dataclass(frozen=True)
class Speed:
    """Windows per second of one encoder on this device."""

    windows_per_second: float
    measured: bool
    """False where it follows from the MACs of a measured encoder."""
    device: str
    precision: str
    threads: int


@dataclass(frozen=True)
class Estimate:
    """One encoder's row."""

    name: str
    tokens: int
    """Per window."""
    macs: int
    """Per window."""
    work: Workload
    speed: Speed | None = None
    windows: float | None = None
    """To compute."""
    price_per_hour: float | None = None

    @property
    def tokens_per_km2(self) -> float:
        """Tokens of a square kilometre."""
        return self.tokens * self.work.windows_per_km2

    @property
    def macs_per_km2(self) -> float:
        """Multiply-accumulates of a square kilometre."""
        return self.macs * self.work.windows_per_km2

    @property
    def hours(self) -> float | None:
        """Hours of this device for all windows: the model alone; reading and writing go on beside it."""
        if self.speed is None or self.windows is None:
            return None
        return self.windows / self.speed.windows_per_second / 3600

    @property
    def money(self) -> float | None:
        """What those hours cost, in the currency of the price."""
        return None if self.hours is None or self.price_per_hour is None else self.hours * self.price_per_hour


def estimate(
    names: Iterable[str],
    work: Workload,
    *,
    windows: float | None = None,
    price_per_hour: float | None = None,
    calibrate: bool = False,
    seconds: float = 1.0,
    at_once: int | None = None,
    task: TaskCard | None = None,
) -> list[Estimate]:
    """Estimate every encoder of `names`, cheapest first, for so many `windows`.

    With `calibrate`, speed is measured on this device: each encoder for about `seconds`, until one window would take
    longer than ten times that; the speed of larger ones then follows from their MACs. `at_once` and `task` are as for
    `measure`.

    Raises:
        CheckpointError: a name is not in the catalogue.
        EncoderInputError: an encoder does not read a modality of `work`.
    """
    rows = [
        Estimate(name, tokens(named(name), work), macs(named(name), work), work, None, windows, price_per_hour)
        for name in names
    ]
    rows.sort(key=lambda row: row.macs)
    if not calibrate:
        return rows
    done: list[Estimate] = []
    last: Estimate | None = None
    for row in rows:
        if last is not None and last.speed is not None:
            scaled = last.speed.windows_per_second * last.macs / row.macs
            if 1 / scaled > 10 * seconds:
                done.append(replace(row, speed=replace(last.speed, windows_per_second=scaled, measured=False)))
                continue
        last = replace(row, speed=measure(row.name, work, seconds=seconds, at_once=at_once, task=task))
        done.append(last)
    return done


def measure(
    name: str,
    work: Workload,
    *,
    seconds: float = 1.0,
    precision: str = "auto",
    device: str = "auto",
    at_once: int | None = None,
    task: TaskCard | None = None,
) -> Speed:
    """Measure the windows per second of `name` (random weights: speed does not depend on them).

    Args:
        name: of the encoder.
        work: what a window is.
        seconds: about so long.
        precision, device: as for `load_encoder`.
        at_once: windows that go through together, as a plan says; as many as keep the device busy when not given.
        task: whose head answers; the encoder alone when not given.
    """
    import time

    import numpy as np
    import torch

    from olmoearth_core.models import build_encoder
    from olmoearth_core.models.precision import apply_precision, resolve_device, resolve_precision
    from olmoearth_core.models.predictor import Predictor

    place = resolve_device(device)
    chosen = resolve_precision(precision, place)
    batch = at_once or max(1, (4096 if place.type == "cpu" else 65536) // tokens(named(name), work))
    shape = (batch, work.timesteps, work.window_size, work.window_size)
    bands = {m: MODALITIES[m].band_names for m in work.modalities}
    inputs = {m: np.full((*shape[:2], len(names), *shape[2:]), 1000, np.uint16) for m, names in bands.items()}
    valid = {m: np.ones(shape, bool) for m in bands}
    dates = np.broadcast_to(np.datetime64("2024-01-15") + 30 * np.arange(work.timesteps), shape[:2])
    tasks = [task] if task else []
    sizes = {"timesteps": work.timesteps, "patch_size": work.patch_size, "resolution": work.resolution}
    model = Predictor(apply_precision(build_encoder(name), chosen), tasks, bands=bands, **sizes).to(place).eval()  # type: ignore[arg-type]

    def once() -> float:
        start = time.perf_counter()
        with torch.inference_mode():
            seen = model.look(inputs, dates, valid)
            answers = model.answer(seen)
            (task.probabilities(answers[task.name]) if task else seen.features).cpu()
        return time.perf_counter() - start

    times = [once()]  # the first call also warms up, and counts only when it is the only one
    while sum(times) < seconds:
        times.append(once())
    best = sorted(times[1:] or times)[len(times[1:] or times) // 2]
    return Speed(batch / best, True, str(place), chosen, torch.get_num_threads())


def table(rows: Sequence[Estimate]) -> tuple[list[str], list[list[str]]]:
    """Header and rows, as text, for `olmoearth estimate`; columns that nobody asked for are left out."""
    header = ["encoder", "tokens/window", "GMAC/window", "tokens/km²", "GMAC/km²"]
    body = [
        [r.name, f"{r.tokens:,}", figures(r.macs / 1e9), figures(r.tokens_per_km2), figures(r.macs_per_km2 / 1e9)]
        for r in rows
    ]
    if any(r.speed for r in rows):
        header.append("windows/s")
        for r, line in zip(rows, body, strict=True):
            about = "" if r.speed is None or r.speed.measured else "~"
            line.append("" if r.speed is None else about + figures(r.speed.windows_per_second))
    for name, values in (("hours", [r.hours for r in rows]), ("cost", [r.money for r in rows])):
        if any(v is not None for v in values):
            header.append(name)
            for v, line in zip(values, body, strict=True):
                line.append("" if v is None else figures(v))
    return header, body


def figures(value: float) -> str:
    """Three significant figures, with thousands separators and no exponent."""
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"
