"""The two data sets that networks were published for."""

from __future__ import annotations

from dataclasses import dataclass

from instancefcn.data.voc_format import VOC_CLASSES
from instancefcn.models.head import Classes
from instancefcn.models.published import Published, PublishedSpec

_COCO = (
    "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant,"
    " stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe,"
    " backpack, umbrella, handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat,"
    " baseball glove, skateboard, surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon,"
    " bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, couch,"
    " potted plant, bed, dining table, toilet, tv, laptop, mouse, remote, keyboard, cell phone, microwave,"
    " oven, toaster, sink, refrigerator, book, clock, vase, scissors, teddy bear, hair drier, toothbrush"
)
COCO_CLASSES = tuple(_COCO.split(", "))
COCO_IDS = tuple(i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83))


@dataclass(frozen=True)
class Variant:
    """What a network was trained for.

    Attributes:
        title: of the data set.
        classes: in the published order.
        scales, min_size: see `PublishedSpec`.
    """

    title: str
    classes: Classes
    scales: tuple[float, ...]
    min_size: float

    @property
    def anchors(self) -> int:
        """Of a cell: three shapes at each scale."""
        return 3 * len(self.scales)

    def spec(self, published: Published) -> PublishedSpec:
        """The network of this data set."""
        return PublishedSpec(published, self.scales, self.min_size)


VARIANTS = (
    Variant("PASCAL VOC", Classes(VOC_CLASSES, tuple(range(1, 21))), (8, 16, 32), 16.0),
    Variant("COCO", Classes(COCO_CLASSES, COCO_IDS), (4, 8, 16, 32), 2.0),
)
