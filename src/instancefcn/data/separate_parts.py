"""Give every connected part of an annotation an annotation of its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection
from dataclasses import replace

from instancefcn.data.dataset import Annotation, Dataset, ImageRecord
from instancefcn.data.formats.gathering import annotation_from_outline
from instancefcn.data.formats.index_masks import annotations_of, crops_of
from instancefcn.geometry.outlines import outline_problem, to_rle
from instancefcn.geometry.parts import part_numbers
from instancefcn.geometry.rle import decode_crop


def with_separate_parts(
    dataset: Dataset,
    labels: Collection[int] | None = None,
    on_split: Callable[[ImageRecord, Annotation, int], None] = lambda image, annotation, parts: None,
) -> Dataset:
    """The dataset with one annotation for each connected part, as a foreground mask of many objects needs.

    Crowds, and annotations of one part, do not change. The first part keeps the annotation's id; the others
    get new ones. Pixels that touch, even at a corner only, are of one part.

    Args:
        dataset: the dataset; outlines that are not valid do not change.
        labels: the classes to split; None is all.
        on_split: called with each annotation of several parts, its image and the number of its parts.
    """
    fresh = itertools.count(1 + max((a.id for image in dataset.images for a in image.annotations), default=0))
    images = []
    for image in dataset.images:
        annotations: list[Annotation] = []
        for annotation in image.annotations:
            split = not annotation.crowd and (labels is None or annotation.label in labels)
            parts = parts_of(annotation, image.height, image.width) if split else [annotation]
            if len(parts) > 1:
                on_split(image, annotation, len(parts))
                ids = (annotation.id, *itertools.islice(fresh, len(parts) - 1))
                parts = [replace(part, id=id_) for part, id_ in zip(parts, ids, strict=True)]
            annotations += parts
        images.append(replace(image, annotations=tuple(annotations)))
    return replace(dataset, images=tuple(images))


def parts_of(annotation: Annotation, height: int, width: int) -> list[Annotation]:
    """The connected parts of an annotation, from the top; itself if it has one part or no pixel.

    Polygons that are a part each stay polygons; other parts become RLEs. All have the annotation's id.
    """
    if outline_problem(annotation.segmentation, height, width):
        return [annotation]
    rle = to_rle(annotation.segmentation, height, width)
    crop, (x, y) = decode_crop(rle["counts"], height)
    numbers = part_numbers(crop.numpy())
    count = int(numbers.max(initial=0))
    if count < 2:
        return [annotation]
    crops = [(pixels, (x + left, y + top)) for pixels, (left, top) in crops_of(numbers).values()]
    parts = annotations_of(crops, [annotation.label] * count, (height, width))
    if isinstance(annotation.segmentation, list) and len(annotation.segmentation) == count:
        rings = [
            annotation_from_outline(annotation.label, [ring], height, width)
            for ring in annotation.segmentation
        ]
        if sorted(ring.area for ring in rings) == sorted(part.area for part in parts):
            parts = rings
    return [replace(part, id=annotation.id) for part in parts]
