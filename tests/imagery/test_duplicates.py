"""One look at the ground counts once: copies, reprocessed versions, tiles of one overpass."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
from rasters import Layer, StacScene, open_scenes, write_catalogue
from shapely.geometry import box, mapping

from olmoearth_core.imagery.duplicates import acquisition_of, without_duplicates
from olmoearth_core.imagery.scene import read_scenes

WHOLE = (15.0, 45.0, 16.0, 46.0)


def item(name: str, *, bbox: tuple[float, ...] = WHOLE, when: str = "2023-08-15T09:58:11Z", **more: Any) -> Any:
    properties = {"datetime": when, **{key.replace("__", ":"): value for key, value in more.items()}}
    return {
        "type": "Feature", "id": name, "collection": "c", "bbox": list(bbox), "geometry": mapping(box(*bbox)),
        "properties": properties, "assets": {"B02": {"href": f"{name}.tif"}},
    }  # fmt: skip


def product(tile: str = "33TWL", baseline: str = "0509", made: str = "20230815T155057", satellite: str = "S2A") -> str:
    return f"{satellite}_MSIL2A_20230815T095031_N{baseline}_R079_T{tile}_{made}"


def names(items: list[dict[str, Any]]) -> list[str]:
    return [one["id"] for one in items]


def test_the_newest_baseline_stays_whatever_the_order() -> None:
    old = item("a_0", s2__product_uri=product(baseline="0301") + ".SAFE")
    new = item("a_1", s2__product_uri=product(baseline="0510", made="20240101T000000") + ".SAFE")
    for order in ([old, new], [new, old]):
        left, dropped = without_duplicates(order)
        assert names(left) == ["a_1"]
        assert [drop.to_json() for drop in dropped] == [
            {"item": "a_0", "reason": "processed again: a_1 has baseline 05.10, this one 03.01"}
        ]


def test_of_one_baseline_the_last_made_stays() -> None:
    tile = {"grid__code": "MGRS-33TWL", "s2__datatake_id": "GS2A_20230815T095031_042554_N05.09"}
    items = [item(f"x{k}", created=f"2023-08-1{k}T00:00:00Z", **tile) for k in (7, 8, 9)]
    left, dropped = without_duplicates(items)
    assert names(left) == ["x9"]
    assert [drop.reason for drop in dropped] == [f"processed again: x{k} was made later" for k in (8, 9)]


def test_two_parts_of_a_tile_that_was_cut_are_both_kept() -> None:
    """A datatake can end within a tile: two products of one baseline, each with a part of the ground."""
    north = item("a_0", bbox=(15, 45.6, 16, 46), s2__product_uri=product())
    south = item("a_1", bbox=(15, 45, 16, 45.7), s2__product_uri=product(made="20230815T160000"))
    assert names(without_duplicates([north, south])[0]) == ["a_0", "a_1"]
    strips = [f"S2A_OPER_MSI_L2A_DS_2APS_20230815T155057_S20230815T0958{s}_N05.09" for s in ("15", "40")]
    both = [item(f"a_{k}", s2__product_uri=product(), s2__datastrip_id=strip) for k, strip in enumerate(strips)]
    left, _ = without_duplicates(both)
    assert names(left) == ["a_0", "a_1"]
    assert acquisition_of(left[0]) == acquisition_of(left[1])


def test_tiles_of_one_overpass_share_an_acquisition_and_others_do_not() -> None:
    tiles = [item(product(tile)) for tile in ("33TWL", "33TWM")]
    other = item(product(satellite="S2B"))
    assert names(without_duplicates([*tiles, other])[0]) == names([*tiles, other])
    assert acquisition_of(tiles[0]) == acquisition_of(tiles[1]) == "S2A_20230815T095031"
    assert acquisition_of(other) == "S2B_20230815T095031"
    radar = item("r", platform="SENTINEL-1A", sat__absolute_orbit=49_876)
    assert acquisition_of(radar) == "sentinel-1a_orbit49876"
    landsat = item("l", platform="landsat-8", landsat__wrs_path="190", landsat__wrs_row="30")
    assert acquisition_of(landsat) == "landsat-8_path190_2023-08-15"
    assert acquisition_of(item("unknown")) == ""


def test_a_landsat_scene_in_real_time_gives_way_to_the_final_one() -> None:
    scene = {"platform": "landsat-8", "landsat__scene_id": "LC81900302023227LGN00"}
    items = [
        item("LC08_L1TP_190030_20230815_20230815_02_RT", created="2023-08-15T20:00:00Z", **scene),
        item("LC08_L1TP_190030_20230815_20230819_02_T1", created="2023-08-19T20:00:00Z", **scene),
    ]
    assert names(without_duplicates(items)[0]) == ["LC08_L1TP_190030_20230815_20230819_02_T1"]


def test_an_item_that_is_listed_twice_is_used_once() -> None:
    left, dropped = without_duplicates([item("a"), item("b"), item("a")])
    assert sorted(names(left)) == ["a", "b"]
    assert [(drop.item, drop.reason) for drop in dropped] == [("a", "listed more than once")]


def test_a_name_that_two_items_share_is_told() -> None:
    left, dropped = without_duplicates([item("a"), item("a", when="2023-08-20T10:00:00Z")])
    assert len(left) == 1
    assert "has the name of another item" in dropped[0].reason


def test_what_says_neither_tile_nor_orbit_is_never_taken_for_a_copy() -> None:
    assert names(without_duplicates([item("a"), item("b")])[0]) == ["a", "b"]


def test_the_order_of_a_catalogue_decides_nothing() -> None:
    tiles, baselines = ("33TWL", "33TWM", "33TXL"), ("0301", "0400", "0510")
    items = [item(f"{t}_{b}", s2__product_uri=product(t, b)) for t in tiles for b in baselines]
    for seed in range(5):
        left, dropped = without_duplicates(random.Random(seed).sample(items, len(items)))
        assert sorted(names(left)) == [f"{tile}_0510" for tile in tiles]
        assert {drop.item for drop in dropped} == {one for one in names(items) if not one.endswith("0510")}


def test_a_search_records_what_it_left_out(tmp_path: Path) -> None:
    layers = {"B02": Layer(np.ones((96, 96), np.uint16))}
    versions = [
        StacScene(f"v{k}", "2024-05-10", layers, properties={"s2:product_uri": product(baseline=baseline)})
        for k, baseline in enumerate(("0301", "0510"))
    ]
    scenes = open_scenes(write_catalogue(tmp_path, versions))
    assert [(scene.id, scene.acquisition) for scene in scenes.scenes] == [("v1", "S2A_20230815T095031")]
    scenes.write(tmp_path / "frozen.json")
    again = read_scenes(tmp_path / "frozen.json", tmp_path)
    assert again.to_json() == scenes.to_json()
    assert [dict(drop)["item"] for drop in again.dropped] == ["v0"]
