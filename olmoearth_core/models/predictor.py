"""An encoder with a head for each task: what is trained, saved and mapped with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from olmoearth_core.models.card import ModelCard, TaskCard
from olmoearth_core.models.encoder import Encoder
from olmoearth_core.models.heads import USES_PIXELS, HeadShape, build_head
from olmoearth_core.models.pixels import pixel_channels, pixels


@dataclass(frozen=True)
class Seen:
    """What heads look at.

    Attributes:
        features: (B, D, h, w), one vector a patch; zeros where nothing was seen.
        pixels: (B, P, H, W) (`pixels.pixels`); None where no head looks at them.
    """

    features: Tensor
    pixels: Tensor | None = None


class Predictor(nn.Module):
    """Answers every task of a project for windows of imagery."""

    def __init__(
        self,
        encoder: Encoder,
        tasks: Sequence[TaskCard],
        *,
        bands: Mapping[str, Sequence[str]],
        timesteps: int,
        patch_size: int,
        resolution: float,
        seed: int = 0,
    ) -> None:
        """Put new heads, with random weights that depend on `seed` alone, on `encoder`.

        Args:
            encoder: any encoder; its weights are trained along.
            tasks: which heads, for what.
            bands: modality -> bands, in the order of the inputs' channels.
            timesteps: T.
            patch_size: pixels per patch edge.
            resolution: metres per pixel.
            seed: of the heads' first weights.

        Raises:
            TrainingError: a head that its task cannot have.
        """
        super().__init__()
        self.encoder = encoder
        self.tasks = {task.name: task for task in tasks}
        self.bands = {modality: tuple(names) for modality, names in bands.items()}
        self.patch_size = patch_size
        self.resolution = resolution
        self.uses_pixels = any(task.head.kind in USES_PIXELS for task in tasks)
        self.heads = nn.ModuleDict()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for task in tasks:
                shape = HeadShape(
                    width=encoder.embedding_size,
                    outputs=task.outputs,
                    patch_size=patch_size,
                    pixel_channels=pixel_channels(self.bands, timesteps),
                    hidden=task.head.hidden,
                    of_windows=task.kind == "classification",
                )
                self.heads[_key(self.heads, task.name)] = build_head(task.head.kind, shape)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.encoder.device

    def look(
        self,
        inputs: Mapping[str, Any],
        dates: np.ndarray,
        valid: Mapping[str, np.ndarray],
        seeds: np.ndarray | None = None,
        *,
        whole_timesteps: bool = False,
    ) -> Seen:
        """What the heads need of a batch.

        Args:
            inputs: modality -> (B, T, C, H, W), physical values.
            dates: (B, T) datetime64[D].
            valid: modality -> (B, T, H, W) bool.
            seeds: (B,) while training, what is random about each window (`Encoder.encode`).
            whole_timesteps: as for `Encoder.encode`.

        Raises:
            EncoderInputError: inputs that the encoder refuses.
        """
        p = self.patch_size
        if any(mask[:, :, ::p, ::p].any() for mask in valid.values()):
            features = self.encoder.encode(
                inputs,
                dates,
                valid,
                patch_size=p,
                resolution=self.resolution,
                bands=self.bands,
                seeds=seeds,
                whole_timesteps=whole_timesteps,
            ).map()
        else:  # the encoder refuses a batch without a single token
            b, _, h, w = next(iter(valid.values())).shape
            features = torch.zeros(b, self.encoder.embedding_size, h // p, w // p, device=self.device)
        return Seen(features, pixels(inputs, valid, self.bands, self.device) if self.uses_pixels else None)

    def answer(self, seen: Seen) -> dict[str, Tensor]:
        """Task -> what its head says of windows the encoder has seen, as `forward`."""
        answers = {}
        for name, head in zip(self.tasks, self.heads.values(), strict=True):
            scores = head(seen.features, seen.pixels).float()
            answers[name] = self.tasks[name].in_units(scores)
        return answers

    def forward(
        self,
        inputs: Mapping[str, Any],
        dates: np.ndarray,
        valid: Mapping[str, np.ndarray],
        seeds: np.ndarray | None = None,
        *,
        whole_timesteps: bool = False,
    ) -> dict[str, Tensor]:
        """Task -> float32: (B, K, H, W) scores before softmax of a segmentation, (B, K, 1, 1) of a classification,
        (B, 1, H, W) estimates of a regression, in its unit.

        A window with nothing to see gets finite answers that mean nothing. Arguments and errors as for `look`.
        """
        return self.answer(self.look(inputs, dates, valid, seeds, whole_timesteps=whole_timesteps))


def _key(heads: nn.ModuleDict, task: str) -> str:
    """The task's name; with a colon where torch has a use of its own for it ("values", "type")."""
    return f"{task}:" if hasattr(nn.ModuleDict, task) or task in heads.__dict__ else task


@dataclass(frozen=True)
class TrainedModel:
    """A predictor and the card that says what it is."""

    card: ModelCard
    predictor: Predictor

    def predict(
        self,
        inputs: Mapping[str, Any],
        dates: np.ndarray,
        valid: Mapping[str, np.ndarray],
        *,
        whole_timesteps: bool = False,
    ) -> np.ndarray:
        """What the model says of the main task; the same batch gives the same bits.

        Args:
            inputs: modality -> (B, T, C, H, W), physical values, channels as in `card.bands`; H and W are multiples of
                `card.patch_size`.
            dates: (B, T) datetime64[D].
            valid: modality -> (B, T, H, W) bool.
            whole_timesteps: as for `Encoder.encode`.

        Returns:
            (B, K, H, W) float32, calibrated probabilities that sum to 1 over K; of a classification the same at every
            pixel of a window. (B, 1, H, W) float32 of a regression: estimates in its unit, within its range. A window
            without a valid pixel is uniform, or in the middle of the range.

        Raises:
            EncoderInputError: inputs that the encoder refuses.
        """
        main = self.card.main
        height, width = next(iter(valid.values())).shape[-2:]
        if self.predictor.training:  # to ask is cheap, to say it walks through all modules
            self.predictor.eval()
        with torch.inference_mode():
            answer = self.predictor(inputs, dates, valid, whole_timesteps=whole_timesteps)[main.name]
            answer = main.probabilities(answer).expand(-1, -1, height, width).cpu().numpy()
        blind = ~np.any([mask.any(axis=(1, 2, 3)) for mask in valid.values()], axis=0)
        predicted: np.ndarray = np.where(blind[:, None, None, None], np.float32(main.knows_nothing), answer)
        return predicted


def build_predictor(encoder: Encoder, card: ModelCard, *, seed: int = 0) -> Predictor:
    """The predictor that `card` describes, on `encoder`, with new heads."""
    return Predictor(
        encoder,
        card.tasks,
        bands=card.bands,
        timesteps=card.timesteps,
        patch_size=card.patch_size,
        resolution=card.resolution,
        seed=seed,
    )
