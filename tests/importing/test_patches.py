"""Patches with a class each."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from foreign import DAY, values, write_tiff

from olmoearth_core.errors import SourceError
from olmoearth_core.importing.labelling import patch_labels
from olmoearth_core.importing.patches import looks_like_patches, read_patches
from olmoearth_core.importing.source import Found, Options
from olmoearth_core.importing.tiffs import find_tiffs

BANDS = Options(bands=("B02", "B03"), date=DAY)


def write_patches(folder: Path, table: str | None = None) -> Path:
    for i, name in enumerate(("forest/a", "forest/b", "lake/a")):
        write_tiff(folder / f"{name}.tif", values(i, 2, 8, 8), left=500_000 + 200 * i)
    if table is not None:
        (folder / "labels.csv").write_text(table)
    return folder


def read(folder: Path, options: Options = BANDS) -> Found:
    return read_patches(folder, find_tiffs(folder, ()), options)


def test_folders_named_by_the_class(tmp_path: Path) -> None:
    folder = write_patches(tmp_path)
    assert looks_like_patches(folder, find_tiffs(folder, ()))
    found = read(folder)
    assert [(s.id, s.label, s.moment) for s in found.scenes] == [
        ("forest_a", "forest", DAY), ("b", "forest", DAY), ("lake_a", "lake", DAY),
    ]  # fmt: skip
    assert dict(patch_labels(found.scenes).counts) == {"forest": 2, "lake": 1}


def test_a_table_of_classes_and_dates(tmp_path: Path) -> None:
    table = "file,class,date\nforest/a.tif,pine,2020-01-02\nlake/a.tif,lake,\n"
    found = read(write_patches(tmp_path, table))
    assert [(s.label, s.moment) for s in found.scenes] == [("pine", datetime(2020, 1, 2, tzinfo=UTC)), ("lake", DAY)]
    assert found.warnings == ["1 GeoTIFFs are not in labels.csv and are left out (b.tif, ...)"]


def test_scenes_in_folders_are_no_patches(tmp_path: Path) -> None:
    for day in ("2024-05-01", "2024-05-11"):
        write_tiff(tmp_path / "dates" / day / "all.tif", values(0, 2, 8, 8))
        write_tiff(tmp_path / "bands" / day[-2:] / "B02.tif")
        write_tiff(tmp_path / "named" / day[-2:] / f"{day}.tif", values(0, 2, 8, 8))
    for name in ("dates", "bands", "named"):
        assert not looks_like_patches(tmp_path / name, find_tiffs(tmp_path / name, ())), name


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("file,kind\nforest/a.tif,pine\n", "no column class; its columns are: file, kind"),
        ("file,class\nforest/z.tif,pine\n", "line 2 names 'forest/z.tif', which is not there"),
        ("file,class\nforest/a.tif,\n", "line 2: forest/a.tif has no class"),
        ("file,class\nforest/a.tif,pine\nforest/a.tif,oak\n", "line 3: forest/a.tif is oak here and pine further up"),
        ("file,class,date\nforest/a.tif,pine,June\n", "line 2 has the date 'June'"),
        ("file,class\n", "names no file"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path: Path, table: str, words: str) -> None:
    with pytest.raises(SourceError, match=words):
        read(write_patches(tmp_path, table))


def test_a_patch_without_a_class(tmp_path: Path) -> None:
    write_tiff(write_patches(tmp_path) / "loose.tif", values(0, 2, 8, 8))
    with pytest.raises(SourceError, match=r"loose.tif: has no class"):
        read(tmp_path)


def test_no_date(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"a.tif: tells no date .*, nor do 2 more\. Give one for all with --date"):
        read(write_patches(tmp_path), Options(bands=("B02", "B03")))


def test_patches_of_different_numbers_of_bands(tmp_path: Path) -> None:
    write_tiff(write_patches(tmp_path) / "lake" / "c.tif", values(0, 3, 8, 8))
    with pytest.raises(SourceError, match=r"different numbers of bands: .* has 2, c.tif has 3"):
        read(tmp_path)


def test_too_many_classes_and_too_few(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", values(0, 2, 8, 8))
    for number, words in ((251, "251 classes; at most 250"), (1, "only the class c0 found")):
        rows = []
        for i in range(number):
            (tmp_path / f"{i}.tif").hardlink_to(tmp_path / "a.tif")
            rows.append(f"{i}.tif,c{i}")
        (tmp_path / "labels.csv").write_text("\n".join(["file,class", *rows]))
        with pytest.raises(SourceError, match=words):
            patch_labels(read(tmp_path).scenes)
        for i in range(number):
            (tmp_path / f"{i}.tif").unlink()
