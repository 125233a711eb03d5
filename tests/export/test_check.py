from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from instancefcn.export import check, graph_of
from instancefcn.inference.predictor import Predictor
from small import photograph


def test_rows_list_what_differs() -> None:
    good = check.Row("a", (4, 5), 30, 0, 0, 1e-6, 0.001, 1e-5, 0.95, 0.1, 0.1)
    assert good.problems() == []
    missing, changed = replace(good, missing=3, changed=4).problems()
    assert re.search(r"5 x 4.* 3 .* 30 ", missing)
    assert re.search(r"5 x 4.* 4 ", changed)


def _scores_down(found: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return found[0], found[1] * 0.999, found[2], found[3]


def _labels_moved(found: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return found[0], found[1], (found[2] + 1) % 3, found[3]


def _first_lost(found: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    boxes, scores, labels, masks = (value.roll(-1, 0) for value in found)
    return boxes, torch.cat((scores[:-1], scores.new_zeros(1))), labels, masks


def _last_doubled(found: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    count = int((found[1] > 0).sum())
    rows = torch.arange(len(found[1])).clamp(max=count - 1)
    rows[count + 1 :] = len(rows) - 1
    return tuple(value[rows] for value in found)


def _boxes_moved(found: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return found[0] + 0.1, found[1], found[2], found[3]


def _masks_fainter(found: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return found[0], found[1], found[2], found[3] * 0.99


@pytest.mark.parametrize(
    ("change", "missing", "changed"),
    [
        (lambda found: found, False, False),
        (_scores_down, True, True),
        (_labels_moved, True, True),
        (_first_lost, True, True),
        (_last_doubled, False, True),
        (_boxes_moved, False, True),
        (_masks_fainter, False, True),
    ],
)
def test_every_kind_of_difference_is_seen(
    predictor: Predictor, change: Any, missing: bool, changed: bool
) -> None:
    graph = graph_of(predictor, True, 130)
    with torch.no_grad():
        row = check.compare("a", photograph(96, 130), predictor, graph, lambda x: change(graph(x)))
    assert row.objects > 3
    assert (row.missing > 0, row.changed > 0) == (missing, changed)
