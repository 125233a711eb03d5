"""A tiny FCIS and a tiny InstanceFCN overfit four images: network, losses, targets, inference and
figures fit together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from instancefcn.data.formats.layouts import open_dataset
from instancefcn.data.loader import Sample
from instancefcn.data.transforms import Resize
from instancefcn.evaluation.run import evaluate_predictions
from instancefcn.models import zoo
from instancefcn.models.fcis import FCIS
from instancefcn.models.head import HeadSpec
from instancefcn.models.instance_fcn import InstanceFCN
from instancefcn.models.rpn import AnchorSpec
from instancefcn.models.sampling import SamplingSpec
from tiny import resized, tiny_proposals, tiny_spec

SIDE = 192  # images of 128 px are enlarged, so that an object covers several cells
STEPS = 160
RATE = 5e-3


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Layers this small gain nothing from a second thread, and on busy cores threads wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def fit(net: FCIS | InstanceFCN, batches: list[list[Sample]], steps: int) -> None:
    """Train on the batches in turn, with one rise and fall of the learning rate."""
    groups = [{"params": g["params"], "lr": RATE * g["lr_scale"]} for g in net.parameter_groups()]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [float(group["lr"]) for group in groups], total_steps=steps, pct_start=0.1
    )
    net.train()
    for step in range(steps):
        samples = batches[step % len(batches)]
        losses = net([s.image for s in samples], [s.target for s in samples])
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimizer.step()
        schedule.step()


@pytest.mark.usefixtures("one_thread")
def test_four_images_are_overfitted(shapes_folder: Path) -> None:
    torch.manual_seed(0)
    dataset = open_dataset(shapes_folder, "train")
    samples = [resized(image, Resize(SIDE, SIDE)) for image in dataset.images[:4]]
    spec = replace(
        tiny_spec(),
        anchors=AnchorSpec(scales=(2.25, 4.5)),
        head=HeadSpec(channels=64, k=7),
        sampling=SamplingSpec(method="random", rois=64, foreground_fraction=0.5, fill=False),
    )
    net = zoo.build(spec, class_names=dataset.class_names, category_ids=dataset.category_ids)
    fit(net, [samples], STEPS)

    sizes = [(s.record.height, s.record.width) for s in samples]
    found = net.eval()([s.image for s in samples], image_sizes=sizes)
    metrics = evaluate_predictions(dataset, {s.record.id: f for s, f in zip(samples, found, strict=True)})
    assert metrics["mask"]["AP50"] > 0.99
    assert metrics["mask"]["AP"] >= 0.9
    assert metrics["box"]["AP"] >= 0.8


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_proposals_for_four_images_are_overfitted(shapes_folder: Path) -> None:
    """Every step sees the images at one level of the pyramid, in turn."""
    torch.manual_seed(0)
    dataset = open_dataset(shapes_folder, "train").as_objects()
    sides = (384, 256, 171)
    levels = [[resized(image, Resize(side, side)) for image in dataset.images[:4]] for side in sides]
    spec = tiny_proposals()
    net = zoo.build(replace(spec, fused_channels=64, head=replace(spec.head, channels=64, k=5)))
    fit(net, levels, 150)

    sizes = [(s.record.height, s.record.width) for s in levels[0]]
    found = net.eval()([s.image for s in levels[0]], image_sizes=sizes)
    metrics = evaluate_predictions(dataset, {s.record.id: f for s, f in zip(levels[0], found, strict=True)})
    assert metrics["proposals"]["AR@10"] >= 0.8
