"""Training samples and batches whose randomness depends on (seed, epoch, index) alone.

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
    """One picture for the network.

    Attributes:
        image: float32 [3, h, w], RGB from 0 to 1, at the network's size.
        target: its objects.
        record: where it comes from.
        scale: (x, y) network pixels per pixel of the picture (per pixel of the crop, where one was taken).
    """

    image: Tensor
    target: Target
    record: ImageRecord
    scale: tuple[float, float]


class ImageStore:
    """Pictures packed in one array of bytes.

    Worker processes share an array; a tree of Python objects they would copy, page by page, just by counting
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
    """Decode a picture and rasterise its objects. Masks without a pixel are left out; crowds become boxes to
    ignore.

    Raises:
        ImageError: the file cannot be decoded.
        DataError: the file's size is not the recorded one.
    """
    pixels = read_image(image.path)
    if tuple(pixels.shape[1:]) != (image.height, image.width):
        raise DataError(
            f"{image.path}: is {pixels.shape[2]} x {pixels.shape[1]} pixels, "
            f"its record says {image.width} x {image.height}: mend the record"
        )
    masks = rasterize(image)
    labels = torch.tensor([a.label for a in image.annotations if not a.crowd], dtype=torch.int64)
    kept = masks.areas() > 0
    crowd = torch.tensor([a.box for a in image.annotations if a.crowd], dtype=torch.float32).reshape(-1, 4)
    return Scene(pixels, masks if bool(kept.all()) else masks[kept], labels[kept], crowd)


def make_target(scene: Scene, scale: tuple[float, float], image_id: int) -> Target:
    """The target of a scene whose picture was resized by `scale`: boxes are the masks' tight ones, scaled."""
    factors = torch.tensor([scale[0], scale[1], scale[0], scale[1]], dtype=torch.float32)
    boxes = scene.masks.tight_boxes() * factors
    return Target(boxes, scene.labels, scene.masks, scale, image_id, scene.crowd * factors)


class TrainSet(TorchDataset[Sample]):
    """Augmented samples. Item (epoch, index) is always the same, whoever asks for it and when.

    Args:
        dataset: the pictures.
        augment: what happens to them.
        seed: of the whole run.
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
    """A generator of its own for every key (whole numbers from 0)."""
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) & (2**63 - 1))


class AspectBatches(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index) in which pictures are all wide or all tall, so that little of a padded batch
    is padding.

    Every batch is full and every process gets equally many: what is missing at the end of an epoch is filled
    with pictures from its beginning. The leftovers of the wide and of the tall pictures share batches.

    Args:
        sizes: (height, width) of every picture.
        batch_size: pictures per batch and process.
        seed: of the whole run.
        rank, world_size: this process, and how many there are.

    Attributes:
        epoch, start_batch: which order is given out, and how many of its batches are skipped.
    """

    def __init__(
        self, sizes: Sequence[tuple[int, int]], batch_size: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        if not sizes:
            raise ValueError("there are no pictures to make batches of")
        if batch_size < 1 or not 0 <= rank < world_size:
            raise ValueError(
                f"batch_size {batch_size}, rank {rank} and world_size {world_size} make no batches"
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
        """Choose the epoch, and the first of its batches."""
        self.epoch, self.start_batch = epoch, start_batch

    def __len__(self) -> int:
        """Batches of a whole epoch, per process, `start_batch` or not."""
        return -(-len(self._wide) // (self.batch_size * self.world_size))

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, first = self.epoch, self.rank * self.batch_size
        for batch in self._order(epoch)[self.start_batch :]:
            yield [(epoch, int(index)) for index in batch[first : first + self.batch_size]]

    def _order(self, epoch: int) -> np.ndarray:
        """int64 [batches, world_size * batch_size]: the epoch's indices."""
        random = np.random.default_rng([self.seed, epoch])
        share = self.batch_size * self.world_size
        groups = [random.permutation(np.flatnonzero(mask)) for mask in (self._wide, ~self._wide)]
        whole = [group[: len(group) - len(group) % share] for group in groups]
        rest = np.concatenate([group[len(group) - len(group) % share :] for group in groups])
        indices = np.concatenate((*whole, rest))
        indices = np.resize(indices, len(self) * share)  # repeats from the beginning
        return random.permutation(indices.reshape(-1, share), axis=0)
