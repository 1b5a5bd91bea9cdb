"""A catalogue and its scenes on S3 (a moto server, with the settings of infra/compose.yaml) give what a folder does."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path

import boto3
import numpy as np
import pytest
from moto.server import ThreadedMotoServer
from rasters import LEFT, TOP, StacScene, open_scenes, sentinel2_layers, write_catalogue
from shapely.geometry import box

from olmoearth_core.errors import CatalogueError
from olmoearth_core.framing import Timestep
from olmoearth_core.grid import Grid
from olmoearth_core.imagery.access import Access
from olmoearth_core.imagery.compose import compose
from olmoearth_core.imagery.etag import etags
from olmoearth_core.imagery.read import AssetReader
from olmoearth_core.imagery.scene import SceneList
from olmoearth_core.imagery.search import Query, search
from olmoearth_core.progress import Silent
from registry.assets import assets_of


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_S3_ENDPOINT": f"{host}:{port}", "AWS_HTTPS": "NO", "AWS_VIRTUAL_HOSTING": "FALSE",
    }  # fmt: skip
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    yield
    server.stop()


def find(catalogue: str) -> SceneList:
    span = (date(2024, 5, 1), date(2024, 6, 1))
    return search(Query(catalogue, (), ("sentinel2_l2a",), box(-180, -90, 180, 90), (span,), 90.0), Path("/"), Silent())


def test_scenes_on_s3_compose_as_in_a_folder(tmp_path: Path, store: None) -> None:
    layers = sentinel2_layers(bands=("B02", "B05", "SCL"), cloud=0.2)
    local = open_scenes(write_catalogue(tmp_path, [StacScene("a", "2024-05-05", layers)]))
    client = boto3.client("s3")
    client.create_bucket(Bucket="imagery")
    for path in tmp_path.rglob("*.*"):
        client.upload_file(str(path), "imagery", f"x/{path.relative_to(tmp_path).as_posix()}")
    remote = find("s3://imagery/x/catalog.json")
    assert remote.address(remote.scenes[0], remote.scenes[0].assets["B02"]) == "s3://imagery/x/a/B02.tif"
    addresses = [remote.address(scene, href) for scene in remote.scenes for href in scene.assets.values()]
    lost = "s3://imagery/x/a/nothing.tif"
    said = {f"s3://imagery/{o['Key']}": o["ETag"].strip('"') for o in client.list_objects(Bucket="imagery")["Contents"]}
    assert etags([*addresses, lost, "http://127.0.0.1:9/silent.tif"], Access(first_pause=0.01)) == {
        address: said[address] for address in addresses
    }
    facts = assets_of(remote, Access())
    assert [fact.name for fact in facts] == ["B02", "B05", "mask"]
    assert all(fact.checksum == f"etag:{said[fact.href]}" for fact in facts)
    area = Grid("EPSG:32631").around((LEFT + 100, TOP - 500, LEFT + 500, TOP - 100))
    may = [Timestep(date(2024, 5, 1), date(2024, 6, 1))]
    with AssetReader() as reader:
        ours, theirs = (
            compose(s, area, may, modality="sentinel2_l2a", bands=["B02", "B05"], composite="median", reader=reader)
            for s in (remote, local)
        )
        assert not reader.failures
    assert ours.valid.any()
    assert np.array_equal(ours.data, theirs.data)
    with pytest.raises(CatalogueError, match=r"s3://imagery/y/catalog\.json: there is no such object"):
        find("s3://imagery/y/catalog.json")
