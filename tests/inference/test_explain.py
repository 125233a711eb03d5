"""What an explanation reads is what the network saw."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from fakes import coloured
from instancefcn.images.decoding import to_uint8_rgb
from instancefcn.inference.explain import POINTS, Explanation, Reading, explain, write_explanation
from instancefcn.inference.predictor import Predictor
from instancefcn.models import zoo
from tiny import tiny_proposals, tiny_spec

IMAGE = to_uint8_rgb(coloured(180, 128))


def predictor(spec: Any, names: tuple[str, ...]) -> Predictor:
    torch.manual_seed(0)
    ids = tuple(range(1, len(names) + 1))
    classes = {} if isinstance(spec, zoo.ProposalModelSpec) else {"class_names": names, "category_ids": ids}
    network = zoo.build(spec, **classes)
    for parameter in network.parameters():
        if parameter.dim() == 4 and parameter.shape[2:] == (1, 1):
            torch.nn.init.normal_(parameter, std=0.3)
    if isinstance(spec, zoo.ProposalModelSpec):
        torch.nn.init.constant_(network.maps.bias, 1.0)
    preprocessing = spec.preprocessing()
    loaded = SimpleNamespace(
        network=network, class_names=names, category_ids=ids, preprocessing=preprocessing, metadata={}
    )
    return Predictor(loaded, "cpu")  # type: ignore[arg-type]


def pieced(reading: Reading) -> torch.Tensor:
    """The assembled map from the k x k maps: part (i, j) of the window from map (i, j)."""
    k = len(reading.parts)
    part = ((torch.arange(POINTS) + 0.5) * k / POINTS).long()
    return reading.parts[part[:, None], part[None, :], torch.arange(POINTS)[:, None], torch.arange(POINTS)]


@pytest.fixture(scope="module")
def of_class() -> tuple[Predictor, Any]:
    made = predictor(tiny_spec(), ("cat", "dog"))
    return made, made.run([IMAGE])[0]


@pytest.fixture(scope="module")
def of_proposal() -> tuple[Predictor, Any]:
    made = predictor(tiny_proposals(), ("object",))
    return made, made.run([IMAGE])[0]


def test_each_part_of_the_window_comes_from_its_own_map(of_class: Any) -> None:
    made, found = of_class
    assert len(found) > 1
    explanation = explain(made, IMAGE, found, 1)
    assert explanation.outside is not None
    assert explanation.inside.parts.shape == (3, 3, POINTS, POINTS)
    for reading in (explanation.inside, explanation.outside):
        torch.testing.assert_close(reading.assembled, pieced(reading))
    assert torch.equal(explanation.window, found.boxes[1])


def test_the_mask_is_that_of_the_network(of_class: Any) -> None:
    """The same difference that `FCIS.masks` reads, on a finer grid."""
    made, found = of_class
    network = made.network
    explanation = explain(made, IMAGE, found)
    kept: list[Any] = []
    decide = network.vote_instances

    def note(windows: Any, *rest: Any) -> Any:
        kept.append(windows.maps)
        return decide(windows, *rest)

    network.vote_instances = note
    try:
        made.run([IMAGE])
    finally:
        network.vote_instances = decide
    scale = 128 / 128  # the image already has the network's size
    roi = torch.cat((torch.zeros(1, 1), found.boxes[:1] * scale), 1)
    cells = network.masks(kept[0], roi, found.labels[:1] + 1)[0].sigmoid()
    size = network.head.mask_size
    assert POINTS % size == 0
    centre = POINTS // size // 2
    torch.testing.assert_close(
        explanation.mask[centre :: POINTS // size, centre :: POINTS // size], cells, atol=1e-4, rtol=1e-3
    )


@pytest.mark.parametrize("number", [0, 3])
def test_a_proposal_is_read_from_its_own_window_and_level(of_proposal: Any, number: int) -> None:
    made, found = of_proposal
    explanation = explain(made, IMAGE, found, number)
    assert explanation.outside is None
    torch.testing.assert_close(explanation.inside.assembled, pieced(explanation.inside))
    # The mask, read from the window at the image's resolution, is the proposal's own.
    x1, y1, x2, y2 = explanation.window.tolist()
    rows, columns = torch.arange(128) + 0.5, torch.arange(180) + 0.5
    i, j = (
        ((rows - y1) / (y2 - y1) * POINTS).floor().long(),
        ((columns - x1) / (x2 - x1) * POINTS).floor().long(),
    )
    inside = ((i >= 0) & (i < POINTS))[:, None] & ((j >= 0) & (j < POINTS))[None, :]
    read = explanation.mask[i.clamp(0, POINTS - 1)[:, None], j.clamp(0, POINTS - 1)[None, :]]
    mask = (read >= made.network.spec.mask_threshold) & inside
    own = found.masks.paste(number)
    assert float((mask & own).sum() / (mask | own).sum()) > 0.8


@pytest.mark.parametrize("kind", ["of_class", "of_proposal"])
def test_the_figure_is_written(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    made, found = request.getfixturevalue(kind)
    path = write_explanation(tmp_path / "new" / "x.png", IMAGE, found, explain(made, IMAGE, found), 0)
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.width > 1000
        assert len(image.convert("RGB").getcolors(10**6) or []) > 100
    assert [file.name for file in path.parent.iterdir()] == ["x.png"]


def test_dollars_in_a_name_are_no_mathematics(of_class: Any, tmp_path: Path) -> None:
    made, found = of_class
    found = replace(found, class_names=("b_$x_$", "b_$x_$"))
    assert write_explanation(tmp_path / "x.png", IMAGE, found, explain(made, IMAGE, found), 0).is_file()


def test_the_mask_is_the_softmax_over_the_pair() -> None:
    inside, outside = torch.tensor([[1.0]]), torch.tensor([[0.5]])
    one = Explanation(torch.zeros(4), Reading(torch.zeros(1, 1, 1, 1), inside), Reading(inside, outside))
    expected = torch.softmax(torch.tensor([0.5, 1.0]), 0)[1]
    torch.testing.assert_close(one.mask[0, 0], expected)
