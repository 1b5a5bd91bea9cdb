"""The section `monitoring` of project.yaml: from where on a map counts as drifted, and what counts as old."""

from __future__ import annotations

from pydantic import Field

from olmoearth_core.section import Section


class MonitoringConfig(Section):
    """Limits; nothing a stage makes depends on them."""

    windows: int = Field(64, ge=8, le=4096)
    """Windows of the map, and of the training set, whose imagery is looked at."""
    imagery: float = Field(0.25, gt=0)
    """Population stability index of a band beyond which the imagery is another population than the training set's."""
    embeddings: float = Field(0.75, gt=0)
    """Distance of the mean embeddings, in spreads of the training set's, that is another world."""
    predictions: float = Field(1.0, gt=0)
    """Index of the classes, or measured values, of a map against what the model said of its held-out windows. Labels
    are not drawn as a map's area is, so that this is wide."""
    between_maps: float = Field(0.25, gt=0)
    """Index of the classes, or measured values, of a map against an earlier map of the same area by the same model."""
    max_map_age: int | None = Field(None, ge=1)
    """Days since `map.date` after which `olmoearth status` calls a map old."""
    max_model_age: int | None = Field(None, ge=1)
    """Days since the newest label after which it calls the model old."""
