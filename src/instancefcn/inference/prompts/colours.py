"""Which colours of a region belong to its object: shares of groups of alike colours."""

from __future__ import annotations

import torch
from torch import Tensor

GROUPS = 16
ROUNDS = 4
SAMPLE = 1000
"""Points from which the groups are found."""
PRIOR_SHARE = 0.02
"""Every group also counts points of the region's mean probability: so many, as a share of an even group."""


def colours_of(image: Tensor) -> Tensor:
    """float32 [h, w, 3] from RGB [3, h, w], 0 to 1: brightness, red against green, yellow against blue. Equal
    distances look about equally large.
    """
    red, green, blue = image
    opponents = 1.5 * (red - green), 1.5 * ((red + green) / 2 - blue)
    return torch.stack((image.mean(0), *opponents), 2)


def group_colours(colours: Tensor) -> Tensor:
    """int64 [h, w]: the group, 0 to `GROUPS` - 1, of each of the colours [h, w, 3], by k-means."""
    flat = colours.reshape(-1, colours.shape[-1])
    sample = flat[:: max(1, len(flat) // SAMPLE)]
    # Evenly along the brightness: the same groups every time.
    first = torch.linspace(0, len(sample) - 1, GROUPS).long()
    centres = sample[sample[:, 0].argsort(stable=True)[first]]
    for _ in range(ROUNDS):
        nearest = torch.cdist(sample, centres).argmin(1)
        counts = torch.bincount(nearest, minlength=GROUPS)[:, None]
        sums = torch.zeros_like(centres).index_add_(0, nearest, sample)
        centres = torch.where(counts > 0, sums / counts.clamp(min=1), centres)
    return torch.cdist(flat, centres).argmin(1).view(colours.shape[:-1])


def colour_logits(groups: Tensor, probabilities: Tensor) -> Tensor:
    """[h, w]: how much likelier the object is among points of the same group than in the whole region, as a
    difference of logits.

    Args:
        groups: int64 [h, w].
        probabilities: [h, w]: of the object, 0 outside its box.
    """
    flat, mean = probabilities.flatten(), probabilities.mean().clamp(1e-4, 1 - 1e-4)
    counts = torch.bincount(groups.flatten(), minlength=GROUPS)
    sums = torch.zeros(GROUPS).index_add_(0, groups.flatten(), flat)
    extra = PRIOR_SHARE * len(flat) / GROUPS
    shares = (sums + extra * mean) / (counts + extra)
    return (shares.logit() - mean.logit())[groups]
