"""Which weights learn how fast, and when."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from olmoearth_core.models.predictor import Predictor
from olmoearth_core.training.recipe import Recipe

NO_DECAY = re.compile(r"\.channel\.|\.frequencies$")
"""Encodings and rotary frequencies are vectors, whatever shape they are kept in."""
UNFROZEN = 0.1
"""freeze_then_unfreeze: the learning rate once the encoder learns along, beside that of the head alone before."""
EPSILON = 1e-6
"""Gradients below it hardly move a weight. With AdamW's usual 1e-8, weights whose true gradient is zero (the biases of
keys) follow the rounding errors of theirs, and no two machines train alike."""
PLATEAU_SHARE, PLATEAU_EPOCHS = 0.2, 2
"""plateau: the learning rate falls to this share when so many epochs in a row were no better."""


def make_optimizer(model: Predictor, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW over the weights that ever learn; each group's `share` is its part of the learning rate.

    Matrices and kernels decay, biases, norms, encodings and other vectors do not.
    """
    groups: dict[tuple[float, bool], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            share = _share(name, model, recipe)
            decays = parameter.ndim >= 2 and not NO_DECAY.search(name)
            groups.setdefault((share, decays), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": found, "share": share, "weight_decay": recipe.weight_decay if decays else 0.0}
            for (share, decays), found in sorted(groups.items(), key=lambda item: item[0])
        ],
        lr=recipe.learning_rate,
        eps=EPSILON,
    )


def _share(name: str, model: Predictor, recipe: Recipe) -> float:
    """A weight's part of the learning rate: that of its layer, counted from the head down (layer-wise decay)."""
    if recipe.name != "layer_decay" or not name.startswith("encoder."):
        return 1.0
    depth = len(model.encoder.blocks) if isinstance(model.encoder.blocks, nn.ModuleList) else 0
    found = re.match(r"encoder\.blocks\.(\d+)\.", name)
    if found:
        layer = int(found.group(1)) + 1
    else:  # what comes after the blocks is nearest to the head, what comes before them furthest
        layer = depth + 1 if name.startswith(("encoder.norm.", "encoder.pooler.")) else 0
    return float(recipe.layer_decay ** (depth + 1 - layer))


def set_phase(model: Predictor, recipe: Recipe, epoch: int) -> None:
    """Let those weights learn that do in `epoch` (from 0)."""
    if recipe.name == "freeze_then_unfreeze":
        model.encoder.requires_grad_(epoch >= recipe.frozen_epochs)


def learning_rate(recipe: Recipe, step: int, steps: int, scores: Sequence[float | None]) -> float:
    """The learning rate of a step.

    Args:
        recipe: peak, schedule and warm-up.
        step: from 0, over all epochs.
        steps: in an epoch.
        scores: validation's headline after each finished epoch.
    """
    total = recipe.epochs * steps
    warm = max(1, round(recipe.warm_up * total)) if recipe.warm_up else 0
    rate = recipe.learning_rate
    if recipe.name == "freeze_then_unfreeze" and step // steps >= recipe.frozen_epochs:
        rate *= UNFROZEN
    if step < warm:
        return rate * (step + 1) / warm
    if recipe.schedule == "plateau":
        return float(rate * PLATEAU_SHARE ** plateaus(scores))
    return rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))


def plateaus(scores: Sequence[float | None]) -> int:
    """How often validation stood still for more than PLATEAU_EPOCHS epochs in a row."""
    best, still, found = -math.inf, 0, 0
    for score in scores:
        if score is not None and score > best:
            best, still = score, 0
            continue
        still += 1
        if still > PLATEAU_EPOCHS:
            found, still = found + 1, 0
    return found


class Learned:
    """The weights of a model that learn, now or later; those frozen as it is handed over stay as they are and need no
    copy, be the encoder as large as it may.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
        self.names = [name for name in model.state_dict() if name not in frozen]

    def now(self) -> dict[str, Tensor]:
        """Name -> weight, as the model holds it."""
        state = self.model.state_dict()
        return {name: state[name].detach() for name in self.names}

    def put(self, weights: Mapping[str, Tensor]) -> None:
        """Set them.

        Raises:
            KeyError: one is missing.
        """
        self.model.load_state_dict(self.model.state_dict() | {name: weights[name] for name in self.names})


class Average:
    """The exponential moving average of weights (EMA); early on it forgets faster, as there is little yet."""

    def __init__(self, learned: Learned, decay: float) -> None:
        self.learned, self.decay, self.steps = learned, decay, 0
        self.weights = {name: tensor.clone() for name, tensor in learned.now().items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after a step."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, tensor in self.learned.now().items():
            kept = self.weights[name]
            if kept.is_floating_point():
                kept.lerp_(tensor, 1 - decay)
            else:
                kept.copy_(tensor)

    def pack(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"steps": self.steps, "weights": self.weights}

    def unpack(self, saved: dict[str, Any]) -> None:
        """From a checkpoint."""
        self.steps = saved["steps"]
        for name, tensor in saved["weights"].items():
            self.weights[name].copy_(tensor)
