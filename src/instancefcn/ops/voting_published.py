"""Order "published" of mask voting, as in the official code: see `instancefcn.ops.vote_masks`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from instancefcn.geometry import boxes as box_ops
from instancefcn.ops.voting.average import vote_average
from instancefcn.ops.voting.ballots import Ballot, ReadMasks, Result, Size, read


def published(
    read_masks: ReadMasks,
    boxes: Tensor,
    probabilities: Tensor,
    ballot: Ballot,
    sizes: Sequence[Size],
    threshold: float,
) -> Result:
    roi, index = ballot.rows.unique(return_inverse=True)
    masks = read(read_masks, roi, probabilities[roi, 1:].argmax(1) + 1)
    m, rounded = masks.shape[-1], boxes[roi].round()
    pixels, rects, averages, tight = [], [], [], []
    for (begin, end), size in zip(pairwise(ballot.starts.tolist()), sizes, strict=True):
        if begin == end:  # padding
            pixels.append(masks.new_zeros(0, dtype=torch.bool))
            averages.append(masks.new_zeros((m, m)))
            rects.append((0, 0, 0, 0))
            tight.append((0, 0, 0, 0))
            continue
        # Singly: an average may be a large picture.
        voters, weights = index[begin:end], ballot.weights[begin:end]
        seen = box_ops.clip(rounded[voters], size)
        rect = torch.cat((seen[:, :2].amin(0), seen[:, 2:].amax(0))).long()[None]
        start = ballot.starts.new_tensor((0, end - begin))
        flat = vote_average(masks, rounded, voters, weights, start, rect, None, binarize=threshold)
        x1, y1, x2, y2 = rect[0].tolist()
        box, average, crop = _tightened(flat.view(y2 - y1, x2 - x1), m, threshold)
        tight.append((box[0] + x1, box[1] + y1, box[2] + x1, box[3] + y1))
        rects.append((*tight[-1][:2], tight[-1][0] + crop.shape[1], tight[-1][1] + crop.shape[0]))
        averages.append(average)
        pixels.append(crop.flatten())
    places = torch.tensor(rects, dtype=torch.int64, device=boxes.device)
    outlines = torch.tensor(tight, dtype=boxes.dtype, device=boxes.device)
    return torch.cat(pixels).to(torch.uint8), places, outlines, torch.stack(averages)


def _tightened(average: Tensor, m: int, threshold: float) -> tuple[tuple[int, int, int, int], Tensor, Tensor]:
    """The box around what reaches the threshold; the average in it at m x m; the mask made of that.

    `interpolate` reads as OpenCV does: half-pixel centres, clamped at the edges, no smoothing.
    """
    reached = average >= threshold
    rows, columns = reached.any(1).nonzero()[:, 0], reached.any(0).nonzero()[:, 0]
    if not len(rows):
        return (0, 0, 0, 0), average.new_zeros((m, m)), average.new_zeros((0, 0), dtype=torch.bool)
    x1, y1, x2, y2 = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
    inside = average[None, None, y1:y2, x1:x2]
    small = interpolate(inside, size=(m, m), mode="bilinear", align_corners=False).clamp(0, 1)
    crop = interpolate(small, size=(y2 - y1, x2 - x1), mode="bilinear", align_corners=False) > threshold
    return (x1, y1, x2, y2), small[0, 0], crop[0, 0]
