"""The second step of mask voting: which RoIs vote for which survivor, and their weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from instancefcn.geometry import boxes as box_ops
from instancefcn.ops.voting.survivors import Survivors

ReadMasks = Callable[[Tensor, Tensor], Tensor]
Size = tuple[int, int]
Result = tuple[Tensor, Tensor, Tensor | None]  # pixels, rects, boxes

# Votes are read and averaged in groups of about this many. Otherwise an untrained network, whose every RoI
# may vote for every class, could need gigabytes. With a trained network the votes of an image fit into one
# group.
MAX_VOTES = 32768


@dataclass(frozen=True)
class Ballot:
    """V votes for S survivors: vote v is the mask of RoI `rows[v]` for survivor `which[v]`, with
    `weights[v]`. The votes for survivor s start at `starts[s]`; it is itself RoI `own[s]`. RoIs and survivors
    are numbered through all images.
    """

    which: Tensor
    rows: Tensor
    classes: Tensor
    weights: Tensor
    starts: Tensor
    own: Tensor


def ballots(
    boxes: Tensor, probabilities: Tensor, chosen: Survivors, vote_iou: float
) -> Iterator[tuple[slice, Ballot]]:
    """The votes for all survivors, or for runs of them with at most `MAX_VOTES` votes (or just one)."""
    scores, rows, classes = chosen
    images, count = boxes.shape[:2]
    overlap = box_ops.iou(
        boxes.gather(1, rows[..., None].expand(-1, -1, 4)).double(), boxes.double()
    )  # [N, S, R]
    overlap.scatter_(2, rows[..., None], 1.0)  # despite rounding, a survivor votes for itself
    votes = (overlap >= vote_iou) & box_ops.have_area(boxes)[:, None] & (scores >= 0)[..., None]
    votes = votes.flatten(0, 1)
    which, voters = votes.nonzero().unbind(1)
    if not len(which):
        return
    first_row = torch.arange(images, device=boxes.device)[:, None] * count
    own, classes = (rows + first_row).flatten(), classes.flatten()
    voters = voters + first_row.expand_as(rows).reshape(-1)[which]
    flat = probabilities.flatten(0, 1)
    for part, run in _runs(votes, len(which)):
        number = which[run] - part.start
        yield part, _ballot(flat, voters[run], classes[part], number, own[part])


def _runs(votes: Tensor, total: int) -> Iterator[tuple[slice, slice]]:
    """Runs of survivors, and their ranges in the list of the votes bool [S, R]."""
    if total <= MAX_VOTES:
        yield slice(0, len(votes)), slice(0, total)
        return
    ends = votes.sum(1).cumsum(0).tolist()
    first = begin = 0
    for last in range(len(ends)):
        if last + 1 == len(ends) or ends[last + 1] - begin > MAX_VOTES:
            yield slice(first, last + 1), slice(begin, ends[last])
            first, begin = last + 1, ends[last]


def _ballot(probabilities: Tensor, voters: Tensor, classes: Tensor, which: Tensor, own: Tensor) -> Ballot:
    """The votes of RoIs `voters` for survivors `which` of the given `classes`, the RoIs `own`."""
    weights = probabilities[voters, classes[which]].double()
    totals = weights.new_zeros(len(classes)).index_add_(0, which, weights)
    weights = weights / totals[which].clamp(min=1e-300)
    starts = torch.searchsorted(which, torch.arange(len(classes) + 1, device=which.device))
    return Ballot(which, voters, classes[which], weights.float(), starts, own)


def read(read_masks: ReadMasks, rows: Tensor, classes: Tensor) -> Tensor:
    """float32 [V, m, m]."""
    masks = read_masks(rows, classes)
    m = masks.shape[-1] if masks.dim() == 3 else 0
    if masks.shape != (len(rows), m, m) or m == 0:
        raise ValueError(f"read_masks must return [{len(rows)}, m, m] with m > 0, got {tuple(masks.shape)}")
    return masks.detach().float()
