"""What the caller hands to `encode`, checked before any compute is spent, and where its tokens lie.

`check` turns arrays into a `Batch`; `Layout` says which tokens exist and in which order they are packed. Both know
nothing about weights, so every encoder can use them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from olmoearth_core.errors import EncoderInputError
from olmoearth_core.models.modalities import MISSING, MODALITIES

UNSIGNED = (torch.uint8, torch.uint16, torch.uint32)
NUMBERS = (
    *UNSIGNED, torch.int8, torch.int16, torch.int32, torch.int64,
    torch.float16, torch.bfloat16, torch.float32, torch.float64,
)  # fmt: skip
"""What values may come as."""
LARGEST = 1e9
"""No sensor measures that; it is a fill value."""

Booleans = NDArray[np.bool_]


@dataclass(frozen=True)
class Batch:
    """Checked input of B samples: T timesteps, H x W pixels."""

    data: dict[str, Tensor]
    """(B, T, C, H, W) physical values by modality, in the order of `MODALITIES`, bands as in `bands`."""
    bands: dict[str, tuple[str, ...]]
    valid: dict[str, Booleans]
    """(B, T, H, W) or, where whole timesteps are present or missing, (B, T, 1, 1)."""
    dates: NDArray[np.datetime64]
    """(B, T), datetime64[D]; NaT only where nothing is valid."""
    patch_size: int
    resolution: float
    """Metres per pixel."""
    full: bool = False
    """Nothing is missing: every mask is True throughout."""
    seeds: NDArray[np.int64] | None = None
    """(B,) what is random about each sample while training; None: nothing is."""
    whole_timesteps: bool = False
    """Missing patches of a timestep that has others are computed and masked (`Encoder.encode`)."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(B, T, H, W)."""
        b, t, _, h, w = next(iter(self.data.values())).shape
        return b, t, h, w

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        _, _, h, w = self.shape
        return h // self.patch_size, w // self.patch_size

    def present(self, modality: str, band_sets: int = 1) -> Booleans:
        """(B, T, rows, columns, band sets): a patch is present where its top-left pixel is valid, as in pretraining.

        All band sets of a modality share it.
        """
        b, t, _, _ = self.shape
        p = self.patch_size
        shape = (b, t, *self.grid, band_sets)
        if self.full:
            return np.ones(shape, dtype=bool)
        return np.array(np.broadcast_to(self.valid[modality][:, :, ::p, ::p, None], shape))


@dataclass(frozen=True)
class Layout:
    """Where the present tokens of a batch stand among all of them and in the packed sequence.

    Dense order is by modality, sample, timestep, row, column, band set. Packed order is by sample, samples of equal
    length next to each other.
    """

    present: dict[str, Booleans]
    """(B, T, rows, columns, G) by modality."""
    full: bool = False
    """Nothing is missing."""

    @cached_property
    def whole_timesteps(self) -> Layout:
        """The same with all patches of a timestep that has any; itself where nothing is missing."""
        if self.full:
            return self
        whole = {
            m: np.array(np.broadcast_to(p.any(axis=(2, 3, 4), keepdims=True), p.shape)) for m, p in self.present.items()
        }
        return Layout(whole)

    @cached_property
    def flat(self) -> Booleans:
        """What is present, in dense order."""
        return np.concatenate([p.ravel() for p in self.present.values()])

    @cached_property
    def frames(self) -> dict[str, NDArray[np.intp] | None]:
        """Flat indices b * T + t of the timesteps with any token, by modality; None where that is all of them."""
        if self.full:
            return dict.fromkeys(self.present)
        used = {m: p.any(axis=(2, 3, 4)).ravel() for m, p in self.present.items()}
        return {m: None if u.all() else np.flatnonzero(u) for m, u in used.items()}

    @cached_property
    def counts(self) -> NDArray[np.intp]:
        """(B,) present tokens of each sample."""
        if self.full:
            samples = len(next(iter(self.present.values())))
            return np.full(samples, sum(p.size for p in self.present.values()) // samples)
        counts: NDArray[np.intp] = sum(p.sum(axis=(1, 2, 3, 4)) for p in self.present.values())  # type: ignore[assignment]
        return counts

    @cached_property
    def samples(self) -> NDArray[np.intp]:
        """Samples with any token, in packed order: by length, then as given."""
        order = np.argsort(self.counts, kind="stable")
        return order[self.counts[order] > 0]

    @cached_property
    def groups(self) -> tuple[tuple[int, int], ...]:
        """(samples, tokens per sample) of each run of equal length in packed order."""
        if self.full:
            return ((len(self.counts), int(self.counts[0])),)
        lengths, samples = np.unique(self.counts[self.samples], return_counts=True)
        return tuple((int(s), int(n)) for s, n in zip(samples, lengths, strict=True))

    @cached_property
    def plain(self) -> bool:
        """Dense and packed order are the same: one modality, nothing missing."""
        return len(self.present) == 1 and (self.full or all(p.all() for p in self.present.values()))

    @cached_property
    def dense(self) -> NDArray[np.intp]:
        """(M,) dense index of every packed token."""
        sample = np.concatenate(
            [np.repeat(np.arange(len(p)), p[0].size) for p in self.present.values()]  # the sample of each dense token
        )
        rank = np.empty(len(self.counts), dtype=np.intp)
        rank[np.argsort(self.counts, kind="stable")] = np.arange(len(self.counts))
        tokens = np.flatnonzero(self.flat)
        return tokens[np.argsort(rank[sample[tokens]], kind="stable")]

    @cached_property
    def embedded(self) -> NDArray[np.intp]:
        """(M,) index of every packed token among those of the timesteps in `frames`."""
        used = np.concatenate(
            [np.broadcast_to(p.any(axis=(2, 3, 4), keepdims=True), p.shape).ravel() for p in self.present.values()]
        )
        return (np.cumsum(used) - 1)[self.dense]


def check(
    inputs: Mapping[str, Any],
    dates: Any,
    valid: Mapping[str, Any] | None,
    bands: Mapping[str, Sequence[str]] | None,
    *,
    patch_size: int,
    resolution: float,
    allowed: Sequence[str],
) -> Batch:
    """Check everything that `encode` is given (see there for shapes).

    Raises:
        EncoderInputError: anything that cannot be encoded as asked; the message names the modality and the fault.
    """
    for what, given in (("inputs", inputs), ("valid", valid), ("bands", bands)):
        if not isinstance(given, Mapping) and (given is not None or what == "inputs"):
            raise EncoderInputError(f"{what} is {type(given).__name__}; expected is a dict by modality.")
    if not inputs:
        raise EncoderInputError(f"inputs is empty; give at least one of {', '.join(allowed)}.")
    for what, given in (("inputs", inputs), ("valid", valid or {}), ("bands", bands or {})):
        if unknown := [m for m in given if m not in allowed]:
            raise EncoderInputError(
                f"{what}: '{unknown[0]}' is no modality of this encoder; its are {', '.join(allowed)}."
            )
        if lonely := [m for m in given if m not in inputs]:
            raise EncoderInputError(f"{what}: '{lonely[0]}' is not among the inputs ({', '.join(inputs)}).")
    if not (isinstance(patch_size, int | np.integer) and not isinstance(patch_size, bool) and 1 <= patch_size <= 8):
        raise EncoderInputError(f"patch_size is {patch_size!r}; allowed is a whole number from 1 to 8.")
    number = isinstance(resolution, int | float | np.number) and not isinstance(resolution, bool)
    if not (number and np.isfinite(resolution) and resolution > 0):
        raise EncoderInputError(f"resolution is {resolution!r}; it is metres per pixel, above 0 (10 for Sentinel-2).")

    names = [m for m in MODALITIES if m in inputs]
    data = {m: _cube(m, inputs[m]) for m in names}
    supplied = {m: _bands(m, (bands or {}).get(m), data[m].shape[2]) for m in names}
    first = names[0]
    shape = _bthw(data[first])
    for m in names:
        if _bthw(data[m]) != shape:
            raise EncoderInputError(
                f"{m} is (B, T, H, W) = {_bthw(data[m])}, but {first} is {shape}; all modalities of a batch share "
                "samples, timesteps and pixels (mark what is missing in valid)."
            )
    b, t, h, w = shape
    if 0 in shape:
        raise EncoderInputError(f"{first} is (B, T, H, W) = {shape}; none of them may be 0.")
    if h % patch_size or w % patch_size:
        raise EncoderInputError(
            f"{h} x {w} pixels do not divide into patches of {patch_size}; crop or pad to "
            f"{h // patch_size * patch_size} x {w // patch_size * patch_size} or more, or choose another patch_size."
        )
    masks = {m: _valid(m, (valid or {}).get(m), shape) for m in names}
    full = all(mask.all() for mask in masks.values())
    batch = Batch(data, supplied, masks, _dates(dates, (b, t), masks), int(patch_size), float(resolution), full)
    if not full and not any(batch.present(m).any() for m in names):
        raise EncoderInputError(
            f"nothing is present: no patch of any of the {b} samples is valid in any timestep of {', '.join(names)}."
        )
    for m in names:
        _measured(m, data[m], masks[m])
    return batch


def _cube(modality: str, given: Any) -> Tensor:
    if isinstance(given, np.ma.MaskedArray):
        raise EncoderInputError(f"{modality} is a masked array; give its data, and what is not masked in valid.")
    try:
        cube = given if isinstance(given, Tensor) else torch.as_tensor(_plain(np.asarray(given)))
    except (TypeError, ValueError) as error:
        raise EncoderInputError(f"{modality} is no numeric array (B, T, C, H, W): {error}.") from error
    if cube.ndim != 5:
        raise EncoderInputError(f"{modality} has shape {tuple(cube.shape)}; expected are five axes (B, T, C, H, W).")
    if cube.dtype not in NUMBERS:
        raise EncoderInputError(f"{modality} holds {cube.dtype}; expected are physical values (integer or float).")
    return cube


def _plain(array: NDArray[Any]) -> NDArray[Any]:
    """The same values as torch takes them: native byte order, no negative strides, not read-only (it would warn)."""
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    return array if array.flags.writeable and min(array.strides, default=0) >= 0 else array.copy()


def _bthw(cube: Tensor) -> tuple[int, int, int, int]:
    b, t, _, h, w = cube.shape
    return b, t, h, w


def _bands(modality: str, given: Sequence[str] | None, channels: int) -> tuple[str, ...]:
    official = MODALITIES[modality].band_names
    if given is not None and (isinstance(given, str) or not isinstance(given, Sequence)):
        raise EncoderInputError(f"bands of {modality} is {given!r}; expected is a list of names.")
    names = official if given is None else tuple(given)
    if unknown := [b for b in names if b not in official]:
        raise EncoderInputError(f"{modality} has no band '{unknown[0]}'; its bands are {', '.join(official)}.")
    if not names or len(set(names)) < len(names):
        raise EncoderInputError(f"bands of {modality} are {', '.join(names) or 'none'}; name each supplied band once.")
    if len(names) != channels:
        raise EncoderInputError(
            f"{modality} has {channels} channels but {len(names)} bands ({', '.join(names)}); say in bands which are "
            "supplied."
        )
    return names


def _valid(modality: str, given: Any, shape: tuple[int, int, int, int]) -> Booleans:
    b, t, _, _ = shape
    if given is None:
        return np.ones((b, t, 1, 1), dtype=bool)
    try:
        mask = given.detach().cpu().numpy() if isinstance(given, Tensor) else np.asarray(given)
    except ValueError as error:
        raise EncoderInputError(f"valid of {modality} is no array: {error}.") from error
    if mask.dtype != np.bool_ or mask.shape not in ((b, t), shape):
        raise EncoderInputError(
            f"valid of {modality} is {mask.dtype} {mask.shape}; expected are booleans (B, T) = {(b, t)} or "
            f"(B, T, H, W) = {shape}."
        )
    return mask[:, :, None, None] if mask.ndim == 2 else mask


def _dates(given: Any, shape: tuple[int, int], valid: Mapping[str, Booleans]) -> NDArray[np.datetime64]:
    try:
        dates = np.asarray(given)
    except ValueError as error:
        raise EncoderInputError(f"dates are no array: {error}.") from error
    if dates.dtype.kind != "M":
        raise EncoderInputError(f"dates hold {dates.dtype}, not dates; expected is datetime64[D] (B, T) = {shape}.")
    if dates.shape != shape:
        raise EncoderInputError(
            f"dates have shape {dates.shape}; expected is one per sample and timestep, (B, T) = {shape}."
        )
    days = dates.astype("datetime64[D]")
    if not (unknown := np.isnat(days)).any():
        return days
    needed = np.any([v.any(axis=(2, 3)) for v in valid.values()], axis=0)
    if (lost := np.argwhere(unknown & needed)).size:
        sample, step = lost[0]
        raise EncoderInputError(f"dates are NaT at sample {sample}, timestep {step}, which has valid pixels.")
    return days


def _measured(modality: str, cube: Tensor, valid: Booleans) -> None:
    """Refuse NaN, infinity, the missing value and values beyond all measure in valid pixels."""
    if cube.dtype in UNSIGNED or cube.device.type == "meta":
        return
    low, high = torch.aminmax(cube)  # one pass, in which NaN wins: almost always there is nothing to look for
    if float(low) > MISSING and float(high) < LARGEST:
        return
    bad = ~torch.isfinite(cube) | (cube == MISSING) | (cube.abs() >= LARGEST)
    wrong = bad.cpu().numpy() & valid[:, :, None]
    if wrong.any():
        sample, step, channel, row, col = (int(i) for i in np.argwhere(wrong)[0])
        raise EncoderInputError(
            f"{modality}: {int(wrong.sum())} values in valid pixels are NaN, infinite, huge or {MISSING:.0f}, "
            f"the first at sample {sample}, timestep {step}, channel {channel}, row {row}, column {col}; "
            "mark such pixels in valid."
        )
