from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from olmoearth_core.errors import SourceError
from olmoearth_core.importing.times import moment_in_name, moment_of, parse_moment, read_dates

MAY = datetime(2024, 5, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("name", "moment"),
    [
        ("x_20240501_y", MAY),
        ("2024-05-01", MAY),
        ("B02_2024.05.01", MAY),
        ("S2A_MSIL2A_20230815T095031_N0509_R079_T33TWM_20230815T140000", datetime(2023, 8, 15, 9, 50, 31, tzinfo=UTC)),
        ("T31TDG_20240501T104021_B02", datetime(2024, 5, 1, 10, 40, 21, tzinfo=UTC)),
        ("20240631_20240501", MAY),
        ("patch_120240501", None),
        ("AnnualCrop_1", None),
        ("2024", None),
    ],
)
def test_a_date_in_a_name(name: str, moment: datetime | None) -> None:
    assert moment_in_name(name) == moment


def test_times_as_text() -> None:
    assert parse_moment("2024-05-01") == MAY
    assert parse_moment("2024:05:01 10:40:21") == datetime(2024, 5, 1, 10, 40, 21, tzinfo=UTC)
    assert parse_moment("2024-05-01T02:00:00+02:00") == MAY
    assert parse_moment("1900-01-01") is None
    assert parse_moment("May") is None


def test_the_order_in_which_dates_are_looked_for(tmp_path: Path) -> None:
    path = tmp_path / "2024-05-01" / "B02.tif"
    tags = {"TIFFTAG_DATETIME": "2020:01:01 00:00:00", "ACQUISITION_DATE": "2021-01-01"}
    assert moment_of(path, tmp_path, tags, {"2024-05-01/B02.tif": datetime(2022, 1, 1, tzinfo=UTC)}) == datetime(
        2022, 1, 1, tzinfo=UTC
    )
    assert moment_of(path, tmp_path, tags, {}) == MAY
    assert moment_of(tmp_path / "B02.tif", tmp_path, tags, {}) == datetime(2021, 1, 1, tzinfo=UTC)
    written = {"TIFFTAG_DATETIME": tags["TIFFTAG_DATETIME"]}  # when the file was written, not when the scene was taken
    assert moment_of(tmp_path / "B02.tif", tmp_path, written, {}) is None


def test_a_table_of_dates(tmp_path: Path) -> None:
    table = tmp_path / "dates.csv"
    table.write_text("file;date\na.tif;2024-05-01\n;\nb/c.tif;2024-05-01T00:00:00Z\n")
    assert read_dates(table) == {"a.tif": MAY, "b/c.tif": MAY}
    table.write_text("file,day\na.tif,2024-05-01\n")
    with pytest.raises(SourceError, match="no column date; its columns are: file, day"):
        read_dates(table)
    table.write_text("file,date\na.tif,May\n")
    with pytest.raises(SourceError, match="line 2 has the date 'May'"):
        read_dates(table)
    with pytest.raises(SourceError, match="cannot be read"):
        read_dates(tmp_path / "none.csv")
    table.write_bytes(b"\xff\xfe\x00\x00")
    with pytest.raises(SourceError, match="UTF-8"):
        read_dates(table)
