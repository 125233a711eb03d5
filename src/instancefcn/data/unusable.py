"""What a reader cannot use, left out so that no object silently becomes background.

An object that cannot be read still shows in its image. Where its box is known, it becomes an ignored region
(a crowd); otherwise the whole image is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from instancefcn.data.dataset import Annotation, Dataset, ImageRecord
from instancefcn.data.image_checks import box_problem
from instancefcn.errors import Problem


class Unusable(Problem):
    """The problem of an annotation that a reader left out of an image.

    Attributes:
        image_id: the id of the image.
        region: a crowd where the object lies, with the annotation's id (0: it has none); None if that is not
            known.
    """

    image_id: int
    region: Annotation | None

    def __new__(
        cls,
        text: str,
        check: str = "format",
        *,
        image: Path | None = None,
        annotation: int | None = None,
        image_id: int = 0,
        region: Annotation | None = None,
    ) -> Self:
        self = super().__new__(cls, text, check, image=image, annotation=annotation)
        self.image_id, self.region = image_id, region
        return self


def in_image(problem: str, image: ImageRecord) -> Unusable:
    """A problem of an object in an image that has its id only now."""
    check = problem.check if isinstance(problem, Problem) else "format"
    region = problem.region if isinstance(problem, Unusable) else None
    return Unusable(problem, check, image=image.path, image_id=image.id, region=region)


def ignored_region(
    id_: int, label: int, box: tuple[float, float, float, float], height: int, width: int
) -> Annotation | None:
    """A crowd that fills the box x1, y1, x2, y2 (pixels), cut off at the image's edges.

    None if the box is not valid in an image of this size, or has no area.
    """
    if box_problem(box, height, width) is not None:
        return None
    x1, y1, x2, y2 = max(box[0], 0.0), max(box[1], 0.0), min(box[2], float(width)), min(box[3], float(height))
    if x2 <= x1 or y2 <= y1:
        return None
    outline = [[x1, y1, x2, y1, x2, y2, x1, y2]]
    return Annotation(id_, max(label, 0), (x1, y1, x2, y2), outline, (x2 - x1) * (y2 - y1), crowd=True)


@dataclass(frozen=True)
class Usable:
    """A dataset without what its reader could not use.

    Attributes:
        dataset: with ignored regions, without images that have lost an object.
        kept: the index of each image in the dataset before.
        done: for each problem, what was done about it, and the problem.
    """

    dataset: Dataset
    kept: tuple[int, ...]
    done: tuple[tuple[str, Problem], ...]


def without_unusable(dataset: Dataset, problems: Sequence[str]) -> Usable:
    """Leave out what the reader's `problems` are about: see `Usable`."""
    ids = {a.id for image in dataset.images for a in image.annotations}
    found = [problem if isinstance(problem, Problem) else Problem(problem) for problem in problems]
    lost = [p for p in found if isinstance(p, Unusable) and p.annotation not in ids]
    covered = {(p.image_id, p.annotation) for p in lost if p.region is not None and p.annotation is not None}
    gone = {p.image for p in lost if p.region is None and (p.image_id, p.annotation) not in covered}
    regions: dict[int, list[Annotation]] = {}
    fresh = max(ids | {p.region.id for p in lost if p.region is not None}, default=0)
    for problem in lost:
        if (region := problem.region) is not None:
            if region.id == 0:
                fresh += 1
                region = replace(region, id=fresh)
            regions.setdefault(problem.image_id, []).append(region)
    kept = tuple(i for i, image in enumerate(dataset.images) if image.path not in gone)
    images = tuple(
        replace(image, annotations=(*image.annotations, *regions.get(image.id, ())))
        for image in (dataset.images[i] for i in kept)
    )
    known = {image.id for image in dataset.images}
    done = tuple((_what_was_done(problem, ids, known, gone), problem) for problem in found)
    return Usable(replace(dataset, images=images), kept, done)


def _what_was_done(problem: Problem, ids: set[int], images: set[int], gone: set[Path | None]) -> str:
    if problem.annotation in ids:
        if problem.check == "duplicate-id":
            return f"given the id {problem.annotation}"
        return "kept without it, box computed from the outline"
    if not isinstance(problem, Unusable) or problem.image_id not in images:
        return "left out"
    if problem.image in gone:
        return "image left out, because one of its objects cannot be read"
    return "made an ignored region (iscrowd 1)"
