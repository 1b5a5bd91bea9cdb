"""CUDA graphs for windows of one shape: the whole transformer becomes one launch, which short sequences gain from.

>>> encoder = use_cuda_graphs(load_encoder("v1.1-nano", device="cuda"))  # doctest: +SKIP
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor

from olmoearth_core.models.packed import PackedEncoder
from olmoearth_core.models.transformer import Groups

E_ = TypeVar("E_", bound=PackedEncoder)
WARM_UP = 3
"""Runs before capture, in which libraries choose kernels and allocate their workspaces."""


class GraphedTransform:
    """Stands in for `PackedEncoder.transform`: captures a graph the first time a layout is seen, and replays it then.

    Only without gradients and on CUDA; everything else runs as before. A layout is what `groups` says: equal windows
    without gaps share one, so use it for those (each further layout costs a capture and its memory).
    """

    def __init__(self, encoder: PackedEncoder) -> None:
        self.eager = encoder.transform
        self.captured: dict[Groups, tuple[Any, Tensor, Tensor | None, Tensor]] = {}

    def __call__(
        self,
        x: Tensor,
        groups: Groups,
        where: Tensor | None,
        chance: Tensor | None = None,
        seen: Tensor | None = None,
    ) -> Tensor:
        """As `PackedEncoder.transform`."""
        if x.device.type != "cuda" or torch.is_grad_enabled() or chance is not None or seen is not None:
            return self.eager(x, groups, where, chance, seen)
        if groups not in self.captured:
            self.captured[groups] = self._capture(x, groups, where)
        graph, x_in, where_in, out = self.captured[groups]
        x_in.copy_(x)
        if where_in is not None and where is not None:
            where_in.copy_(where)
        graph.replay()
        return out.clone()

    def _capture(self, x: Tensor, groups: Groups, where: Tensor | None) -> tuple[Any, Tensor, Tensor | None, Tensor]:
        x_in, where_in = x.clone(), None if where is None else where.clone()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                self.eager(x_in, groups, where_in)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = self.eager(x_in, groups, where_in)
        return graph, x_in, where_in, out


def use_cuda_graphs(encoder: E_) -> E_:
    """Let `encoder` run its transformer as CUDA graphs from now on; returns it."""
    object.__setattr__(encoder, "transform", GraphedTransform(encoder))
    return encoder
