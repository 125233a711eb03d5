"""The batches of a whole run as one stream that can be entered anywhere.

Lightning sees the run as a single long epoch. The worker processes therefore live as long as the run and
read ahead from one epoch into the next, and a run is resumed in one way only: skip the batches it has seen.
What a batch holds is a function of (seed, epoch, place), never of the workers or of what was read before.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from instancefcn.data.loader import AspectBatches, Sample, TrainSet
from instancefcn.errors import InstanceFCNError

Key = tuple[int, int]
"""(epoch, index of the picture)."""


class RunBatches(Sampler[list[Key]]):
    """All batches of the run from batch `start` on, for one process.

    Args:
        epoch_batches: the batches of one epoch, whose order `set_epoch` chooses.
        epochs: how many epochs the run has.
    """

    def __init__(self, epoch_batches: AspectBatches, epochs: int) -> None:
        self._epoch_batches = epoch_batches
        self.epoch_length = len(epoch_batches)
        self.epochs = epochs
        self.start = 0

    def __len__(self) -> int:
        """Batches of the whole run, those before `start` included: Lightning counts them when it resumes."""
        return self.epochs * self.epoch_length

    def __iter__(self) -> Iterator[list[Key]]:
        first, place = divmod(self.start, self.epoch_length)
        for epoch in range(first, self.epochs):
            self._epoch_batches.set_epoch(epoch, start_batch=place if epoch == first else 0)
            yield from self._epoch_batches


class _Attempts(Dataset[Sample | InstanceFCNError]):
    """The samples of a train set, or why one cannot be had: an error that a reading process raised would
    arrive with that process's traceback in its message.
    """

    def __init__(self, train_set: TrainSet) -> None:
        self.train_set = train_set

    def __len__(self) -> int:
        return len(self.train_set)

    def __getitem__(self, item: Key) -> Sample | InstanceFCNError:
        try:
            return self.train_set[item]
        except InstanceFCNError as error:
            return error


def _as_list(items: list[Sample | InstanceFCNError]) -> list[Sample | InstanceFCNError]:
    """A batch stays a list: pictures differ in size, and the network pads them itself."""
    return items


class RunLoader(DataLoader[Any]):
    """A loader over `RunBatches` whose state is the number of batches that were trained on.

    Lightning stores this state in the checkpoint (it finds `state_dict`) and hands it back before it reads.
    Batches are lists of `Sample`.

    Raises, as it is iterated over:
        ImageError, DataError: a picture vanished or changed since the data were checked.
    """

    def __init__(self, train_set: TrainSet, batches: RunBatches, workers: int) -> None:
        self.batches = batches
        self.seen = 0
        if workers > 0:
            _allow_many_files()
        super().__init__(
            _Attempts(train_set),
            batch_sampler=batches,
            num_workers=workers,
            collate_fn=_as_list,
            persistent_workers=workers > 0,
            prefetch_factor=4 if workers > 0 else None,
            worker_init_fn=partial(start_worker, os.getpid()) if workers > 0 else None,
            # fork would copy the locks of OpenMP and Numba threads in whatever state they are, and may hang.
            multiprocessing_context="spawn" if workers > 0 else None,
        )

    def __iter__(self) -> Iterator[list[Sample]]:  # type: ignore[override]
        for batch in super().__iter__():
            for item in batch:
                if isinstance(item, InstanceFCNError):
                    raise item
            yield batch

    def state_dict(self) -> dict[str, int]:
        """How far the run is."""
        return {"seen": self.seen}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on after the batches that were seen."""
        self.seen = self.batches.start = state["seen"]


def start_worker(trainer: int, worker: int) -> None:
    """Settings of a reading process: one thread, Ctrl-C is the trainer's business, and it ends with the
    trainer.

    PyTorch watches over the last, but takes whatever process it belongs to at first for the trainer: one that
    was killed while this process was starting (it imports torch, for seconds) it would wait for for ever.

    Args:
        trainer: process id of the trainer.
        worker: number of the reading process.
    """
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(trainer,), name="end with the trainer", daemon=True).start()


def _end_with(trainer: int) -> None:
    while os.getppid() == trainer:
        time.sleep(1)
    os._exit(1)


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
