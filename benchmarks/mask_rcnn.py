"""torchvision's Mask R-CNN with FPN, dressed as one of our networks: the same code trains and measures it.

The backbone is a network of timm's with the same weights, the same frozen and folded normalisations and the
same frozen first layers as ours.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from instancefcn.geometry.cropped_masks import CroppedMasks
from instancefcn.instances import Instances
from instancefcn.models.backbone import fold_frozen_norms, load_features, parameter_groups, published_weights
from instancefcn.models.fcis import MIN_SCORE
from instancefcn.models.head import Classes
from instancefcn.models.targets import Target

LEVELS = 5
MASK_THRESHOLD = 0.5


class Pyramid(nn.Module):
    """C2 to C5 of a timm network and the feature pyramid on them.

    Args:
        name: timm's.
        frozen: names of the first modules that are not trained.
        pretrained: ImageNet weights, or random ones.
        channels: of the pyramid.
    """

    def __init__(
        self, name: str, frozen: tuple[str, ...], pretrained: bool = True, channels: int = 256
    ) -> None:
        super().__init__()
        self.body = timm.create_model(name, features_only=True, out_indices=(1, 2, 3, 4), pretrained=False)
        if pretrained:
            load_features(self.body, published_weights(name), name)
        fold_frozen_norms(self.body)
        for parameter_name, parameter in self.body.named_parameters():
            if parameter_name.startswith(frozen):
                parameter.requires_grad_(False)
        information: Any = self.body.feature_info
        self.fpn = FeaturePyramidNetwork(information.channels(), channels, LastLevelMaxPool())
        self.out_channels = channels

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """[N, 3, H, W] to five levels."""
        levels: OrderedDict[str, Tensor] = self.fpn(
            OrderedDict((str(i), level) for i, level in enumerate(self.body(images)))
        )
        return levels


class AsGiven(GeneralizedRCNNTransform):
    """Images keep their size; torchvision's `_skip_resize` means training alone."""

    def resize(
        self, image: Tensor, target: dict[str, Tensor] | None = None
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        """Both as they are."""
        return image, target


class SinglePrecision(nn.Module):
    """A module whose outputs are float32 under autocast too: boxes decoded in bfloat16 are pixels off."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *inputs: Any) -> Any:
        return tree_map(Tensor.float, self.inner(*inputs))


class MaskRCNNPeer(nn.Module):
    """Losses while training, `Instances` otherwise; called as FCIS is.

    Args:
        classes: without background.
        backbone, frozen, pretrained: see `Pyramid`.
        instances: an image, at most.
        smallest_anchor: its side on the finest level, pixels of the network's input; it doubles from level to
            level. 32 is torchvision's.
    """

    def __init__(
        self,
        classes: Classes,
        backbone: str,
        frozen: tuple[str, ...],
        pretrained: bool = True,
        instances: int = 100,
        smallest_anchor: int = 32,
    ) -> None:
        super().__init__()
        config = timm.get_pretrained_cfg(backbone)
        anchors = tuple((smallest_anchor * 2**level,) for level in range(LEVELS))
        self.classes = classes
        self.network = MaskRCNN(
            Pyramid(backbone, frozen, pretrained),
            num_classes=len(classes) + 1,
            rpn_anchor_generator=AnchorGenerator(anchors, ((0.5, 1.0, 2.0),) * LEVELS),
            box_detections_per_img=instances,
        )
        self.network.transform = AsGiven(1, 1, list(config.mean), list(config.std))
        self.network.rpn.head = SinglePrecision(self.network.rpn.head)
        self.network.roi_heads.box_predictor = SinglePrecision(self.network.roi_heads.box_predictor)

    def forward(
        self,
        images: list[Tensor],
        targets: list[Target] | None = None,
        image_sizes: list[tuple[int, int]] | None = None,
        min_score: float = 0.0,
        max_instances: int = 100,
        generators: Any = None,
    ) -> Any:
        """As `FCIS.forward`; torchvision draws its samples from the global generator."""
        self.network.roi_heads.score_thresh = max(min_score, MIN_SCORE)
        if self.training:
            assert targets is not None
            pairs = zip(images, targets, strict=True)
            return self.network(images, [self._truth(image, target) for image, target in pairs])
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        batch, _ = self.network.transform(images)
        features = self.network.backbone(batch.tensors)
        proposals, _ = self.network.rpn(batch, features)
        found, _ = self.network.roi_heads(features, proposals, batch.image_sizes)
        found = self.network.transform.postprocess(found, batch.image_sizes, image_sizes or sizes)
        return [self._instances(f, size) for f, size in zip(found, image_sizes or sizes, strict=True)]

    def _truth(self, image: Tensor, target: Target) -> dict[str, Tensor]:
        """The target in torchvision's form, its masks at the size of the network's input."""
        dense = target.masks.dense().float()
        if len(dense):
            dense = F.interpolate(dense[None], image.shape[1:], mode="bilinear")[0]
        else:
            dense = dense.new_zeros((0, *image.shape[1:]))
        kept = (target.boxes[:, 2:] - target.boxes[:, :2]).amin(1) > 0
        return {
            "boxes": target.boxes[kept],
            "labels": target.labels[kept] + 1,
            "masks": (dense[kept] >= 0.5).to(torch.uint8),
        }

    def _instances(self, found: dict[str, Tensor], size: tuple[int, int]) -> Instances:
        scores, order = found["scores"].sort(descending=True, stable=True)
        dense = found["masks"][order, 0] >= MASK_THRESHOLD
        masks = CroppedMasks.from_dense(dense) if len(dense) else CroppedMasks.empty(size)
        return Instances(
            found["boxes"][order].float(),
            scores.float(),
            found["labels"][order] - 1,
            masks,
            self.classes.names,
            self.classes.ids,
        )

    def parameter_groups(self, backbone_rate: float = 1.0) -> list[dict[str, Any]]:
        """As `FCIS.parameter_groups`."""
        return parameter_groups(self, lambda name: backbone_rate if ".body." in name else 1.0)
