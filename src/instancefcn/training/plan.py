"""What the data ask for: the settings of a run, each with its reason, so that nobody has to choose them.

A plan is made from the annotations of the train split, a look at some images, and the machine. It is to the
settings of a run what a model's own recipe is to a paper's model: whatever the user gives comes first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from instancefcn.data.dataset import Dataset
from instancefcn.errors import ImageError
from instancefcn.images.decoding import read_image
from instancefcn.models import zoo
from instancefcn.models.rpn import AnchorSpec

MODEL = "fcis_wide"
"""The architecture of every plan: fine maps for small objects, anchors up to large ones."""
GENERAL = "fcis-objects"
"""The bundled weights that know objects in general; they are of MODEL."""

SEEN = 24.0
"""Pixels of the network's input that four objects in five should have (square root of the box's area): three
cells of the score maps."""
AMPLE = 224.0
"""Pixels that half of the objects need not exceed: more pixels cost time and show nothing new."""
ENLARGED = 2.0
"""Maximum enlargement of an image."""
SIDES = (320, 896)
"""Range of the input's short side, px. Larger images are read in tiles."""
WINDOW = 512
"""Side of the network's input for crops, px."""
WHOLE = 640
"""Images whose long side would be larger, px, are trained on in crops: more steps fit into a minute."""
TRAINED = (0.5, 1.0)
"""Range of the input in training, as a share of that in prediction: objects at other distances, and short
steps. Crops show some of them larger."""
STEPS = 1500
"""Steps of a run without a budget, unless twelve epochs are more."""
EPOCHS = (12, 300)
"""Range of epochs without a budget."""
EVALUATIONS = 10
"""Evaluations in a run without a budget."""
LOOKED_AT = 64
"""Images that are looked at for an upright direction."""
MIN_LOOKS = 8
UPRIGHT = 4.0
"""Standard errors by which top and bottom, or width and height, must differ to call images upright."""
THIN = 3.0
"""Aspect ratio of a thin box."""
MANY_THIN = 0.1
"""Share of thin boxes from which anchors are made thin, too."""


@dataclass(frozen=True)
class Line:
    """One decision: `setting` (dotted, a field of `TrainConfig`), its value, and why."""

    setting: str
    value: Any
    reason: str


@dataclass(frozen=True)
class Plan:
    """The decisions for a run, in the order in which they are explained."""

    lines: tuple[Line, ...]

    def settings(self) -> dict[str, Any]:
        """The decisions by setting."""
        return {line.setting: line.value for line in self.lines}

    def without(self, given: Mapping[str, Any]) -> Plan:
        """The plan without the lines that the nested settings `given` decide."""
        return Plan(tuple(line for line in self.lines if not _decides(given, line.setting.split("."))))

    def as_json(self) -> list[dict[str, Any]]:
        """One object for each line."""
        return [asdict(line) for line in self.lines]

    def __str__(self) -> str:
        """A table of settings, values and reasons."""
        cells = [(line.setting, _shown(line.value), line.reason) for line in self.lines]
        widths = [max(len(row[i]) for row in cells) for i in (0, 1)]
        return "\n".join(
            f"{name:<{widths[0]}}  {value:<{widths[1]}}  {reason}" for name, value, reason in cells
        )


@dataclass(frozen=True)
class Survey:
    """The train split in numbers.

    Attributes:
        images: their number.
        short, long: median sides of an image, px.
        longest: long side of the largest image, px.
        sides: square roots of the boxes' areas, px, ascending; at least one.
        aspects: the boxes' width / height.
        heights: of the boxes' centres above the middle of the image, as shares of its height.
    """

    images: int
    short: float
    long: float
    longest: int
    sides: NDArray[np.float64]
    aspects: NDArray[np.float64]
    heights: NDArray[np.float64]

    @classmethod
    def of(cls, train: Dataset) -> Survey:
        """Count and measure; crowds are left out."""
        objects = [
            (*a.box, image.height) for image in train.images for a in image.annotations if not a.crowd
        ] or [(0.0, 0.0, 64.0, 64.0, 64)]  # nothing to go by: one object of a common size
        left, top, right, bottom, height = np.array(objects, dtype=np.float64).T
        spans = np.stack((right - left, bottom - top), axis=1).clip(min=1.0)
        sizes = np.array([(image.height, image.width) for image in train.images])
        return cls(
            images=len(train),
            short=float(np.median(sizes.min(1))),
            long=float(np.median(sizes.max(1))),
            longest=int(sizes.max()),
            sides=np.sort(np.sqrt(spans.prod(1))),
            aspects=spans[:, 0] / spans[:, 1],
            heights=0.5 - (top + bottom) / 2 / height,
        )

    def side(self, share: float) -> float:
        """The side that this share of the objects does not exceed, px."""
        return float(np.quantile(self.sides, share))


def make_plan(
    train: Dataset, *, minutes: float | None, batch_size: int, bfloat16: bool, general: bool
) -> Plan:
    """The plan for a train split.

    Args:
        minutes: the budget; None chooses epochs.
        batch_size: images a step.
        bfloat16: whether this machine computes it natively.
        general: whether to start from GENERAL.
    """
    survey = Survey.of(train)
    lines = [
        Line("model", MODEL, "score maps of stride 8 and anchors of all sizes: one model for any objects")
    ]
    if general:
        lines.append(Line("init", GENERAL, "it outlines objects of any kind before the first step"))
    scale, why = _scale(survey)
    lines += _input(survey, scale, why)
    lines += _anchors(survey, scale)
    lines += _augmentation(train, survey)
    lines += _length(survey.images, minutes, batch_size)
    lines.append(
        Line("precision", "bf16-mixed", "this machine computes bfloat16 natively: half the time")
        if bfloat16
        else Line("precision", "32", "this machine does not compute bfloat16 natively")
    )
    return Plan(tuple(lines))


def _scale(survey: Survey) -> tuple[float, str]:
    """Network pixels per image pixel, and why."""
    scale, why = _scale_for_objects(survey)
    if scale * survey.short >= SIDES[0]:
        return scale, why
    return SIDES[0] / survey.short, f"the smallest input; objects need only {scale * survey.short:.0f} px"


def _scale_for_objects(survey: Survey) -> tuple[float, str]:
    small, middle = survey.side(0.2), survey.side(0.5)
    if SEEN / small > 1:
        scale = min(ENLARGED, SEEN / small)
        return (
            scale,
            f"a fifth of the objects is smaller than {small:.0f} px: images are enlarged {scale:.2g} times",
        )
    if AMPLE / middle < 1:
        scale = max(AMPLE / middle, SEEN / small)
        return scale, f"half of the objects is larger than {middle:.0f} px: images are shrunk to {scale:.0%}"
    return 1.0, f"objects of {small:.0f} to {survey.side(0.8):.0f} px are seen well at the images' own size"


def _input(survey: Survey, scale: float, why: str) -> list[Line]:
    """Sides of the network's input in prediction, and of crops or whole images in training."""
    short, long = scale * survey.short, scale * survey.long
    lines = [
        Line("short_side", min(SIDES[1], _round(short)), why),
        Line("long_side", _round(min(2.0 * short, 1.02 * long), math.ceil), "in proportion"),
    ]
    if short > SIDES[1]:
        lines = [
            Line(
                "short_side", WINDOW, f"{why}; whole images would be {short:.0f} px: they are read in tiles"
            ),
            Line("long_side", WINDOW, "tiles are square"),
        ]
    elif long <= WHOLE:
        return lines + _training_sides(lines[0].value, lines[1].value)
    crop = Line("window", round(WINDOW / scale), f"crops that are {WINDOW} px at that scale: short steps")
    return [*lines, crop, *_training_sides(WINDOW, WINDOW)]


def _training_sides(short: int, long: int) -> list[Line]:
    least, most = TRAINED
    return [
        Line(
            "train_short",
            (_round(least * short), _round(most * short)),
            "objects at other distances, too, and short steps",
        ),
        Line("train_long", _round(most * long, math.ceil), "in proportion"),
    ]


def _anchors(survey: Survey, scale: float) -> list[Line]:
    """Sides and ratios of anchors: those of MODEL that the objects need."""
    spec = zoo.SPECS[MODEL]
    assert isinstance(spec, zoo.ModelSpec)
    own = [side * spec.anchors.stride for side in spec.anchors.scales]
    low, high = (scale * survey.side(share) for share in (0.01, 0.99))
    fitting = [side for side in own if low / 2 <= side <= 2 * high]
    sides = tuple(fitting or [min(own, key=lambda side: abs(math.log(side / high)))])
    lines = [
        Line("anchor_sides", sides, f"98 % of the objects have {low:.0f} to {high:.0f} px at that input")
    ]
    stretched = np.maximum(survey.aspects, 1 / survey.aspects)
    share = float((stretched > THIN).mean())
    if share > MANY_THIN:
        ratios = (0.25, *AnchorSpec.ratios, 4.0)
        lines.append(Line("anchor_ratios", ratios, f"{share:.0%} of the boxes are thinner than 1 : {THIN:g}"))
    return lines


def _augmentation(train: Dataset, survey: Survey) -> list[Line]:
    crop = Line("augment.crop", 0.5, "crops show objects larger and with other neighbours")
    if reason := _upright(train, survey):
        return [crop, Line("augment.turn", 0.0, f"images are upright: {reason}")]
    return [
        crop,
        Line("augment.turn", 1.0, "images look alike upside down: quarter turns make new ones"),
    ]


def _upright(train: Dataset, survey: Survey) -> str:
    """What tells that images have an upright direction; "" when nothing does. Images are opened only when
    their annotations do not tell.
    """
    if sign := _telling({"shape of objects": np.log(survey.aspects), "height of objects": survey.heights}):
        return sign
    few = train.images[:: max(1, len(train) // LOOKED_AT)][:LOOKED_AT]
    looks = np.array([look for image in few if (look := _look(image.path)) is not None])
    if len(looks) < MIN_LOOKS:
        return "too few images to tell"
    names = ("top and bottom", "edges of top and bottom", "direction of edges")
    return _telling(dict(zip(names, looks.T, strict=True)))


def _telling(signs: Mapping[str, NDArray[np.float64]]) -> str:
    """The first sign whose values differ from 0 in one direction; "" when none does."""
    return next((sign for sign, values in signs.items() if abs(_standard_errors(values)) > UPRIGHT), "")


def _look(path: Path) -> tuple[float, float, float] | None:
    """How much brighter and how much richer in edges the top of an image is than its bottom, and how much
    stronger edges are downwards than sideways; None for an unreadable image: the data's check names it.
    """
    try:
        image = read_image(path)
    except ImageError:
        return None
    gray = adaptive_avg_pool2d(image.float().mean(0)[None], 64)[0]
    down, across = gray.diff(dim=0).abs(), gray.diff(dim=1).abs()
    ratio = ((down.mean() + 1) / (across.mean() + 1)).log()
    return _top_minus_bottom(gray), _top_minus_bottom(down), float(ratio)


def _top_minus_bottom(values: Tensor) -> float:
    half = len(values) // 2
    return float(values[:half].mean() - values[-half:].mean())


def _standard_errors(values: NDArray[np.float64]) -> float:
    """The mean in units of its standard error; 0 of a single value."""
    spread = float(values.std(ddof=1)) if len(values) > 1 else math.inf
    return float(values.mean()) / (spread / math.sqrt(len(values)) + 1e-9)


def _length(images: int, minutes: float | None, batch_size: int) -> list[Line]:
    if minutes is not None:
        return [
            Line("minutes", minutes, "as asked for; the learning rate falls to zero at the end"),
            Line("evaluate_every", 0, "val is measured at the end: the minutes are for training"),
            Line("sheets_every", 0, "at the end"),
        ]
    steps = math.ceil(images / batch_size)
    epochs = min(EPOCHS[1], max(EPOCHS[0], math.ceil(STEPS / steps)))
    every = max(1, epochs // EVALUATIONS)
    return [
        Line("epochs", epochs, f"{epochs * steps:,} steps of {batch_size} of {images} images"),
        Line("evaluate_every", every, "epochs: about ten times"),
        Line("sheets_every", every, "with every evaluation"),
    ]


def _round(side: float, how: Any = round) -> int:
    """A multiple of 32, the coarsest stride of the backbone."""
    return 32 * max(1, how(side / 32))


def _decides(given: Any, keys: list[str]) -> bool:
    if not keys:
        return True
    return isinstance(given, Mapping) and keys[0] in given and _decides(given[keys[0]], keys[1:])


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(f"{one:g}" for one in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
