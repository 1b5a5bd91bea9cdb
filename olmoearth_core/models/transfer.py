"""Between this machine's memory and a device's, without either waiting for the other.

A GPU works through what it was given while Python goes on. A plain copy ends that: Python stands still until the GPU
has done all before it, and the GPU then until Python has given it more. From pinned memory a copy takes its turn like
any other work, and what follows on the same stream finds it done. On a CPU nothing here does anything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor


def to_device(array: Any, device: torch.device) -> Tensor:
    """An array or tensor as a tensor on `device`; there already, it is given back as it is.

    Memory that is not pinned yet is copied to such as is, which costs a fraction of the wait. Torch keeps that until
    the GPU has fetched it.
    """
    tensor = torch.as_tensor(array)
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def fetch(numbers: Tensor) -> Callable[[], np.ndarray]:
    """Have the device send `numbers` once it has them; what is returned waits for no more than that.

    A later `numbers.cpu()` would wait for all that the device was given in between as well.
    """
    if numbers.device.type != "cuda":
        kept = numbers.detach().clone()
        return kept.numpy
    here = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
    here.copy_(numbers.detach(), non_blocking=True)
    sent = torch.cuda.Event()
    sent.record()

    def wait() -> np.ndarray:
        sent.synchronize()
        return here.numpy()

    return wait
