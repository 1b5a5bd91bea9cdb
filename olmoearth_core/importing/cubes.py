"""NetCDF and Zarr cubes: variables over time, y and x, opened through xarray and read a few dates at a time."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from olmoearth_core.errors import SourceError
from olmoearth_core.imagery.sampling import SourceGrid
from olmoearth_core.importing.bands import LEFT_OUT, ignored
from olmoearth_core.importing.source import (
    Found,
    Layer,
    Options,
    SourceScene,
    crs_text,
    moment_text,
    same_place,
    unique_id,
)
from olmoearth_core.importing.tiffs import known_band
from olmoearth_core.importing.values import Encoding
from olmoearth_core.section import FIRST_YEAR, LAST_YEAR

NETCDF = (".nc", ".nc4", ".cdf", ".h5", ".hdf5")
_TIME = ("time", "t", "date", "datetime")
_Y = ("y", "lat", "latitude", "northing")
_X = ("x", "lon", "longitude", "easting")
_BAND = ("band", "bands", "channel", "variable")
_BLOCK_BYTES = 64 * 2**20
"""Memory for the dates of one variable that are read at once."""
_UNEVEN = 0.01
"""Of a pixel: how far a coordinate may lie from where even spacing puts it (coordinates in 32 bits are not exact)."""


def is_cube(path: Path) -> bool:
    """Whether a path is a NetCDF file or a Zarr store."""
    if path.is_dir():
        return any((path / name).is_file() for name in ("zarr.json", ".zgroup", ".zmetadata"))
    return path.suffix.lower() in NETCDF


def read_cubes(paths: Sequence[Path], options: Options, stack: ExitStack) -> Found:
    """A scene for each place and time of the cubes.

    Cubes over the same ground (to half a pixel) are one place: their variables of one time make one scene, of a band
    that is there at two resolutions the finer. Coordinates are pixel centres; y may ascend.

    Args:
        paths: NetCDF files and Zarr stores.
        stack: closes them; layers can be read until then.

    Raises:
        SourceError: a file cannot be opened, or lacks CRS, time, even spacing; a band is unknown or there twice.
    """
    slices: list[_Slice] = []
    for path in paths:
        slices += _slices(path, options, stack)
    places: list[tuple[SourceGrid, list[_Slice]]] = []
    for piece in slices:
        home = next((members for grid, members in places if same_place(grid, piece.layer.grid)), None)
        if home is None:
            places.append((piece.layer.grid, home := []))
        home.append(piece)
    scenes: list[SourceScene] = []
    taken: set[str] = set()
    for _, members in places:
        name = _place_name(members)
        moments: dict[datetime, dict[str, Layer]] = {}
        for piece in members:
            _add(moments.setdefault(piece.moment, {}), piece)
        for moment, layers in sorted(moments.items()):
            name_of_scene = unique_id(f"{name}_{moment_text(moment)}", taken)
            scenes.append(SourceScene(name_of_scene, moment, dict(sorted(layers.items()))))
    return Found("cubes", scenes, list(paths))


@dataclass(frozen=True)
class _Slice:
    """One band at one time."""

    path: Path
    band: str
    moment: datetime
    layer: Layer


@dataclass
class _Variable:
    """The pixels of one band over time; holds the last few dates that it read."""

    data: Any
    """xarray.DataArray (time, y, x), not yet read."""
    name: str
    flip_y: bool
    flip_x: bool
    _start: int = 0
    _block: NDArray[Any] = field(default_factory=lambda: np.empty((0, 0, 0)))

    def read(self, time: int) -> NDArray[Any]:
        """(H, W), north up, west left."""
        if not self._start <= time < self._start + len(self._block):
            count, height, width = self.data.shape
            length = max(1, _BLOCK_BYTES // (height * width * self.data.dtype.itemsize))
            self._start = time - time % length
            try:
                block = self.data[self._start : min(self._start + length, count)].to_numpy()
            except (OSError, ValueError, RuntimeError) as error:
                raise SourceError(f"{self.name}: cannot be read to the end ({error})") from error
            self._block = block[:, :: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1]
        picture: NDArray[Any] = self._block[time - self._start]
        return picture


def _slices(path: Path, options: Options, stack: ExitStack) -> list[_Slice]:
    dataset = stack.enter_context(_open(path))
    found: list[_Slice] = []
    for name, data in _bands(path, dataset, options):
        where = f"{path.name} {data.name}"
        x_name, y_name, time_name = (_dimension(data, names) for names in (_X, _Y, _TIME))
        if x_name is None or y_name is None:
            continue
        moments = _moments(data, time_name, where, options)
        if time_name is None:
            data, time_name = data.expand_dims("time"), "time"
        x, flip_x = _axis(data, x_name, where, ascending=True)
        y, flip_y = _axis(data, y_name, where, ascending=False)
        grid = SourceGrid(
            crs=_crs(path, dataset, data, (x_name, y_name), options),
            transform=(x[1], 0.0, x[0] - x[1] / 2, 0.0, y[1], y[0] - y[1] / 2),
            width=data.sizes[x_name],
            height=data.sizes[y_name],
        )
        variable = _Variable(data.transpose(time_name, y_name, x_name), where, flip_y, flip_x)
        encoding = _encoding(data, options)
        for time, moment in enumerate(moments):
            label = f"{where} {moment_text(moment)}"
            found.append(_Slice(path, name, moment, Layer(label, grid, encoding, partial(variable.read, time))))
    if not found:
        names = ", ".join(map(str, dataset.data_vars)) or "none"
        raise SourceError(
            f"{path}: holds no variable over y and x to import; its variables are: {names}. "
            f"Allowed names of the axes are {', '.join((*_Y, *_X))}."
        )
    return found


def _open(path: Path) -> Any:
    import xarray

    engine = "zarr" if path.is_dir() else "h5netcdf"
    extra = {"consolidated": False} if path.is_dir() else {}
    try:
        return xarray.open_dataset(path, engine=engine, mask_and_scale=False, **extra)
    except Exception as error:  # each engine raises its own
        said = " ".join(str(error).split())[:160]
        hint = "" if path.is_dir() else " NetCDF of version 3 is read after `nccopy -k nc4 old.nc new.nc`."
        raise SourceError(
            f"{path}: cannot be opened as {'Zarr' if path.is_dir() else 'NetCDF 4'} ({said}).{hint}"
        ) from error


def _bands(path: Path, dataset: Any, options: Options) -> list[tuple[str, Any]]:
    """(official name, data) of every variable with y and x; one with a band axis is taken apart."""
    found = []
    for key, data in dataset.data_vars.items():
        has_place = _dimension(data, _X) is not None and _dimension(data, _Y) is not None
        if not has_place or ignored(str(key), options.ignore):
            continue
        others = [d for d in data.dims if str(d).lower() not in (*_X, *_Y, *_TIME)]
        if not others:
            found.append((known_band(str(key), str(path)), data))
            continue
        if len(others) > 1 or str(others[0]).lower() not in _BAND:
            raise SourceError(
                f"{path}: {key} has the axes {', '.join(map(str, data.dims))}; allowed are time, y, x and band. "
                f"Leave it out with --ignore {key}."
            )
        axis = others[0]
        names = options.bands or _band_names(data, axis)
        if len(names) != data.sizes[axis]:
            raise SourceError(f"{path}: {key} has {data.sizes[axis]} bands, --bands names {len(names)}")
        for position, name in enumerate(names):
            if name != LEFT_OUT and not ignored(name, options.ignore):
                found.append((known_band(name, f"{path}: {key}"), data.isel({axis: position})))
    names_found = [name for name, _ in found]
    if twice := sorted({name for name in names_found if names_found.count(name) > 1}):
        raise SourceError(f"{path}: has the band {', '.join(twice)} twice; leave one out with --ignore")
    return found


def _band_names(data: Any, axis: Any) -> Sequence[str]:
    if axis in data.coords and data[axis].dtype.kind in "UOST":
        return [str(name) for name in data[axis].to_numpy()]
    raise SourceError(
        f"{data.name}: its axis {axis} does not name the {data.sizes[axis]} bands. "
        "Give them in order, for example --bands B02,B03,B04,B08 ('-' leaves one out)."
    )


def _dimension(data: Any, names: Sequence[str]) -> Any:
    return next((dim for dim in data.dims if str(dim).lower() in names), None)


def _moments(data: Any, time_name: Any, where: str, options: Options) -> list[datetime]:
    coordinate = data.coords.get(time_name) if time_name is not None else None
    if time_name is None:  # one picture: its time may stand beside it
        coordinate = next((data.coords[name] for name in data.coords if str(name).lower() in _TIME), None)
        if coordinate is None and options.date is not None:
            return [options.date]
    if coordinate is None:
        raise SourceError(
            f"{where}: has no time coordinate (axes {', '.join(map(str, data.dims))}), so that nobody knows when its "
            "pictures were taken. Add one, or give --date YYYY-MM-DD for a single picture."
        )
    values = np.atleast_1d(coordinate.to_numpy())
    if values.dtype.kind != "M":
        raise SourceError(
            f"{where}: the times are {values.dtype} ({values[0]}), not dates; its time needs units like "
            "'days since 2015-01-01' and the standard calendar"
        )
    if np.isnat(values).any():
        raise SourceError(f"{where}: {int(np.isnat(values).sum())} of {len(values)} times are missing")
    unique, counts = np.unique(values, return_counts=True)
    if (counts > 1).any():
        raise SourceError(
            f"{where}: the time {str(unique[counts > 1][0])[:19]} stands {counts.max()} times; "
            "keep one picture of each time (in xarray: drop_duplicates('time'))"
        )
    moments = [datetime.fromtimestamp(int(s), UTC) for s in values.astype("datetime64[s]").astype(np.int64)]
    if not all(FIRST_YEAR <= moment.year <= LAST_YEAR for moment in moments):
        raise SourceError(f"{where}: its times reach from {min(moments):%Y-%m-%d} to {max(moments):%Y-%m-%d}")
    return moments


def _axis(data: Any, name: Any, where: str, *, ascending: bool) -> tuple[tuple[float, float], bool]:
    """((first centre, step) in the wanted direction, whether the pixels have to be turned)."""
    if name not in data.coords:
        raise SourceError(f"{where}: has no coordinate {name}, so that nobody knows where its pixels lie")
    centres = data[name].to_numpy().astype(np.float64)
    if len(centres) < 2 or not np.isfinite(centres).all():
        raise SourceError(f"{where}: the coordinate {name} needs at least two finite values, it has {len(centres)}")
    step = (centres[-1] - centres[0]) / (len(centres) - 1)
    even = centres[0] + step * np.arange(len(centres))
    if step == 0 or np.abs(centres - even).max() > _UNEVEN * abs(step):
        raise SourceError(
            f"{where}: the coordinate {name} is not evenly spaced (steps of {np.diff(centres).min():.6g} to "
            f"{np.diff(centres).max():.6g}). Resample it to a regular grid first (in xarray: interp)."
        )
    turn = (step > 0) != ascending
    # twelve digits: what a step loses by subtracting large coordinates is not a size of pixels
    return (float(centres[-1 if turn else 0]), float(f"{-step if turn else step:.12g}")), turn


def _crs(path: Path, dataset: Any, data: Any, axes: tuple[Any, Any], options: Options) -> str:
    """From the variable that grid_mapping names, else one called spatial_ref or crs, else the attributes."""
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    named = data.attrs.get("grid_mapping") or data.encoding.get("grid_mapping") or ""
    holders = [dataset[key] for key in (str(named).split(":")[0], "spatial_ref", "crs") if key in dataset.variables]
    for attributes in (*(holder.attrs for holder in holders), data.attrs, dataset.attrs):
        for key in ("crs_wkt", "spatial_ref", "proj:code", "proj:epsg", "crs", "epsg_code", "epsg"):
            if attributes.get(key) is not None and str(attributes[key]):
                text = str(attributes[key])
                return crs_text(int(text) if text.isdigit() else text, str(path))
        if "grid_mapping_name" in attributes:
            try:
                return crs_text(CRS.from_cf(dict(attributes)), str(path))
            except (CRSError, KeyError) as error:
                raise SourceError(f"{path}: its grid mapping cannot be understood ({error})") from error
    if options.crs is not None:
        return crs_text(options.crs, "--crs")
    if all(str(data[axis].attrs.get("units", "")).startswith("degrees") for axis in axes):
        return "EPSG:4326"
    raise SourceError(f"{path}: states no CRS (no spatial_ref, no grid mapping). Give it with --crs EPSG:<code>.")


def _encoding(data: Any, options: Options) -> Encoding:
    said = {**data.encoding, **data.attrs}
    nodata = next((float(said[key]) for key in ("_FillValue", "missing_value") if said.get(key) is not None), None)
    scale, offset = (None if said.get(key) is None else float(said[key]) for key in ("scale_factor", "add_offset"))
    return options.encoding(scale, offset, nodata)


def _add(layers: dict[str, Layer], piece: _Slice) -> None:
    """Put one band into a scene; of two resolutions the finer stays."""
    there = layers.get(piece.band)
    if there is None or piece.layer.grid.resolution < there.grid.resolution * 0.99:
        layers[piece.band] = piece.layer
    elif piece.layer.grid.resolution < there.grid.resolution * 1.01:
        raise SourceError(
            f"{piece.path}: {piece.layer.name} is there already, as {there.name}. Leave one of the files out."
        )


def _place_name(members: Sequence[_Slice]) -> str:
    """What the names of its files begin with."""
    stems = sorted({piece.path.stem for piece in members})
    same = takewhile(lambda letters: len(set(letters)) == 1, zip(*stems, strict=False))
    return "".join(letters[0] for letters in same).rstrip("_-. 0123456789") if len(stems) > 1 else stems[0]
