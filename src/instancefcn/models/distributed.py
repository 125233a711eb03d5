"""What processes that train one network together must agree on, so that their means equal those of a single
process with all their images. All processes must call these functions equally often.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def processes() -> int:
    """The number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def normaliser(count: Tensor) -> Tensor:
    """The number by which each process divides its sum of `count` terms, so that the gradients are those of
    the mean over all processes (0 for no terms).

    Processes average their gradients. Divided by its own count, a sum would give a mean of means, in which
    the terms of a process with few of them weigh more. Divided by the mean of all counts, all terms weigh the
    same.

    Args:
        count: integers of any shape, at least 0.
    """
    world = processes()
    if world == 1:
        return count.clamp(min=1)
    total = count.double()
    dist.all_reduce(total)
    return (total.clamp(min=1) / world).float()


def largest(sizes: list[tuple[int, int]], device: torch.device) -> tuple[int, int]:
    """The maximum height and width of the images of all processes.

    A convolution sees where the padding of a batch begins, so images give the same features only when they
    are padded to the same size.

    Args:
        sizes: (height, width) of the images of this process.
        device: on which the processes communicate.
    """
    height, width = max(size[0] for size in sizes), max(size[1] for size in sizes)
    if processes() == 1:
        return height, width
    sides = torch.tensor([height, width], device=device)
    dist.all_reduce(sides, op=dist.ReduceOp.MAX)
    height, width = sides.tolist()
    return height, width
