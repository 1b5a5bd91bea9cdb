"""What the maker of a map and workers without a common disk exchange: the job goes out once, finished tiles come home.

    <exchange>/files/<sha256>            model, scene list, area, plan, settings: each once, whoever needs it
    <exchange>/jobs/<sha256>.json        name of each file of a job -> its sha256
    <exchange>/tiles/<rule>/<tile>.tif, then lost/<tile>.json, then <tile>.json (its record: now the tile counts)

`rule` names this attempt at the map (it survives a kill as the journals do) and all that decides a tile's bytes, so
that a tile that is there already, of a run that was killed, is whole and right. An attempt that begins anew, because
assets that could not be read may be readable now, finds none. What is read is believed only by its checksum.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from olmoearth_core.digest import sha256_json
from olmoearth_core.errors import MappingError, StoreError
from olmoearth_core.imagery.presets import absent_catalogue
from olmoearth_core.imagery.read import Failure
from olmoearth_core.imagery.scene import read_scenes
from olmoearth_core.inference.job import MapJob
from olmoearth_core.inference.journals import LOST, note_lost
from olmoearth_core.inference.plan import PLAN, read_plan
from olmoearth_core.inference.product import TileRecord
from olmoearth_core.models.card import CARD
from olmoearth_core.models.model_folder import WEIGHTS
from olmoearth_core.objects import Objects, open_objects
from olmoearth_core.project import Project, ProjectConfig
from olmoearth_core.stages import STAGES
from olmoearth_core.store import write_bytes, write_json

SETTINGS, SCENES, AREA, MODEL = "settings.json", "scenes.json", "area", "model"
ATTEMPT = "attempt.json"


@dataclass(frozen=True)
class Order:
    """All that a worker is told of a job: a few words, for they travel with every batch of tiles.

    Attributes:
        run: of this call of the engine; another call finds no worker that remembers what could not be read.
        exchange: where to find the rest: a folder, or s3://bucket/prefix.
        job: sha256 of the job's list of files.
        rule: under which tiles lie.
        version: of the stage; a worker with other code must not take part.
        root: the project folder, which a catalogue of files is relative to.
        area: the area file's name.
    """

    run: str
    exchange: str
    job: str
    rule: str
    version: int
    root: str
    area: str


def send(job: MapJob, exchange: str, run: str) -> Order:
    """Lay a job out for workers; files that are there already are not sent again.

    Raises:
        StoreError: the exchange refuses, or cannot be reached.
    """
    objects, version = open_objects(exchange), STAGES["infer"].version
    files = {name: path.read_bytes() for name, path in _files(job)}
    files[PLAN] = _json(job.plan.model_copy(update={"tiles": []}).model_dump(mode="json"))  # tiles come in batches
    settings = job.project.config.model_dump(mode="json")
    files[SETTINGS] = _json(settings)
    names = {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())}
    imagery = {key: settings["imagery"][key] for key in ("composite", "cloud_mask")}
    decides = {name: digest for name, digest in names.items() if name != SETTINGS}
    listed = sha256_json(names)
    if objects.get(f"jobs/{listed}.json") is None:
        for name, content in files.items():
            objects.put(f"files/{names[name]}", content)
        objects.put(f"jobs/{listed}.json", _json(names))
    rule = sha256_json({"attempt": _attempt(job), "version": version, "imagery": imagery, **decides})
    return Order(run, exchange, listed, rule, version, str(job.project.root), job.area.name)


def receive(order: Order, folder: Path) -> MapJob:
    """Fetch a job's files into `folder`, where its tiles are to be written as well; their keys come with batches.

    Raises:
        MappingError: this machine has another version of the platform, or cannot read the catalogue.
        StoreError: the exchange refuses or lacks something, or the disk is full.
    """
    if order.version != STAGES["infer"].version:
        raise MappingError(
            f"a Dask worker has version {STAGES['infer'].version} of the stage infer, the map is made by version "
            f"{order.version}. Install the same version of the platform on all machines."
        )
    objects = open_objects(order.exchange)
    for name, digest in json.loads(_fetch(objects, f"jobs/{order.job}.json")).items():
        write_bytes(folder / name, _fetch(objects, f"files/{digest}", digest))
    config = ProjectConfig.model_validate(json.loads((folder / SETTINGS).read_bytes()))
    project = Project(Path(order.root), config)
    job = MapJob(
        project=project,
        plan=read_plan(folder),
        area=folder / AREA / order.area,
        scenes=folder / SCENES,
        model=folder / MODEL,
        out=folder / "tiles",
        keys={},
    )
    _check_catalogue(job)
    return job


def publish(objects: Objects, order: Order, job: MapJob, name: str) -> None:
    """Hand over a finished tile: first its file, then what was lost, last its record; nothing of it stays here."""
    for folder, file in ((job.out, f"{name}.tif"), (job.scratch, f"{LOST}/{name}.json"), (job.out, f"{name}.json")):
        path = folder / file
        if path.is_file():
            objects.put(_place(order, file), path.read_bytes())
            path.unlink()


def published(objects: Objects, order: Order, name: str) -> TileRecord | None:
    """The record of a tile that was handed over; None where it has to be computed."""
    content = objects.get(_place(order, f"{name}.json"))
    try:
        return None if content is None else TileRecord.model_validate_json(content)
    except ValidationError:
        return None


def bring_home(objects: Objects, order: Order, record: TileRecord, name: str, job: MapJob) -> bool:
    """Lay a tile that was handed over into `job.out`, file before record; whether it is what its record says.

    One that is not is withdrawn, so that it is computed anew.

    Raises:
        StoreError: the disk is full, or the exchange refuses; the tile stays there.
    """
    content = objects.get(_place(order, f"{name}.tif"))
    if content is None or hashlib.sha256(content).hexdigest() != record.sha256:
        objects.remove(_place(order, f"{name}.json"))
        return False
    lost = objects.get(_place(order, f"{LOST}/{name}.json"))
    if lost is not None:
        note_lost(job.scratch, name, [Failure(**failure) for failure in json.loads(lost)])
    write_bytes(job.out / f"{name}.tif", content)
    write_json(job.out / f"{name}.json", record.model_dump(mode="json"))
    return True


def _files(job: MapJob) -> Iterator[tuple[str, Path]]:
    yield SCENES, job.scenes
    for path in sorted(job.area.parent.glob(f"{job.area.stem}.*")):  # what lies beside a shapefile belongs to it
        if path == job.area or job.area.suffix.lower() == ".shp":
            yield f"{AREA}/{path.name}", path
    for name in (CARD, WEIGHTS):
        yield f"{MODEL}/{name}", job.model / name


def _attempt(job: MapJob) -> str:
    path = job.scratch / ATTEMPT
    if not path.is_file():
        write_json(path, {"attempt": secrets.token_hex(16)})
    return str(json.loads(path.read_bytes())["attempt"])


def _fetch(objects: Objects, name: str, digest: str = "") -> bytes:
    content = objects.get(name)
    if content is None:
        raise StoreError(
            f"{objects.address}/{name}: not there, though the job was laid out. Do all machines see the same "
            "OLMOEARTH_EXCHANGE? A folder is for workers of this machine; for others set s3://bucket/prefix."
        )
    if digest and hashlib.sha256(content).hexdigest() != digest:
        raise StoreError(f"{objects.address}/{name}: is not what was sent (its sha256 differs). Remove it; run again.")
    return content


def _check_catalogue(job: MapJob) -> None:
    """Refuse a catalogue of files that this machine does not see: every tile would come out empty.

    Raises:
        MappingError: with the place.
    """
    scenes = read_scenes(job.scenes, job.project.root)
    absent = absent_catalogue(scenes.catalogue, {scene.modality for scene in scenes.scenes}, job.project.root)
    if absent:
        raise MappingError(
            f"{absent}: the catalogue is a file that a Dask worker on another machine does not see. Put imagery on "
            "S3 or https, or into a folder that all machines share; or use --engine processes."
        )


def _place(order: Order, file: str) -> str:
    return f"tiles/{order.rule}/{file}"


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()
