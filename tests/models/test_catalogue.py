"""The catalogue: names, counts, statistics, licences."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from reference import official_model
from samples import S2

from olmoearth_core.errors import CheckpointError
from olmoearth_core.models.catalogue import CATALOGUE, KNOWN, family_of, named, show, table
from olmoearth_core.models.origin import Origin


@pytest.mark.parametrize("name", [n for n in KNOWN if not n.endswith("large")])
def test_the_catalogue_counts_parameters_rightly(name: str) -> None:
    with torch.device("meta"):
        encoder = family_of(name).encoder()(named(name), Origin("random"))
    assert named(name).parameters == sum(p.numel() for p in encoder.parameters())
    if name in CATALOGUE:
        assert named(name).parameters < CATALOGUE[name].published_parameters


@pytest.mark.parametrize("name", ["galileo-nano", "galileo-tiny", "galileo-base"])
def test_published_parameters_of_galileo_are_those_of_its_file(name: str) -> None:
    """By the shapes of the published state dict, tables and inputs that are not read here included."""
    d = named(name).embedding_size
    patches = (1, 2, 9, 5)  # NDVI; relief, two land covers, by bands
    numbers = (2, 3, 1, 1, 3, 9, 5)  # weather, water, night lights; people, place, two land covers
    unread = sum(64 * d * k + d for k in patches) + sum(d * k + d for k in numbers)
    tables = (24 + 12) * d // 4 + (1 + 3 + 3 + 4) * d // 4  # time slots, months; channels that are not read here
    assert named(name).parameters + unread + tables == CATALOGUE[name].published_parameters


@pytest.mark.parametrize("name", ["v1-nano", "v1.1-nano", "v1.2-nano", "v1-tiny"])
def test_published_parameters_are_those_of_the_official_encoder(name: str) -> None:
    assert sum(p.numel() for p in official_model(name).encoder.parameters()) == CATALOGUE[name].published_parameters


def test_show_tells_everything_as_json() -> None:
    told = json.loads(json.dumps(show("v1-base")))
    assert told["hub"].endswith("allenai/OlmoEarth-v1-Base")
    assert [len(bands) for bands in told["band_sets"][S2]] == [4, 6, 2]
    assert any("military" in rule for rule in told["restrictions"])
    with pytest.raises(CheckpointError, match="known are v1-nano"):
        show("v1.1-small")


def test_galileo_is_free_of_the_restrictions_of_olmoearth() -> None:
    told = json.loads(json.dumps(show("galileo-nano")))
    assert told["licence"].startswith("MIT")
    assert told["restrictions"] == []
    assert told["family"] == "Galileo"
    assert told["hub"] == "https://huggingface.co/nasaharvest/galileo/tree/main/models/nano"
    assert [len(bands) for bands in told["band_sets"][S2]] == [3, 3, 1, 1, 2]


def test_every_name_is_listed_once_and_belongs_to_one_family() -> None:
    names = [row["name"] for row in table()]
    assert len(set(names)) == len(names) == len(CATALOGUE)
    assert len(set(KNOWN)) == len(KNOWN)
    assert set(names) < set(KNOWN)


def test_statistics_are_those_of_the_official_package() -> None:
    from olmoearth_pretrain_minimal.olmoearth_pretrain_v1.data.normalize import load_computed_config
    from olmoearth_pretrain_minimal.olmoearth_pretrain_v1.utils.constants import Modality

    from olmoearth_core.models.modalities import MODALITIES

    computed = load_computed_config()
    for m in MODALITIES.values():
        assert list(m.band_names) == Modality.get(m.name).band_order
        assert [list(bands) for bands in m.band_sets] == [list(s.bands) for s in Modality.get(m.name).band_sets]
        for band in m.bands:
            assert (band.mean, band.std) == (computed[m.name][band.name]["mean"], computed[m.name][band.name]["std"])


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    import subprocess

    code = (
        "import sys, olmoearth_core, olmoearth_core.models.catalogue, olmoearth_core.models.cost;"
        "heavy = ('torch', 'matplotlib', 'huggingface_hub', 'boto3', 'olmoearth_pretrain_minimal');"
        "print(sorted(m for m in heavy if m in sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
