"""From an image's own pixels to the network's input.

Cropping and mirroring happen in the image's pixels. Then the image is resized, while masks keep their pixels
and the target holds the scale. So a mask is never resampled twice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as vision

from instancefcn.geometry.cropped_masks import CroppedMasks
from instancefcn.geometry.resizing import resize, resize_scale

SLIVER = 0.1
"""An object of which less than this share of pixels is left after a crop becomes a region to ignore."""
UNFITTED = 1 / 3
"""The share of images whose size does not depend on their objects, although `fits` is set: the network must
also see objects of unsuitable size."""


@dataclass(frozen=True, eq=False)
class Scene:
    """One image and its objects, all in the same pixels.

    Attributes:
        image: uint8 [3, H, W], RGB.
        masks: masks of G objects.
        labels: int64 [G].
        crowd: float32 [K, 4]: half-open boxes of regions to ignore.
    """

    image: Tensor
    masks: CroppedMasks
    labels: Tensor
    crowd: Tensor


@dataclass(frozen=True)
class Resize:
    """Resize for inference and evaluation: short side `short`, long side at most `long` pixels."""

    short: int
    long: int

    def __call__(self, image: Tensor) -> tuple[Tensor, tuple[float, float]]:
        return resize(image, self.short, self.long)


@dataclass(frozen=True)
class Augment:
    """Random augmentation of a training image. All randomness comes from the generator passed in.

    Attributes:
        short_sides: the short side is drawn uniformly from this range, both ends included (network pixels).
        long: maximum long side (network pixels).
        flip: probability of mirroring left and right.
        turn: probability of a random rotation by 0, 90, 180 or 270 degrees.
        brightness, contrast, saturation: factors are drawn from 1 - x to 1 + x, x from 0 to 1.
        crop: probability of cropping to a window.
        min_crop: minimum side of that window, as a share of the image's side. In an image with objects, the
            window holds the centre of at least one.
        window: larger images are always cropped to a window of this side, in pixels of the image, or of the
            image's own side where that is shorter; `short_sides` are those of a whole window. 0 is off.
        choices: short sides to draw from instead of `short_sides`, if not empty.
        fits: with `choices`, the desired range of an object's larger side (network pixels). Two images in
            three draw uniformly from the choices that bring some object into this range, or from all choices
            if none does. A fully random draw would show most objects at a useless size.
    """

    short_sides: tuple[int, int]
    long: int
    flip: float = 0.5
    turn: float = 0.0
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    crop: float = 0.0
    min_crop: float = 0.5
    window: int = 0
    choices: tuple[int, ...] = ()
    fits: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        low, high = self.short_sides
        if not 1 <= low <= high:
            raise ValueError(f"short_sides must be (low, high) with 1 <= low <= high, got {self.short_sides}")
        for name in ("flip", "turn", "brightness", "contrast", "saturation", "crop"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie between 0 and 1, got {getattr(self, name)}")
        if not 0 < self.min_crop <= 1:
            raise ValueError(f"min_crop must lie above 0 and be at most 1, got {self.min_crop}")

    def __call__(self, scene: Scene, generator: torch.Generator) -> tuple[Tensor, Scene, tuple[float, float]]:
        """Apply it.

        Returns:
            The network's input, float32 [3, h, w] from 0 to 1; the scene after crop, flip and rotation, in
            the image's pixels; (x, y) network pixels per pixel of that scene.
        """
        # All numbers are drawn even if unused, so that one setting does not change the draws of the others.
        draw = torch.rand(14, generator=generator, dtype=torch.float64).tolist()
        height, width = scene.masks.image_size
        if 0 < self.window < max(height, width):
            sides = min(width, self.window), min(height, self.window)
            scene = crop(scene, _draw_window(scene, *sides, draw[8:11]))
        elif draw[0] < self.crop:
            shares = (self.min_crop + (1 - self.min_crop) * share for share in draw[6:8])
            sides = tuple(max(1, round(side * s)) for side, s in zip((width, height), shares, strict=True))
            scene = crop(scene, _draw_window(scene, *sides, draw[8:11]))
        if draw[1] < self.flip:
            scene = flip(scene)
        if draw[12] < self.turn:
            scene = turn(scene, int(4 * draw[13]))
        low, high = self.short_sides
        short = min(high, low + int(draw[2] * (high - low + 1)))
        if self.choices:
            choices = self.choices if draw[11] < UNFITTED else self._fitting(scene)
            short = choices[int(draw[2] * len(choices))]
        if 0 < self.window < max(height, width):
            short = max(1, round(short * min(scene.masks.image_size) / self.window))
        image, scale = resize(scene.image, short, self.long)
        contrast = 1 + self.contrast * (2 * draw[4] - 1)
        image = image.mul_(contrast).add_((1 - contrast) * mean_gray(scene.image)).clamp_(0, 1)
        image = vision.adjust_brightness(image, 1 + self.brightness * (2 * draw[3] - 1))
        image = vision.adjust_saturation(image, 1 + self.saturation * (2 * draw[5] - 1))
        return image, scene, scale

    def _fitting(self, scene: Scene) -> tuple[int, ...]:
        """The choices that bring some object into the range `fits`; all choices if none does."""
        if self.fits is None:
            return self.choices
        boxes, (height, width) = scene.masks.tight_boxes(), scene.masks.image_size
        larger = (boxes[:, 2:] - boxes[:, :2]).amax(1) if len(boxes) else boxes.new_zeros(0)
        fitting = []
        for short in self.choices:
            sides = larger * resize_scale(height, width, short, self.long)
            if bool(((sides >= self.fits[0]) & (sides <= self.fits[1])).any()):
                fitting.append(short)
        return tuple(fitting) or self.choices


def mean_gray(image: Tensor) -> float:
    """Mean luma of uint8 [3, H, W], 0 to 1.

    The sum is of integers: a sum of floats depends on the number of threads, which samples must not.
    """
    red, green, blue = (int(channel.sum(dtype=torch.int64)) for channel in image)
    return (0.299 * red + 0.587 * green + 0.114 * blue) / (255 * image.shape[1] * image.shape[2])


def flip(scene: Scene) -> Scene:
    """The mirrored scene: left becomes right."""
    width = scene.image.shape[-1]
    x1, y1, x2, y2 = scene.crowd.unbind(1)
    return replace(
        scene,
        image=scene.image.flip(-1),
        masks=scene.masks.flip_horizontal(),
        crowd=torch.stack((width - x2, y1, width - x1, y2), 1),
    )


def turn(scene: Scene, quarters: int) -> Scene:
    """The scene rotated counter-clockwise by `quarters` times 90 degrees (0 to 3)."""
    for _ in range(quarters):
        scene = transpose(flip(scene))
    return scene


def transpose(scene: Scene) -> Scene:
    """The scene mirrored at its main diagonal: rows become columns."""
    return replace(
        scene,
        image=scene.image.transpose(1, 2),
        masks=scene.masks.transpose(),
        crowd=scene.crowd[:, [1, 0, 3, 2]],
    )


def crop(scene: Scene, window: tuple[int, int, int, int]) -> Scene:
    """The part of a scene inside a window x1, y1, x2, y2 (integer pixels, half-open, inside the image).

    Objects without a pixel in the window are removed. Those with less than SLIVER of their pixels in it
    become regions to ignore.
    """
    x1, y1, x2, y2 = window
    masks = scene.masks.crop_to(x1, y1, x2, y2)
    left, whole = masks.areas(), scene.masks.areas()
    kept, sliver = left >= SLIVER * whole, (left > 0) & (left < SLIVER * whole)
    kept &= left > 0
    corner, size = torch.tensor([x1, y1, x1, y1]), torch.tensor([x2 - x1, y2 - y1, x2 - x1, y2 - y1])
    crowd = torch.minimum((scene.crowd - corner).clamp(min=0), size.float())
    crowd = crowd[(crowd[:, 2] > crowd[:, 0]) & (crowd[:, 3] > crowd[:, 1])]
    return Scene(
        image=scene.image[:, y1:y2, x1:x2],
        masks=masks[kept],
        labels=scene.labels[kept],
        crowd=torch.cat((crowd, masks[sliver].tight_boxes())),
    )


def _draw_window(scene: Scene, w: int, h: int, draw: list[float]) -> tuple[int, int, int, int]:
    """A window of w x h pixels from three numbers in [0, 1): the object whose centre it holds, and its
    position.
    """
    height, width = scene.masks.image_size
    low_x, high_x, low_y, high_y = 0, width - w, 0, height - h
    boxes = scene.masks.tight_boxes()
    boxes = boxes[boxes[:, 2] > boxes[:, 0]]
    if len(boxes):
        box = boxes[int(draw[0] * len(boxes))].tolist()
        centre_x, centre_y = int((box[0] + box[2]) / 2), int((box[1] + box[3]) / 2)  # the pixel of the centre
        low_x, high_x = max(low_x, centre_x - w + 1), min(high_x, centre_x)
        low_y, high_y = max(low_y, centre_y - h + 1), min(high_y, centre_y)
    x1 = low_x + int(draw[1] * (high_x - low_x + 1))
    y1 = low_y + int(draw[2] * (high_y - low_y + 1))
    return x1, y1, x1 + w, y1 + h
