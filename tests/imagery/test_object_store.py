"""Scenes on a real S3 server and behind http: the pixels of a folder, and a sentence for each bad credential."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from objectstore import KEY, PRIVATE, PUBLIC, SECRET, object_store, upload
from rasters import LEFT, TOP, StacScene, open_scenes, sentinel2_layers, write_catalogue
from shapely.geometry import box
from stacsite import Site, serve

from olmoearth_core.errors import CatalogueError, ImageryError
from olmoearth_core.framing import Timestep
from olmoearth_core.grid import Grid, PixelBox
from olmoearth_core.imagery.access import Access
from olmoearth_core.imagery.address import Address
from olmoearth_core.imagery.compose import compose
from olmoearth_core.imagery.cube import Cube
from olmoearth_core.imagery.read import AssetReader
from olmoearth_core.imagery.scene import SceneList, available_bands
from olmoearth_core.imagery.search import Query, search
from olmoearth_core.imagery.signing import Signer
from olmoearth_core.progress import Silent

YEARS = (date(2000, 1, 1), date(2100, 1, 1))
AUGUST = Timestep(date(2023, 8, 1), date(2023, 9, 1))
SETTINGS = (
    "AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_S3_ENDPOINT", "AWS_HTTPS", "AWS_VIRTUAL_HOSTING",
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION", "AWS_REGION",
    "AWS_REQUEST_PAYER", "AWS_NO_SIGN_REQUEST",
)  # fmt: skip


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    write_catalogue(folder, [StacScene("a", "2024-05-05", sentinel2_layers(bands=("B02", "B05", "SCL"), cloud=0.2))])
    return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, small: Path) -> Iterator[str]:
    with object_store(tmp_path_factory.mktemp("store")) as endpoint:
        upload(endpoint, PRIVATE, small, "x")
        upload(endpoint, PUBLIC, small, "x")
        yield endpoint


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))


def keys(monkeypatch: pytest.MonkeyPatch, key: str = KEY, secret: str = SECRET) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)


def found(catalogue: str, access: Access) -> SceneList:
    query = Query(catalogue, (), ("sentinel2_l2a",), box(-180, -90, 180, 90), (YEARS,), 100.0)
    return search(query, Path("/"), Silent(), access)


def mosaic(scenes: SceneList, area: PixelBox, step: Timestep, access: Access | None = None) -> Cube:
    bands = available_bands(scenes, "sentinel2_l2a")
    with AssetReader(access=access, workers=4) as reader:
        arguments: dict[str, Any] = {"modality": "sentinel2_l2a", "bands": bands, "composite": "least_cloudy"}
        cube = compose(scenes, area, [step], reader=reader, **arguments)
        assert reader.failures == []
    return cube


def check_small(catalogue: str, access: Access, small: Path) -> None:
    area = Grid("EPSG:32631").around((LEFT + 100, TOP - 500, LEFT + 500, TOP - 100))
    may = Timestep(date(2024, 5, 1), date(2024, 6, 1))
    theirs = mosaic(found(catalogue, access), area, may, access)
    assert theirs.valid.any()
    assert np.array_equal(theirs.data, mosaic(open_scenes(small / "catalog.json"), area, may).data)


# ------------------------------------------------------------------ settings


def test_keys_and_endpoint_of_the_environment(store: str, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys(monkeypatch)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", store)
    check_small(f"s3://{PRIVATE}/x/catalog.json", Access(), small)


def test_the_endpoint_as_gdal_names_it(store: str, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys(monkeypatch)
    monkeypatch.setenv("AWS_S3_ENDPOINT", store.removeprefix("http://"))
    monkeypatch.setenv("AWS_HTTPS", "NO")
    check_small(f"s3://{PRIVATE}/x/catalog.json", Access(), small)


def test_profile_and_endpoint_of_the_project(store: str, small: Path, tmp_path: Path) -> None:
    (tmp_path / "credentials").write_text(f"[park]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n")
    check_small(f"s3://{PRIVATE}/x/catalog.json", Access(profile="park", endpoint=store), small)


def test_a_public_bucket_without_credentials(store: str, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_small(f"s3://{PUBLIC}/x/catalog.json", Access(anonymous=True, endpoint=store), small)
    monkeypatch.setenv("AWS_NO_SIGN_REQUEST", "YES")
    check_small(f"s3://{PUBLIC}/x/catalog.json", Access(endpoint=store), small)


def test_who_pays_is_signed_and_said(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    keys(monkeypatch)
    place = f"s3://{PRIVATE}/x/a/B02.tif"

    def pays(access: Access, address: str = place) -> bool:
        signer = Signer(access)
        said = signer.headers(address) == {"x-amz-request-payer": "requester"}
        assert said == ("x-amz-request-payer" in signer.url(address))
        return said

    assert not pays(Access(endpoint=store))
    assert pays(Access(endpoint=store, requester_pays=True))
    assert pays(Access(endpoint=store), Address(place, requester_pays=True))
    assert not pays(Access(endpoint=store, requester_pays=True, anonymous=True))
    monkeypatch.setenv("AWS_REQUEST_PAYER", "requester")
    assert pays(Access(endpoint=store))
    with AssetReader(access=Access(endpoint=store)) as reader:
        assert reader.header(place).grid.crs == "EPSG:32631"


# ------------------------------------------------------------------ what can be wrong with it


@pytest.mark.parametrize(
    ("changes", "place", "sentence"),
    [
        ({"AWS_ACCESS_KEY_ID": None}, PRIVATE, "no credentials for S3 were found. Set AWS_PROFILE"),
        ({"AWS_SECRET_ACCESS_KEY": "guess"}, PRIVATE, "credentials are wrong .S3 says SignatureDoesNotMatch"),
        ({"AWS_ACCESS_KEY_ID": "nobody"}, PRIVATE, "credentials are wrong .S3 says InvalidAccessKeyId"),
        ({"AWS_NO_SIGN_REQUEST": "YES"}, PRIVATE, "these credentials may not read it"),
        ({"AWS_PROFILE": "gone"}, PRIVATE, "settings for S3 cannot be used .*gone.*Correct imagery.access"),
        ({}, "nowhere", "no such"),
    ],
)
def test_credentials_that_are_wrong_or_missing_are_told(
    store: str, small: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str | None], place: str, sentence: str
) -> None:
    """Of the catalogue, and of an asset of one that is open to all."""
    keys(monkeypatch)
    for name, value in changes.items():
        monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)
    access = Access(endpoint=store)
    with pytest.raises(CatalogueError, match=sentence) as caught:
        found(f"s3://{place}/x/catalog.json", access)
    assert "\n" not in str(caught.value)
    listed = open_scenes(small / "catalog.json")
    elsewhere = replace(listed.scenes[0], assets={"B02": f"s3://{place}/x/a/B02.tif"}, mask=None)
    with AssetReader(access=access) as reader, pytest.raises(ImageryError, match=sentence) as told:
        reader.header(replace(listed, scenes=(elsewhere,)).address(elsewhere, elsewhere.assets["B02"]))
    assert "Signature=" not in str(told.value)


# ------------------------------------------------------------------ the real data, as if they were far away


@pytest.fixture(scope="module")
def real_store(store: str, real_data: Path) -> str:
    for name in ("reservoir", "alps_clouds"):
        upload(store, PRIVATE, real_data / name, name)
    return store


@pytest.mark.parametrize(
    ("name", "crs", "resolution", "place", "step"),
    [
        ("reservoir", "EPSG:32631", 10.0, None, Timestep(date(2020, 6, 1), date(2020, 7, 1))),
        ("alps_clouds", "EPSG:32633", 120.0, (530e3, 5080e3, 560e3, 5110e3), AUGUST),
    ],
)  # fmt: skip
def test_real_scenes_on_s3_and_http_compose_as_in_their_folder(
    real_store: str, real_data: Path, monkeypatch: pytest.MonkeyPatch, name: str, crs: str, resolution: float,
    place: tuple[float, ...] | None, step: Timestep,
) -> None:  # fmt: skip
    keys(monkeypatch)
    access = Access(endpoint=real_store, first_pause=0.001)
    here = open_scenes(real_data / name / "catalog.json")
    with AssetReader() as reader:
        first = here.scenes[0]
        grid = reader.header(here.address(first, first.assets["B02"])).grid
    left, top = grid.transform[2], grid.transform[5]
    whole = (left, top + grid.height * grid.transform[4], left + grid.width * grid.transform[0], top)
    area = Grid(crs, resolution).around(place or whole)
    local = mosaic(here, area, step)
    assert local.valid.mean() > 0.9
    on_s3 = mosaic(found(f"s3://{PRIVATE}/{name}/catalog.json", access), area, step, access)
    with serve(Site(real_data / name)) as site:
        on_http = mosaic(found(f"{site.url}/files/catalog.json", access), area, step, access)
        by_api = mosaic(found_by_api(site, access), area, step, access)
    for remote in (on_s3, on_http, by_api):
        assert np.array_equal(remote.data, local.data)
        assert np.array_equal(remote.observations, local.observations)


def found_by_api(site: Site, access: Access) -> SceneList:
    collections = tuple({item["collection"] for item in site.items()})
    span = (date(2019, 1, 1), date(2025, 1, 1))
    query = Query(f"{site.url}/stac", collections, ("sentinel2_l2a",), box(-180, -90, 180, 90), (span,), 100.0)
    return search(query, Path("/"), Silent(), access)
