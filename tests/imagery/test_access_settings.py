"""imagery.catalogue, imagery.collections and imagery.access of project.yaml: what is taken, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import toy

from olmoearth_core.errors import ProjectError, TransientError
from olmoearth_core.imagery.access import Access, access_of
from olmoearth_core.imagery.presets import catalogue_of, locate
from olmoearth_core.project import load_project


def test_names_for_all_or_for_each_modality(tmp_path: Path) -> None:
    toy.write_project(tmp_path / "p", {"imagery.catalogue": {"sentinel2_l2a": "planetary-computer"}})
    imagery = load_project(tmp_path / "p").config.imagery
    assert imagery.catalogue_for("sentinel2_l2a") == "planetary-computer"
    assert catalogue_of("usgs", "landsat") == "usgs"
    assert locate("earth-search", Path("/p")) == "https://earth-search.aws.element84.com/v1"
    assert locate("usgs@https://mirror.example/stac", Path("/p")) == "https://mirror.example/stac"
    assert locate("a@b/catalog.json", Path("/p")) == "/p/a@b/catalog.json"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"imagery.catalogue": {}}, "imagery.catalogue: expected the name, URL or path"),
        ({"imagery.catalogue": {"sentinel2_l2a": 5}}, "imagery.catalogue: expected the name, URL or path"),
        ({"imagery.catalogue": {"sentinel9": "usgs"}}, "catalogue names 'sentinel9'"),
        ({"imagery.collections": {"sentinel2_l2a": "x"}}, "imagery.collections: expected a list of collections"),
        ({"imagery.access": {"secret": "x"}}, "imagery.access.secret: unknown key"),
        ({"imagery.access": {"endpoint": "host:9000"}}, "imagery.access.endpoint"),
        ({"imagery.access": {"attempts": 0}}, "imagery.access.attempts"),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ProjectError, match=sentence):
        toy.write_project(tmp_path / "p", changes)


def test_the_settings_reach_the_reader(tmp_path: Path) -> None:
    toy.write_project(tmp_path / "p", {"imagery.access": {"profile": "park", "requester_pays": True, "connections": 3}})
    assert access_of(load_project(tmp_path / "p")) == Access(profile="park", requester_pays=True, connections=3)


def test_patience_ends_and_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    calls = []

    def fail() -> None:
        calls.append(1)
        raise TransientError("busy")

    with pytest.raises(TransientError):
        Access(attempts=5, first_pause=1.0).patiently(fail)
    assert len(calls) == 5
    assert len(pauses) == 4
    for k, pause in enumerate(pauses):
        assert 0.5 * 2**k <= pause <= 1.5 * 2**k
