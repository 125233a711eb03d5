"""Features of the inside of an image depend neither on what is to the right of it or below nor on the size of
the tensor that holds it.

Every image here is a strip, so that a network's receptive field fits into its length many cells away from the
end that changes: what is left of it must be equal to rounding. Strips stand upright for the other axis.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from instancefcn.models.backbone import AtrousVGG, Backbone
from instancefcn.models.fcis import FCIS
from instancefcn.models.instance_fcn import InstanceFCN
from instancefcn.models.zoo import build

LENGTH, WIDTH = 1120, 48
"""Of a strip, pixels."""
REACH = 480
"""How far, at most, a cell of these networks looks to one side, pixels."""

Maps = Sequence[Tensor]


def backbone(name: str) -> Callable[[Tensor], Maps]:
    """Features of one image [3, H, W]."""
    torch.manual_seed(0)
    network = AtrousVGG() if name == "vgg16" else Backbone(name)

    def features(image: Tensor) -> Maps:
        found = network(image[None])
        return (found,) if isinstance(found, Tensor) else found

    return features


def fcis(training: bool) -> Callable[[Tensor], Maps]:
    """Score maps, box maps and proposals' logits of FCIS, for one image [3, H, W]."""
    torch.manual_seed(0)
    network = build("fcis_fine", num_classes=2).train(training)
    assert isinstance(network, FCIS)

    def maps(image: Tensor) -> Maps:
        batch, _ = network.collate([image])
        found, box_maps, logits, _, _ = network.convolve(batch)
        assert found.whole is not None
        cells = box_maps.shape[-2:]
        return found.whole[0], box_maps[0], logits.view(-1, *cells, 12)[0].movedim(2, 0)

    return maps


def instance_fcn(image: Tensor) -> Maps:
    """Score maps and objectness of InstanceFCN, for one image [3, H, W]."""
    torch.manual_seed(0)
    network = build("instancefcn_lite").eval()
    assert isinstance(network, InstanceFCN)
    return network.score_maps(image)


def check(maps: Callable[[Tensor], Maps], changed: Callable[[Tensor], Tensor]) -> None:
    """What is beyond the reach of the end of a strip stays when the end is `changed`, along both axes."""
    generator = torch.Generator().manual_seed(0)
    strip = torch.rand(3, WIDTH, LENGTH, generator=generator)
    for turn in (False, True):
        with torch.no_grad():
            pairs = [maps(image.mT if turn else image) for image in (strip, changed(strip))]
        for whole, other in zip(*pairs, strict=True):
            one, two = (x.mT if turn else x for x in (whole, other))
            stride = 8 if one.shape[-1] > LENGTH / 12 else 16
            inside = (LENGTH - 32 - REACH) // stride
            spread = float(one.std())
            assert spread > 0
            torch.testing.assert_close(one[..., :inside], two[..., :inside], rtol=1e-4, atol=1e-4 * spread)


LARGE = ("resnet50", "vgg16")
BACKBONES = (
    "tf_efficientnet_lite0",
    "tf_efficientnet_lite1",
    "mobilenetv2_100",
    *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE),
)


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("cut", [1, 2, 7, 16, 31])
def test_features_stay_when_the_image_is_cut(name: str, cut: int) -> None:
    check(backbone(name), lambda image: image[..., :-cut])


@pytest.mark.parametrize("name", BACKBONES)
def test_features_stay_in_a_batch_with_larger_images(name: str) -> None:
    check(backbone(name), lambda image: nn.functional.pad(image, (0, 77)))


@pytest.mark.parametrize("name", BACKBONES)
def test_features_see_what_is_near(name: str) -> None:
    """The strip is long enough to tell: a change within reach is seen."""
    maps = backbone(name)
    strip = torch.rand(3, WIDTH, LENGTH, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole, other = maps(strip)[-1], maps(strip[..., : LENGTH // 2])[-1]
    cells = other.shape[-1]
    assert not torch.allclose(whole[..., cells - 1], other[..., -1], rtol=1e-3)


@pytest.mark.parametrize("training", [False, True], ids=["in test", "in training"])
@pytest.mark.parametrize("cut", [1, 9, 31])
def test_maps_of_fcis_stay_when_the_image_is_cut(training: bool, cut: int) -> None:
    check(fcis(training), lambda image: image[..., :-cut])


@pytest.mark.parametrize("cut", [1, 9, 31])
def test_maps_of_instance_fcn_stay_when_the_image_is_cut(cut: int) -> None:
    check(instance_fcn, lambda image: image[..., :-cut])


@pytest.mark.parametrize("training", [False, True], ids=["in test", "in training"])
def test_maps_of_fcis_stay_beside_a_larger_image(training: bool) -> None:
    torch.manual_seed(0)
    network = build("fcis_lite", num_classes=2).train(training)
    assert isinstance(network, FCIS)
    small, large = torch.rand(3, WIDTH, LENGTH - 27), torch.rand(3, WIDTH, LENGTH)
    found = []
    with torch.no_grad():
        for images in ([small], [small, large]):
            batch, _ = network.collate(images)
            maps, box_maps, _, _, _ = network.convolve(batch)
            assert maps.whole is not None
            found.append((maps.whole[0], box_maps[0]))
    inside = (LENGTH - 32 - REACH) // 16
    for alone, beside in zip(*found, strict=True):
        torch.testing.assert_close(
            alone[..., :inside], beside[..., :inside], rtol=1e-4, atol=1e-4 * float(alone.std())
        )


@pytest.mark.parametrize(
    ("name", "shifts"),
    [("tf_efficientnet_lite0", (3.5, 7.5, 7.5)), ("resnet50", (-3.5, -7.5, -7.5)), ("vgg16", (0.0,))],
)
def test_where_the_centre_of_a_view_lies(name: str, shifts: tuple[float, ...]) -> None:
    """The middle of the pixels that a cell depends on, from the middle of the cell (docs/conventions.md)."""
    image = torch.rand(3, WIDTH, LENGTH, generator=torch.Generator().manual_seed(0)).requires_grad_()
    for level, shift in zip(backbone(name)(image), shifts, strict=True):
        stride = LENGTH // level.shape[-1]
        cell = level.shape[-1] // 2
        (gradient,) = torch.autograd.grad(level[..., cell].sum(), image, retain_graph=True)
        seen = gradient.abs().sum((0, 1)).nonzero()[:, 0]
        middle = (float(seen[0]) + float(seen[-1]) + 1) / 2
        assert middle - (cell + 0.5) * stride == shift
