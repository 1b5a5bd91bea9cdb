"""The mapped project, made once."""

from __future__ import annotations

import pytest
from mapped import make_mapped

from olmoearth_core.project import Project


@pytest.fixture(scope="session")
def mapped(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A trained project with maps of four days."""
    return make_mapped(tmp_path_factory.mktemp("mapped"))
