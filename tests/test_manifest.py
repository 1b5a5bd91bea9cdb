"""Manifests: what counts as an output, what its digest depends on, and what damage is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from olmoearth_core.digest import canonical_json, sha256_file, sha256_json
from olmoearth_core.errors import StoreError
from olmoearth_core.manifest import (
    MANIFEST,
    Manifest,
    OutputFile,
    damage,
    describe_outputs,
    output_files,
    read_manifest,
    stage_key,
    write_manifest,
)


def fill(folder: Path) -> Path:
    for name in (
        "map.tif",
        "parts/b.txt",
        "parts/a.txt",
        ".zattrs",
        MANIFEST,
        f"parts/{MANIFEST}",
        ".scratch/checkpoint.pt",
        "parts/.scratch/kept",
        "half.tif.12ab.partial",
        "cubes.zarr.partial/0",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def manifest_of(folder: Path, **changes: Any) -> Manifest:
    values = {
        "stage": "export",
        "stage_version": 1,
        "key": "k",
        "settings": {"days": 30},
        "inputs": {"labels": "d"},
        "outputs": describe_outputs(folder),
        "summary": {"windows": 3},
    }
    return Manifest(**{**values, **changes})


def test_outputs_are_all_files_but_the_manifest_scratch_and_partials(tmp_path: Path) -> None:
    assert [name for name, _path in output_files(fill(tmp_path))] == [
        ".zattrs",
        "map.tif",
        "parts/.scratch/kept",
        "parts/a.txt",
        "parts/b.txt",
        "parts/manifest.json",
    ]


def test_outputs_are_described_by_size_and_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    # the published test vector of SHA-256 (FIPS 180-4)
    sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert describe_outputs(tmp_path) == {"a": OutputFile(sha256=sha256, bytes=3)}


def test_a_manifest_comes_back_as_it_was_written(tmp_path: Path) -> None:
    manifest = manifest_of(fill(tmp_path), summary={"skipped": {"é.tif": "no such file"}, "score": 0.1})
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path) == manifest


def test_equal_manifests_are_equal_bytes(tmp_path: Path) -> None:
    fill(tmp_path)
    for folder, summary in ((tmp_path / "a", {"x": 1, "y": 2}), (tmp_path / "b", {"y": 2, "x": 1})):
        write_manifest(folder, manifest_of(tmp_path / "parts", summary=summary))
    assert (tmp_path / "a" / MANIFEST).read_bytes() == (tmp_path / "b" / MANIFEST).read_bytes()


def test_where_there_is_no_manifest_there_is_none(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None
    assert read_manifest(tmp_path / "nowhere") is None
    (tmp_path / "file").touch()
    assert read_manifest(tmp_path / "file") is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff\xfe", b'{"schema_version": 2}'])
def test_what_is_no_manifest_is_refused_with_its_path(tmp_path: Path, content: bytes) -> None:
    (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(StoreError, match=r"manifest.json: not a manifest .*Remove the folder and run the stage again"):
        read_manifest(tmp_path)


def test_a_manifest_with_keys_of_another_version_is_refused(tmp_path: Path) -> None:
    values = manifest_of(tmp_path).model_dump(mode="json")
    for strange in ({**values, "host": "x"}, {**values, "schema_version": 2}):
        (tmp_path / MANIFEST).write_text(json.dumps(strange))
        with pytest.raises(StoreError):
            read_manifest(tmp_path)


def test_damage_is_told_file_by_file(tmp_path: Path) -> None:
    manifest = manifest_of(fill(tmp_path))
    assert damage(tmp_path, manifest) == []
    (tmp_path / "map.tif").write_text("map.tiF")  # same size
    (tmp_path / "parts" / "a.txt").unlink()
    (tmp_path / "parts" / "b.txt").unlink()
    (tmp_path / "parts" / "b.txt").mkdir()
    (tmp_path / ".zattrs").write_text("longer than before")
    assert sorted(damage(tmp_path, manifest)) == [
        ".zattrs: content differs from its checksum in the manifest",
        "map.tif: content differs from its checksum in the manifest",
        "parts/a.txt: missing",
        "parts/b.txt: missing",
    ]


@given(data=st.data(), names=st.lists(st.text("abc/", min_size=1), min_size=1, max_size=4, unique=True))
def test_the_outputs_digest_knows_names_and_contents_and_nothing_else(data: st.DataObject, names: list[str]) -> None:
    outputs = {name: OutputFile(sha256=sha256_json(name), bytes=1) for name in names}
    base = Manifest(stage="a", stage_version=1, key="k", settings={}, inputs={}, outputs=outputs, summary={})
    same = base.model_copy(
        update={"key": "l", "summary": {"x": 1}, "outputs": dict(data.draw(st.permutations(list(outputs.items()))))}
    )
    assert same.outputs_digest == base.outputs_digest
    name = data.draw(st.sampled_from(names))
    changed = {**outputs, name: OutputFile(sha256=sha256_json("other"), bytes=1)}
    renamed = {f"{n}d" if n == name else n: o for n, o in outputs.items()}
    fewer = {n: o for n, o in outputs.items() if n != name}
    digests = {base.model_copy(update={"outputs": o}).outputs_digest for o in (outputs, changed, renamed, fewer)}
    assert len(digests) == 4


def test_the_key_depends_on_each_of_its_parts() -> None:
    keys = {
        stage_key("export", 1, {"a": 1}, {"b": "x"}),
        stage_key("preprocess", 1, {"a": 1}, {"b": "x"}),
        stage_key("export", 2, {"a": 1}, {"b": "x"}),
        stage_key("export", 1, {"a": 2}, {"b": "x"}),
        stage_key("export", 1, {"a": 1}, {"b": "y"}),
        stage_key("export", 1, {"a": 1}, {"c": "x"}),
    }
    assert len(keys) == 6
    assert stage_key("export", 1, {"a": 1, "c": 2}, {}) == stage_key("export", 1, {"c": 2, "a": 1}, {})


def test_digests_are_those_of_other_tools(tmp_path: Path) -> None:
    assert canonical_json({"b": [1, None], "a": "é"}) == '{"a":"é","b":[1,null]}'
    (tmp_path / "big").write_bytes(b"a" * 1_000_000)
    # the long test vector of SHA-256
    assert sha256_file(tmp_path / "big") == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"
    with pytest.raises(ValueError):
        canonical_json(float("inf"))
