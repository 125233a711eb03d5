"""What processes that train one network together must agree on, so that their means are those of one process
with all of their pictures. Every process has to call these functions equally often.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def processes() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def normaliser(count: Tensor) -> Tensor:
    """What to divide a sum of `count` terms by, to get their mean (of no terms: 0).

    Processes average their gradients. A sum divided by the process's own count would make a mean of means,
    in which the terms of a process with few of them weigh more; divided by the mean of all counts, all terms
    weigh the same.

    Args:
        count: whole numbers of any shape, at least 0.
    """
    world = processes()
    if world == 1:
        return count.clamp(min=1)
    total = count.double()
    dist.all_reduce(total)
    return (total.clamp(min=1) / world).float()


def largest(sizes: list[tuple[int, int]], device: torch.device) -> tuple[int, int]:
    """Height and width that hold all pictures of all processes, from the sizes of this one's.

    A convolution sees where the padding of a batch begins: only pictures that are padded alike give the same
    features.
    """
    height, width = max(size[0] for size in sizes), max(size[1] for size in sizes)
    if processes() == 1:
        return height, width
    sides = torch.tensor([height, width], device=device)
    dist.all_reduce(sides, op=dist.ReduceOp.MAX)
    height, width = sides.tolist()
    return height, width
