"""The small form of predictions holds what the large one does."""

from __future__ import annotations

import torch

from fakes import ColourNetwork, coloured
from instancefcn.evaluation.predictions import decode_instances, encode_instances
from instancefcn.images.decoding import to_uint8_rgb
from instancefcn.instances import Instances


def found() -> Instances:
    image = to_uint8_rgb(coloured()).float() / 255
    (instances,) = ColourNetwork()([image], [(80, 120)])
    assert len(instances) == 2
    return instances


def test_there_and_back() -> None:
    instances = found()
    small = encode_instances(instances)
    assert len(small) == 2
    assert small.rles() == instances.rles()
    assert small.to_coco(7) == instances.to_coco(7)
    again = decode_instances(small)
    assert torch.equal(again.dense_masks(), instances.dense_masks())
    for name in ("boxes", "scores", "labels"):
        assert torch.equal(getattr(again, name), getattr(instances, name))
    assert (again.class_names, again.category_ids) == (instances.class_names, instances.category_ids)
    assert decode_instances(instances) is instances


def test_parts_are_the_parts_of_the_large_form() -> None:
    instances, small = found(), encode_instances(found())
    for index in (slice(1, None), torch.tensor([False, True]), torch.tensor([1])):
        assert small[index].to_coco(1) == instances[index].to_coco(1)
    assert small.filter(0.7).to_coco(1) == instances.filter(0.7).to_coco(1)
    nothing = decode_instances(small.filter(0.95))
    assert len(nothing) == 0
    assert nothing.image_size == (80, 120)
