"""From a picture's own pixels to the network's input.

Cropping and mirroring happen in the picture's pixels; then the picture is resized, while masks keep their
pixels and the target says how many network pixels one of them is. So a mask is never resampled twice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as vision

from instancefcn.geometry.cropped_masks import CroppedMasks
from instancefcn.geometry.resizing import resize, resize_scale

SLIVER = 0.1
"""An object of which a crop leaves less than this share becomes a region to ignore."""
BLIND = 1 / 3
"""Where objects have a say in the size of a training picture, this share of the pictures is drawn without
asking them: the network must also know what a wrong size looks like."""


@dataclass(frozen=True, eq=False)
class Scene:
    """One picture and its objects, all in the same pixels.

    Attributes:
        image: uint8 [3, H, W], RGB.
        masks: the G objects' masks.
        labels: int64 [G].
        crowd: float32 [K, 4]: half-open boxes of regions to ignore.
    """

    image: Tensor
    masks: CroppedMasks
    labels: Tensor
    crowd: Tensor


@dataclass(frozen=True)
class Resize:
    """The input of inference and evaluation: short side `short`, long side at most `long` pixels."""

    short: int
    long: int

    def __call__(self, image: Tensor) -> tuple[Tensor, tuple[float, float]]:
        return resize(image, self.short, self.long)


@dataclass(frozen=True)
class Augment:
    """Random changes of a training picture. Every draw comes from the generator that is passed in.

    Attributes:
        short_sides: the short side is drawn uniformly from this range, both ends included (network pixels).
        choices: when there are any, the short side is drawn from these instead.
        fits: with `choices`: the larger side of an object should lie between these (network pixels), so two
            pictures in three take a choice, drawn uniformly, at which that is true of some object (all
            choices where it never is). A blind draw would show most objects at a useless size.
        long: largest long side.
        flip: probability of mirroring left and right.
        turn: probability of a quarter, half or three-quarter turn, each as likely as none.
        brightness, contrast, saturation: factors are drawn from 1 - x to 1 + x (0 to 1).
        crop: probability of cutting out a window.
        min_crop: smallest side of that window, as a share of the picture's side. A window of a picture with
            objects holds the centre of at least one.
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
            the network's input, float32 [3, h, w] from 0 to 1; the scene after crop and flip, in the
            picture's pixels; (x, y) network pixels per pixel of that scene.
        """
        # All numbers are drawn whatever is then used: switching one change off does not reshuffle the others.
        draw = torch.rand(14, generator=generator, dtype=torch.float64).tolist()
        if draw[0] < self.crop:
            window = _draw_window(scene, self.min_crop, draw[6:11])
            scene = crop(scene, window)
        if draw[1] < self.flip:
            scene = flip(scene)
        if draw[12] < self.turn:
            scene = turn(scene, int(4 * draw[13]))
        low, high = self.short_sides
        short = min(high, low + int(draw[2] * (high - low + 1)))
        if self.choices:
            choices = self.choices if draw[11] < BLIND else self._fitting(scene)
            short = choices[int(draw[2] * len(choices))]
        image, scale = resize(scene.image, short, self.long)
        contrast = 1 + self.contrast * (2 * draw[4] - 1)
        image = image.mul_(contrast).add_((1 - contrast) * mean_gray(scene.image)).clamp_(0, 1)
        image = vision.adjust_brightness(image, 1 + self.brightness * (2 * draw[3] - 1))
        image = vision.adjust_saturation(image, 1 + self.saturation * (2 * draw[5] - 1))
        return image, scene, scale

    def _fitting(self, scene: Scene) -> tuple[int, ...]:
        """The choices at which some object is as large as it should be; all when there is none."""
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

    Summed in whole numbers: a sum of floats depends on the number of threads, and samples must not.
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
    """The scene turned counter-clockwise by so many quarters (0 to 3)."""
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
    """The part of a scene inside a window x1, y1, x2, y2 (whole pixels, half-open, inside the picture).

    Objects that leave no pixel in the window go; those that leave less than SLIVER of their pixels become
    regions to ignore.
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


def _draw_window(scene: Scene, min_crop: float, draw: list[float]) -> tuple[int, int, int, int]:
    """A window from five numbers in [0, 1): its sides, which object's centre it holds, and its place."""
    height, width = scene.masks.image_size
    w = max(1, round(width * (min_crop + (1 - min_crop) * draw[0])))
    h = max(1, round(height * (min_crop + (1 - min_crop) * draw[1])))
    low_x, high_x, low_y, high_y = 0, width - w, 0, height - h
    boxes = scene.masks.tight_boxes()
    boxes = boxes[boxes[:, 2] > boxes[:, 0]]
    if len(boxes):
        box = boxes[int(draw[2] * len(boxes))].tolist()
        centre_x, centre_y = int((box[0] + box[2]) / 2), int((box[1] + box[3]) / 2)  # the pixel that holds it
        low_x, high_x = max(low_x, centre_x - w + 1), min(high_x, centre_x)
        low_y, high_y = max(low_y, centre_y - h + 1), min(high_y, centre_y)
    x1 = low_x + int(draw[3] * (high_x - low_x + 1))
    y1 = low_y + int(draw[4] * (high_y - low_y + 1))
    return x1, y1, x1 + w, y1 + h
