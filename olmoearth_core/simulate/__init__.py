"""A small world with known truth, for the demo and for tests.

`simulate_world` writes it as a partner would hand over a real region; `single_date_baseline` and `map_accuracy` say how
well it can be told from one date and how well a map tells it; `world_preview` shows it.
"""

from olmoearth_core.simulate.accuracy import Accuracy, map_accuracy, single_date_baseline
from olmoearth_core.simulate.preview import world_preview
from olmoearth_core.simulate.world import World
from olmoearth_core.simulate.write import simulate_world

__all__ = ["Accuracy", "World", "map_accuracy", "simulate_world", "single_date_baseline", "world_preview"]
