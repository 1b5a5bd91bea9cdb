"""Is the file at hand what it is taken for: by its bytes, by its pixels, as a piece of it, and in what its tags say?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from olmoearth_core.manifest import MANIFEST
from registry.audit.case import Case
from registry.audit.report import Check
from registry.audit.thing import MAP_ID
from registry.fingerprint import is_piece_of

PROVENANCE, MODEL, PROJECT = "OLMOEARTH_PROVENANCE", "OLMOEARTH_MODEL", "OLMOEARTH_PROJECT"
FILE = "this file"


def check_file(case: Case) -> Iterator[Check]:
    """The file is what it was found as; nothing is said of what was only named."""
    found = case.found
    if case.thing.path is None:
        return
    if found.by == "checksum" and case.thing.file is None:
        folder = case.thing.manifest is not None
        how = f"its {MANIFEST} lists the recorded outputs" if folder else "its weights have the recorded checksum"
        yield Check("this folder", "ok", f"{how} of {found.name}")
    elif found.by == "checksum":
        yield Check(FILE, "ok", f"{found.part} of {found.name}, byte for byte")
    elif found.part:
        how = "its tags were stripped" if found.by == "pixels" else "it was written anew"
        yield Check(FILE, "ok", f"{how}; pixels, georeference and colours are those of {found.part}")
    else:
        yield _check_piece(case)


def _check_piece(case: Case) -> Check:
    """A file that says it is of a map, and is none of its products: at best it was cut out of one."""
    name, file = case.found.name, case.thing.file
    products = _rasters(case)
    if file is not None and case.thing.pixels is not None:
        for product in products:
            if (where := is_piece_of(file, product)) is not None:
                return Check(
                    FILE, "ok", f"a piece of {product.name} of {name}, {where}; every pixel is that of the map"
                )
    said = f"its tags say that it is {name}, but neither its bytes nor its pixels are those of that map"
    if file is not None and case.thing.pixels is not None and not products:
        detail = f"{said}; whether it was cut out of it cannot be told here, as no product of the map is at hand"
        return Check(FILE, "missing", detail)
    return Check(FILE, "differs", f"{said}: it was edited, or its tags were forged")


def _rasters(case: Case) -> list[Path]:
    """The map's rasters, where they lie here as they were made."""
    held = case.held.get("postprocess")
    if held is None or held.output is None or held.check.status != "ok":
        return []
    return [held.output.path(name) for name in held.output.manifest.outputs if name.endswith(".tif")]


def check_tags(case: Case) -> Iterator[Check]:
    """What a map's file says of itself is what the registry recorded."""
    made, tags = case.found.map, case.thing.claims
    if made is None or not tags:
        return
    expected = {MAP_ID: made.name, PROVENANCE: made.run.key, PROJECT: made.project.name}
    if made.model is not None:
        expected[MODEL] = made.model.weights_sha256
    wrong = [
        f"{name} is {tags.get(name, 'missing')}, recorded is {value}"
        for name, value in expected.items()
        if tags.get(name) != value
    ]
    if wrong:
        yield Check("tags", "differs", "the tags of the file do not say what the registry recorded", wrong)
    else:
        yield Check("tags", "ok", "map id, provenance, project and model are those recorded")
