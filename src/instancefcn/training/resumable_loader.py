"""The batches of a whole run as one stream that can be entered anywhere.

To the loader a run is one long epoch: reading processes live as long as the run and read ahead from one epoch
into the next, and a run is resumed in one way only, by skipping the batches it has seen. What a batch holds
depends on (seed, epoch, index) alone, never on the reading processes or on what was read before.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import count

import torch
from torch.utils.data import DataLoader, Dataset

from instancefcn.data.loader import AspectBatches, Sample, TrainSet
from instancefcn.errors import InstanceFCNError
from instancefcn.processes import end_with

Key = tuple[int, int]
"""(epoch, index of the image)."""


def run_batches(epoch_batches: AspectBatches, epochs: int | None, start: int = 0) -> Iterator[list[Key]]:
    """What the batches of a run hold, from batch `start` on, for one process.

    Args:
        epoch_batches: the batches of one epoch, whose order `set_epoch` chooses.
        epochs: of the run; None for batches without end.
    """
    first, index = divmod(start, len(epoch_batches))
    for epoch in count(first) if epochs is None else range(first, epochs):
        epoch_batches.set_epoch(epoch, start_batch=index if epoch == first else 0)
        yield from epoch_batches


def read_batches(train_set: TrainSet, keys: Iterable[list[Key]], workers: int) -> Iterator[list[Sample]]:
    """Read batches. They stay lists: images differ in size, and the network pads them itself.

    Args:
        keys: what they hold.
        workers: processes that read ahead; 0 reads here.

    Raises, as it is iterated over:
        ImageError, DataError: an image vanished or changed since the data were checked.
    """
    if workers > 0:
        _allow_many_files()
    loader = DataLoader(
        _Attempts(train_set),
        batch_sampler=keys,
        num_workers=workers,
        collate_fn=list,
        prefetch_factor=4 if workers > 0 else None,
        worker_init_fn=partial(start_worker, os.getpid()),
        # fork would copy the locks of OpenMP and Numba threads in whatever state they are, and may hang.
        multiprocessing_context="spawn" if workers > 0 else None,
    )
    for batch in loader:
        for item in batch:
            if isinstance(item, InstanceFCNError):
                raise item
        yield batch


class _Attempts(Dataset[Sample | InstanceFCNError]):
    """The samples of a train set, or why one cannot be read: an error that a reading process raised would
    arrive with that process's traceback in its message.
    """

    def __init__(self, train_set: TrainSet) -> None:
        self.train_set = train_set

    def __getitem__(self, item: Key) -> Sample | InstanceFCNError:
        try:
            return self.train_set[item]
        except InstanceFCNError as error:
            return error


def start_worker(trainer: int, worker: int) -> None:
    """Settings of reading process `worker`: one thread, and Ctrl-C is left to the process `trainer`.

    PyTorch's own watch takes whatever process is the parent at first for the trainer: if that was killed
    while this process was starting (importing torch takes seconds), it would wait forever.
    """
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with(trainer)


def _allow_many_files() -> None:
    """A tensor handed over by a reading process is an open file until it is freed: lift the soft limit."""
    try:
        import resource
    except ImportError:  # not on Windows, where there is no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(65536, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
