"""Score maps of many classes without holding them all.

81 classes on a picture of 600 x 1000 pixels have 76 MB of score maps, 1,200 classes 1.1 GB. A class's score
needs its own maps alone, so beyond a limit the maps are made from the features a block of classes at a time,
read and let go; masks make the maps of the classes that they are of. The results are those of all maps at
once.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from instancefcn.ops import class_scores, mask_logits, ps_average

MAX_BYTES = 256 * 2**20
"""Of the score maps that are held at once for each picture of a batch."""


class ClassMaps:
    """The 2 k^2 C score maps of a batch (C classes with background), by need.

    Args:
        features: [N, D, H, W].
        weight, bias: of the 1x1 convolution that makes the maps, [2 k^2 C, D, 1, 1] and [2 k^2 C], channels
            in the order (row part, column part, outside/inside, class).
        k: parts of a window along each side.
        joint: False reads classes from the outside maps and masks from the inside ones (ablation).
        max_bytes: a picture's maps beyond this are not held at once.
    """

    def __init__(
        self, features: Tensor, weight: Tensor, bias: Tensor, k: int, joint: bool, max_bytes: int = MAX_BYTES
    ) -> None:
        self.features, self.joint = features, joint
        self.weight, self.bias = weight.unflatten(0, (k, k, 2, -1)), bias.unflatten(0, (k, k, 2, -1))
        self.k, self.classes = k, self.weight.shape[3]
        one = features[0, 0].numel() * k**2 * 2 * features.element_size()
        # An exported graph cannot choose by the size of the picture that it will get.
        fits = torch.compiler.is_exporting() or one * self.classes <= max_bytes
        self.block = self.classes if fits else max(1, max_bytes // one)
        self.whole = self.of(features, self.weight, self.bias) if self.block == self.classes else None

    def of(self, features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Maps [N, k, k, 2, c, H, W] of some classes from their weights [k, k, 2, c, D, 1, 1] and biases."""
        maps = F.conv2d(features, weight.flatten(0, 3), bias.flatten())
        return maps.unflatten(1, (self.k, self.k, 2, weight.shape[3]))

    def class_logits(self, rois: Tensor, stride: float) -> Tensor:
        """Class logits [R, C] of RoIs [R, 5] (pixels): the window means of max(inside, outside)."""
        if self.whole is not None:
            return self._scores(self.whole, rois, stride)
        blocks = []
        for first in range(0, self.classes, self.block):
            chosen = slice(first, first + self.block)
            # With gradients, the block's maps are made again on the way back instead of being kept.
            blocks.append(
                checkpoint(
                    lambda *given: self._scores(self.of(*given), rois, stride),
                    self.features,
                    self.weight[:, :, :, chosen],
                    self.bias[:, :, :, chosen],
                    use_reentrant=False,
                )
            )
        return torch.cat(blocks, 1)

    def mask_logits(self, rois: Tensor, classes: Tensor, stride: float, size: int) -> Tensor:
        """Mask logits [R, size, size] of RoIs [R, 5], each for one class int64 [R] (background is 0)."""
        if self.whole is not None:
            return self._masks(self.whole, rois, classes, stride, size)
        kinds, places = classes.unique(return_inverse=True)
        result = self.features.new_zeros((len(rois), size, size))
        for first in range(0, len(kinds), self.block):
            chosen = kinds[first : first + self.block]
            rows = ((places >= first) & (places < first + self.block)).nonzero()[:, 0]
            maps = self.of(self.features, self.weight[:, :, :, chosen], self.bias[:, :, :, chosen])
            found = self._masks(maps, rois[rows], places[rows] - first, stride, size)
            result = result.to(found.dtype).index_copy(0, rows, found)
        return result

    def _scores(self, maps: Tensor, rois: Tensor, stride: float) -> Tensor:
        if self.joint:
            return class_scores(maps, rois, stride)
        return ps_average(maps[:, :, :, 0], rois, stride)

    def _masks(self, maps: Tensor, rois: Tensor, classes: Tensor, stride: float, size: int) -> Tensor:
        if not self.joint:
            inside = maps[:, :, :, 1:]
            maps = torch.cat((torch.zeros_like(inside), inside), dim=3)
        return mask_logits(maps, rois, classes, stride, size)
