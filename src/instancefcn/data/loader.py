"""Training samples and batches whose randomness depends only on (seed, epoch, index).

Neither the number of workers nor an interruption changes what a run sees.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import Sampler

from instancefcn.data.dataset import Dataset, ImageRecord, rasterize
from instancefcn.data.transforms import Augment, Scene
from instancefcn.errors import DataError
from instancefcn.images.decoding import read_image
from instancefcn.models.targets import Target


@dataclass(frozen=True, eq=False)
class Sample:
    """One image for the network.

    Attributes:
        image: float32 [3, h, w], RGB from 0 to 1, at the network's size.
        target: its objects.
        record: the image it comes from.
        scale: (x, y) network pixels per pixel of the image, or of the crop if it was cropped.
    """

    image: Tensor
    target: Target
    record: ImageRecord
    scale: tuple[float, float]


class ImageStore:
    """Image records packed in one array of bytes.

    Worker processes share an array. They would copy a tree of Python objects, page by page, only by counting
    references.
    """

    def __init__(self, images: Sequence[ImageRecord]) -> None:
        packed = [pickle.dumps(image, protocol=pickle.HIGHEST_PROTOCOL) for image in images]
        self._ends = np.cumsum([len(p) for p in packed], dtype=np.int64)
        self._bytes = np.frombuffer(b"".join(packed), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> ImageRecord:
        start = int(self._ends[index - 1]) if index > 0 else 0
        image = pickle.loads(self._bytes[start : int(self._ends[index])].data)
        assert isinstance(image, ImageRecord)
        return image


def load_scene(image: ImageRecord) -> Scene:
    """Decode an image and rasterise its objects.

    Masks without a pixel are left out. Crowds become boxes to ignore.

    Raises:
        ImageError: the file cannot be decoded.
        DataError: the file's size differs from the recorded one.
    """
    pixels = read_image(image.path)
    if tuple(pixels.shape[1:]) != (image.height, image.width):
        raise DataError(
            f"{image.path}: is {pixels.shape[2]} x {pixels.shape[1]} pixels, "
            f"its record says {image.width} x {image.height}: correct the record"
        )
    masks = rasterize(image)
    labels = torch.tensor([a.label for a in image.annotations if not a.crowd], dtype=torch.int64)
    kept = masks.areas() > 0
    crowd = torch.tensor([a.box for a in image.annotations if a.crowd], dtype=torch.float32).reshape(-1, 4)
    return Scene(pixels, masks if bool(kept.all()) else masks[kept], labels[kept], crowd)


def make_target(scene: Scene, scale: tuple[float, float], image_id: int) -> Target:
    """The target of a scene whose image was resized by `scale`. Boxes are the masks' tight boxes, scaled."""
    factors = torch.tensor([scale[0], scale[1], scale[0], scale[1]], dtype=torch.float32)
    boxes = scene.masks.tight_boxes() * factors
    return Target(boxes, scene.labels, scene.masks, scale, image_id, scene.crowd * factors)


class TrainSet(TorchDataset[Sample]):
    """Augmented samples. Item (epoch, index) is always the same, in any process and order.

    Args:
        dataset: the images.
        augment: applied to each image.
        seed: the run's seed.
    """

    def __init__(self, dataset: Dataset, augment: Augment, seed: int) -> None:
        self.images = ImageStore(dataset.images)
        self.augment = augment
        self.seed = seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, item: tuple[int, int]) -> Sample:
        epoch, index = item
        record = self.images[index]
        image, scene, scale = self.augment(load_scene(record), _generator(self.seed, epoch, index))
        return Sample(image, make_target(scene, scale, record.id), record, scale)


def _generator(*key: int) -> torch.Generator:
    """A separate generator for each key of non-negative integers."""
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) & (2**63 - 1))


class AspectBatches(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index) whose images are all wide or all tall, so that little of a batch is padding.

    Every batch is full and every process gets the same number: the end of an epoch is filled with images from
    its beginning. The leftovers of the wide and the tall images share batches.

    Args:
        sizes: (height, width) of each image.
        batch_size: images per batch and process.
        seed: the run's seed.
        rank, world_size: the index of this process, and the number of processes.

    Attributes:
        epoch, start_batch: the epoch that is iterated, and how many of its batches are skipped.
    """

    def __init__(
        self, sizes: Sequence[tuple[int, int]], batch_size: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        if not sizes:
            raise ValueError("no images: batches need at least one")
        if batch_size < 1 or not 0 <= rank < world_size:
            raise ValueError(
                "batches need batch_size >= 1 and 0 <= rank < world_size, "
                f"got {batch_size}, {rank} and {world_size}"
            )
        self._wide = np.array([width >= height for height, width in sizes])
        self.batch_size, self.seed, self.rank, self.world_size = batch_size, seed, rank, world_size
        self.epoch = 0
        self.start_batch = 0

    @classmethod
    def of(
        cls, dataset: Dataset, batch_size: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> AspectBatches:
        """The batches of a dataset."""
        return cls([(p.height, p.width) for p in dataset.images], batch_size, seed, rank, world_size)

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Set the epoch and its first batch."""
        self.epoch, self.start_batch = epoch, start_batch

    def __len__(self) -> int:
        """The number of batches per process in a whole epoch, whatever `start_batch` is."""
        return -(-len(self._wide) // (self.batch_size * self.world_size))

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, first = self.epoch, self.rank * self.batch_size
        for batch in self._order(epoch)[self.start_batch :]:
            yield [(epoch, int(index)) for index in batch[first : first + self.batch_size]]

    def _order(self, epoch: int) -> np.ndarray:
        """The epoch's indices, int64 [batches, world_size * batch_size]."""
        random = np.random.default_rng([self.seed, epoch])
        share = self.batch_size * self.world_size
        groups = [random.permutation(np.flatnonzero(mask)) for mask in (self._wide, ~self._wide)]
        whole = [group[: len(group) - len(group) % share] for group in groups]
        rest = np.concatenate([group[len(group) - len(group) % share :] for group in groups])
        indices = np.concatenate((*whole, rest))
        indices = np.resize(indices, len(self) * share)  # repeats from the beginning
        return random.permutation(indices.reshape(-1, share), axis=0)
