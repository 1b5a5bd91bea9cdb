"""Catalogues whose assets want a token (the Planetary Computer's rules, at an address on this machine)."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from rasters import LEFT, TOP, StacScene, open_scenes, sentinel2_layers, write_catalogue
from shapely.geometry import box
from stacsite import Site, serve

from olmoearth_core.errors import ImageryError, TransientError
from olmoearth_core.framing import Timestep
from olmoearth_core.grid import Grid
from olmoearth_core.imagery.access import Access
from olmoearth_core.imagery.address import Address
from olmoearth_core.imagery.compose import compose
from olmoearth_core.imagery.cube import Cube
from olmoearth_core.imagery.presets import PRESETS, token_url
from olmoearth_core.imagery.read import AssetReader
from olmoearth_core.imagery.sampling import SourceWindow
from olmoearth_core.imagery.scene import SceneList
from olmoearth_core.imagery.search import Query, search
from olmoearth_core.progress import Silent

HASTY = Access(first_pause=0.001, timeout=5)
MAY = (date(2024, 5, 1), date(2024, 6, 1))
AREA = Grid("EPSG:32631").around((LEFT, TOP - 960, LEFT + 960, TOP))
PC = "https://planetarycomputer.microsoft.com/api/sas/v1/token"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    scenes = [StacScene(n, f"2024-05-{n}", sentinel2_layers(int(n), bands=("B02", "SCL"))) for n in ("05", "15")]
    write_catalogue(tmp_path, scenes)
    with serve(Site(tmp_path, signed=True)) as site:
        monkeypatch.setenv("PC_SDK_SAS_URL", f"{site.url}/token")
        yield site


def found(site: Site) -> SceneList:
    catalogue = f"planetary-computer@{site.url}/stac"
    query = Query(catalogue, ("test",), ("sentinel2_l2a",), box(-180, -90, 180, 90), (MAY,), 100.0)
    return search(query, Path("/"), Silent(), HASTY)


def mosaic(scenes: SceneList, reader: AssetReader) -> Cube:
    arguments = {"modality": "sentinel2_l2a", "bands": ["B02"], "composite": "median"}
    return compose(scenes, AREA, [Timestep(*MAY)], reader=reader, **arguments)  # type: ignore[arg-type]


def test_assets_are_read_with_a_token_that_is_asked_for_once(site: Site) -> None:
    scenes = found(site)
    with AssetReader(access=HASTY) as reader:
        cube = mosaic(scenes, reader)
        assert reader.failures == []
    with AssetReader() as reader:
        assert np.array_equal(cube.data, mosaic(open_scenes(site.folder / "catalog.json"), reader).data)
    assert cube.valid.any()
    assert len(site.tokens) == 1


def test_a_token_that_expires_in_the_middle_is_renewed_unseen(site: Site) -> None:
    scenes = found(site)
    address = scenes.address(scenes.scenes[0], scenes.scenes[0].assets["B02"])
    with AssetReader(access=HASTY) as reader:
        before = reader.read(address, SourceWindow(0, 10, 0, 10)).copy()
        site.expired.update(site.tokens)
        reader._blocks.clear()
        reader._fetcher._first.clear()
        site.expired.update(site.tokens)
        assert np.array_equal(reader.read(address, SourceWindow(0, 10, 0, 10)), before)
        cube = mosaic(scenes, reader)
        assert reader.failures == []
    assert cube.valid.any()
    assert len(site.tokens) == 2


def test_a_token_is_renewed_before_it_ends(site: Site) -> None:
    site.token_seconds = 0.0
    scenes = found(site)
    with AssetReader(access=HASTY) as reader:
        mosaic(scenes, reader)
    assert len(site.tokens) > 1


def test_a_token_stands_in_no_file_and_no_message(site: Site, tmp_path: Path) -> None:
    scenes = found(site)
    site.expired.update(f"se={n}&sig=secrettest{n}" for n in range(1000))  # what is given is never good
    site.__dict__["admits"] = lambda _query: False
    with AssetReader(access=HASTY) as reader:
        mosaic(scenes, reader)
        failures = reader.failures
    assert [failure.asset for failure in failures] == ["mask", "mask"]
    assert "does not let us read it (HTTP status 403)" in failures[0].reason
    scenes.write(tmp_path / "list.json")
    assert "secret" not in (tmp_path / "list.json").read_text() + str(failures)


def test_a_token_stands_in_no_traceback(site: Site, tmp_path: Path) -> None:
    scenes = found(site)
    with AssetReader(access=HASTY) as reader:
        signed = reader._fetcher._signer.url(scenes.address(scenes.scenes[0], scenes.scenes[0].assets["B02"]))
        assert "secret" in signed
        reader._fetcher._signer.url = lambda _address: signed.replace(site.url, "http://127.0.0.1:9")  # type: ignore[method-assign]
        with pytest.raises(TransientError) as caught:
            reader.header(scenes.address(scenes.scenes[0], scenes.scenes[0].assets["B02"]))
    assert "secret" not in "".join(traceback.format_exception(caught.value))


def test_a_server_without_tokens_costs_the_asset_and_is_told(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    scenes = found(site)
    monkeypatch.setenv("PC_SDK_SAS_URL", f"{site.url}/nothing")
    scene = scenes.scenes[0]
    address = SceneList(scenes.catalogue, {}, (), Path("/")).address(scene, scene.assets["B02"])
    with AssetReader(access=HASTY) as reader, pytest.raises(ImageryError, match=r"nothing/test: refuses a token"):
        reader.header(address)


def test_no_other_host_is_shown_a_token() -> None:
    preset = PRESETS["planetary-computer"]
    blob = "https://sentinel2l2a01.blob.core.windows.net/sentinel2-l2/x/B02.tif"
    assert token_url(preset, blob, preset.url, "sentinel-2-l2a") == f"{PC}/sentinel-2-l2a"
    for other in ("https://blob.core.windows.net.evil.org/B02.tif", "https://x.org/B02.tif", "s3://b/B02.tif"):
        assert token_url(preset, other, preset.url, "c") == ""
    assert token_url(PRESETS["earth-search"], blob, "", "c") == ""


def test_an_address_is_its_text() -> None:
    address = Address("s3://usgs-landsat/B2.TIF", requester_pays=True)
    assert (address, address.requester_pays, address.token_url) == ("s3://usgs-landsat/B2.TIF", True, "")
