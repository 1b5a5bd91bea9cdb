"""Outputs are whole or not there: errors, full disks and places that cannot be written."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from olmoearth_core.errors import CoreError, LabelError, StoreError
from olmoearth_core.store import (
    PARTIAL,
    disk_errors,
    publish_folder,
    remove_partials,
    whole_file,
    write_bytes,
    write_json,
    write_text,
)

TESTS = Path(__file__).parent


def names(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*"))


# ---------------------------------------------------------------- whole_file


def test_a_file_appears_whole_with_its_folders(tmp_path: Path) -> None:
    with whole_file(tmp_path / "a" / "b.bin") as partial:
        partial.write_bytes(b"12")
        assert names(tmp_path / "a") == [partial.name]
        assert partial.name.endswith(PARTIAL)
    assert names(tmp_path) == ["a", "a/b.bin"]
    assert (tmp_path / "a" / "b.bin").read_bytes() == b"12"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, LabelError])
def test_an_error_while_writing_leaves_the_former_content_and_nothing_else(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "file"
    write_text(path, "former")

    def fail() -> None:
        with whole_file(path) as partial:
            partial.write_text("half")
            raise error("bad luck")

    with pytest.raises(error, match="bad luck"):
        fail()
    assert path.read_text() == "former"
    assert names(tmp_path) == ["file"]


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    path, contents = tmp_path / "file", [bytes([i]) * 100_000 for i in range(8)]
    threads = [threading.Thread(target=write_bytes, args=(path, content)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in contents
    assert names(tmp_path) == ["file"]


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(value=json_values)
def test_json_comes_back_as_it_was_whatever_the_locale(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    if "\ud800" <= max(json.dumps(value, ensure_ascii=False)) <= "\udfff":
        return  # lone surrogates have no bytes
    path = tmp_path_factory.getbasetemp() / "value.json"
    write_json(path, value)
    assert json.loads(path.read_text(encoding="utf-8")) == value


def test_equal_values_give_equal_bytes(tmp_path: Path) -> None:
    write_json(tmp_path / "a", {"b": 1, "a": [1.0, "é"]})
    write_json(tmp_path / "b", {"a": [1.0, "é"], "b": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_what_is_no_json_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a", float("nan"))
    assert names(tmp_path) == []


# ---------------------------------------------------------------- full disk


def _small_disk(tmp_path: Path, program: str) -> str:
    """Run `program` in a process that sees a disk of 1 MB at `disk`; what it prints.

    A tmpfs in a name space of its own where this user may make one, else a limit to the size of files: in both the
    operating system itself refuses the write.
    """
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["unshare", "--mount", "--map-root-user", "sh", "-c", 'mount -t tmpfs -o size=1m tmpfs "$0" && exec "$@"']
    can_mount = subprocess.run([*mount, disk, "true"], capture_output=True).returncode == 0
    limit = "" if can_mount else "resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, resource.RLIM_INFINITY))"
    start = f"""
        import errno, os, resource, shutil, sys
        from pathlib import Path
        sys.path.insert(0, {str(TESTS)!r})
        from olmoearth_core.errors import StoreError
        from olmoearth_core.store import *
        {limit}
        disk = Path({str(disk)!r})
        def relieve():
            for ballast in disk.glob("ballast*"):
                ballast.unlink()
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    """
    code = textwrap.dedent(start) + textwrap.dedent(program)
    command = [*(mount if can_mount else []), *([disk] if can_mount else []), sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


WRITERS = {
    "bytes": 'partial.write_bytes(b"x" * 2_000_000)',
    "rasterio": """
        import numpy, rasterio
        data = numpy.random.default_rng(0).integers(0, 255, (3, 1024, 1024), dtype="uint8")
        with rasterio.open(partial, "w", driver="GTiff", count=3, width=1024, height=1024, dtype="uint8") as raster:
            raster.write(data)
    """,
    "safetensors": """
        import torch; from safetensors.torch import save_file
        save_file({"a": torch.zeros(500_000)}, partial)
    """,
    "parquet": """
        import numpy, pyarrow, pyarrow.parquet
        table = pyarrow.table({"a": numpy.random.default_rng(0).random(300_000)})
        pyarrow.parquet.write_table(table, partial)
    """,
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_full_disk_is_one_sentence_and_the_former_content_stays(tmp_path: Path, writer: str) -> None:
    fill = '(disk / "ballast").write_bytes(b"x" * 300_000)' if writer == "rasterio" else ""
    body = textwrap.indent(textwrap.dedent(WRITERS[writer]), " " * 12)
    program = f"""
write_text(disk / "file", "former")
{fill}
try:
    with whole_file(disk / "file") as partial:
{body}
except StoreError as error:
    print(error)
print((disk / "file").read_text(), [p.name for p in disk.glob("*.partial")])
"""
    printed = _small_disk(tmp_path, program)
    assert printed.splitlines() == [
        f"{tmp_path / 'disk' / 'file'}: the disk is full. Finished work is kept; free some space and run the same "
        "command again.",
        "former []",
    ]


def test_a_stage_on_a_full_disk_goes_on_when_there_is_space(tmp_path: Path) -> None:
    program = """
    from dataclasses import replace
    import toy
    from olmoearth_core.stage import find_result, run_stage
    from olmoearth_core.progress import Silent
    project = toy.write_project(disk)
    before = toy.run_all(project)

    def big(run):
        for i in range(4):
            part = run.out / f"{i}.bin"
            if not part.exists():
                print("part", i)
                write_bytes(part, bytes([i]) * [60_000, 120_000, 180_000, 360_000][i])
        return {}

    (disk / "ballast").write_bytes(b"x" * 500_000)
    stage = replace(toy.stages(gather_version=2)["gather"], run=big)
    table = {**toy.stages(), "gather": stage}
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    if limit[0] != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, limit[1]))
    try:
        run_stage(stage, table, project, Silent())
    except StoreError as error:
        print("the disk is full" in str(error))
    assert find_result(toy.stages()["gather"], toy.stages(), project, Silent()), "what stood in place is harmed"
    relieve()
    shutil.rmtree(disk / "reports")
    done = run_stage(stage, table, project, Silent())
    print(sorted(done.manifest.outputs), done.skipped, list(disk.rglob("*.partial")))
    """
    lines = _small_disk(tmp_path, program).splitlines()
    assert lines == [
        *("part 0", "part 1", "part 2", "part 3"),
        "True",
        "part 3",  # the finished parts are not made again
        "['0.bin', '1.bin', '2.bin', '3.bin'] False []",
    ]


def test_a_disk_that_is_full_only_when_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "file", "former")

    def refuse(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StoreError, match="the disk is full"):
        write_text(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "former"
    assert names(tmp_path) == ["file"]


def test_a_quota_counts_as_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="the disk is full"), disk_errors(tmp_path):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))


def test_other_errors_pass_as_they_are(tmp_path: Path) -> None:
    for error in (OSError(errno.EIO, "bad disk"), RuntimeError("no reason"), ValueError("a bug"), LabelError("labels")):
        with pytest.raises(type(error)) as caught, disk_errors(tmp_path / "not" / "there"):
            raise error
        assert caught.value is error


# ---------------------------------------------------------------- no access


def test_a_place_without_access_is_named(tmp_path: Path) -> None:
    """In a process of its own that gives up root's rights, where the tests run as root."""
    closed = tmp_path / "closed"
    closed.mkdir()
    (closed / "file").write_text("former")
    closed.chmod(stat.S_IRUSR | stat.S_IXUSR | stat.S_IROTH | stat.S_IXOTH)
    program = """
import os
from pathlib import Path
from olmoearth_core.errors import StoreError
from olmoearth_core.store import write_text
if os.geteuid() == 0:
    os.setegid(65534), os.seteuid(65534)
for place in ("file", "new", "folder/new"):
    try:
        write_text(Path(place), "new")
    except StoreError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=closed, capture_output=True, text=True, timeout=60)
    closed.chmod(stat.S_IRWXU)
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert all("cannot be used (Permission denied). Check the place" in line for line in lines)
    assert lines[2].startswith("folder:")
    assert names(closed) == ["file"]
    assert (closed / "file").read_text() == "former"


def test_a_file_where_a_folder_should_be_is_named(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "former")
    with pytest.raises(StoreError, match=r"file.*cannot be used \((Not a directory|File exists)\)"):
        write_text(tmp_path / "file" / "new", "new")


# ---------------------------------------------------------------- publish_folder


def _folder(path: Path, content: str) -> Path:
    write_text(path / "file", content)
    return path


def test_publishing_replaces_the_whole_folder(tmp_path: Path) -> None:
    place, trash = _folder(tmp_path / "place", "former"), _folder(tmp_path / "trash" / "x", "older")
    write_text(place / "gone", "")
    publish_folder(_folder(tmp_path / "work", "new"), place, trash)
    assert names(tmp_path) == ["place", "place/file", "trash"]
    assert (place / "file").read_text() == "new"


def test_an_error_while_publishing_puts_back_what_stood_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, work = _folder(tmp_path / "place", "former"), _folder(tmp_path / "work", "new")
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self == work:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(StoreError, match="place: the disk is full"):
        publish_folder(work, place, tmp_path / "trash")
    assert (place / "file").read_text() == "former"
    assert (work / "file").read_text() == "new"


def test_a_place_on_another_file_system_is_refused_in_a_sentence(tmp_path: Path) -> None:
    other = Path("/dev/shm")
    if other.stat().st_dev == tmp_path.stat().st_dev:  # pragma: no cover (a machine whose /tmp is in memory)
        other = Path("/proc")
    target = other / f"olmoearth-test-{os.getpid()}"
    try:
        with pytest.raises(StoreError, match=r"another file system.*Keep the project folder on one disk"):
            publish_folder(_folder(tmp_path / "work", "new"), target, tmp_path / "trash")
        assert (tmp_path / "work" / "file").read_text() == "new"
    finally:
        shutil.rmtree(target, ignore_errors=True)


def test_partials_of_killed_writers_go_files_and_folders_alike(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "keep", "")
    (tmp_path / "a" / f"x.tif.1{PARTIAL}").touch()
    write_text(tmp_path / f"cubes.zarr{PARTIAL}" / "c" / f"0{PARTIAL}", "")
    remove_partials(tmp_path)
    assert names(tmp_path) == ["a", "a/keep"]


def test_store_errors_are_core_errors_and_os_errors() -> None:
    assert issubclass(StoreError, CoreError)
    assert issubclass(StoreError, OSError)
