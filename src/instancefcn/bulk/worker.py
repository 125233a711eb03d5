"""One chunk of images in, its two files out: what every actor does. Knows nothing of Ray."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from instancefcn.bulk.attempts import AttemptLog
from instancefcn.bulk.job import MODEL, Job
from instancefcn.bulk.reading import ChunkReader, Pick, WrongImage
from instancefcn.bulk.shards import Head, ImageOutcome, outcome_of, read_counts, write_chunk
from instancefcn.bulk.storage import Folder
from instancefcn.errors import InstanceFCNError
from instancefcn.inference.predictor import FileResult, Predictor, load
from instancefcn.inference.threaded_map import threaded_map

AHEAD = 4
"""Images that are read before their turn, and as many encoded behind; with large batches more."""


@dataclass(frozen=True)
class Power:
    """What one worker works with; none of it changes results.

    Attributes:
        threads: of the CPU.
        device: a torch device.
        batch: images of the same size that run at once.
    """

    threads: int = 1
    device: str = "cpu"
    batch: int = 1


OpenModel = Callable[[Folder, str, str], Predictor]
"""From the job's folder, a device and a precision to the predictor."""


def open_model(out: Folder, device: str, precision: str) -> Predictor:
    """The job's own copy of its model."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / MODEL
        path.write_bytes(out.read(MODEL))
        return load(path, device=device, precision=precision)


class ChunkWorker:
    """Holds the model and does chunk after chunk.

    Args:
        job: what is to be done; which chunks of it, the calls say.
        power: what this worker may use.
        open_model: gives the predictor; another one for tests and for measuring.
    """

    def __init__(self, job: Job, power: Power, open_model: OpenModel = open_model) -> None:
        torch.set_num_threads(power.threads)
        self.job, self.power = job, power
        self.out = Folder(job.out)
        self.reader = ChunkReader(self.out, job.sources, job.chunk)
        self.predictor = open_model(self.out, power.device, job.precision)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Ray Data's way to call it: a batch of chunks in, a row a chunk out: what `do` returns, and "fault",
        what it raised, which Ray would hand on as text with a traceback; empty when all is well.
        """
        rows = [self._row(int(chunk)) for chunk in batch["chunk"]]
        return {key: [row[key] for row in rows] for key in rows[0]}

    def do(self, chunk: int) -> dict[str, float]:
        """Do one chunk, unless its files are there.

        Returns:
            "chunk", how many "images", "instances" and "errors", how often it was "interrupted" before, and
            "seconds".

        Raises:
            InstanceFCNError: no image of the chunk could be fetched and run through the network, which says
                more about the worker than about the images; or results cannot be written.
        """
        start = time.perf_counter()
        counts, interrupted = read_counts(self.out, chunk), 0
        if counts is None:
            journal = AttemptLog(self.out, chunk)
            interrupted = journal.interrupted
            counts = write_chunk(self.out, chunk, self._rows(chunk, journal))
            journal.close()
        return {"chunk": chunk, **counts, "interrupted": interrupted, "seconds": time.perf_counter() - start}

    def _row(self, chunk: int) -> dict[str, Any]:
        try:
            return {**self.do(chunk), "fault": ""}
        except InstanceFCNError as fault:
            nothing = dict.fromkeys(("images", "instances", "errors", "interrupted"), 0)
            return {"chunk": chunk, **nothing, "seconds": 0.0, "fault": str(fault)}

    def _rows(self, chunk: int, journal: AttemptLog) -> list[tuple[Head, ImageOutcome]]:
        if journal.interrupted:
            rows = list(self._one_by_one(chunk, journal))
        else:
            try:
                rows = self._together(chunk)
            except InstanceFCNError:
                raise
            except Exception:  # the network's; of which image shows when they come one by one
                rows = list(self._one_by_one(chunk, None))
        doubtful = [found.error for _, found in rows if found.doubtful]
        if len(doubtful) > 1 and all(found.size is None for _, found in rows):
            raise InstanceFCNError(
                f"chunk {chunk}: none of its {len(rows)} images could be done, and of {len(doubtful)} the"
                f" fault is hardly theirs. The first: {doubtful[0]}"
            )
        return rows

    def _together(self, chunk: int) -> list[tuple[Head, ImageOutcome]]:
        """Read ahead of the network, in batches, and encode behind it."""
        heads: list[Head] = []

        def noted() -> Iterator[Pick]:
            for pick in self.reader.picks(chunk):
                heads.append(pick.head)
                yield pick

        ahead = max(AHEAD, 2 * self.power.batch)
        with (
            closing(threaded_map(self.reader.read, noted(), ahead)) as read,
            closing(threaded_map(_found, self._segment(read, self.power.batch), ahead, threads=1)) as found,
        ):
            encoded = list(found)
        return list(zip(heads, encoded, strict=True))

    def _one_by_one(self, chunk: int, journal: AttemptLog | None) -> Iterator[tuple[Head, ImageOutcome]]:
        """Every image alone, so that one at fault is known by its number."""
        for pick in self.reader.picks(chunk):
            head = pick.head
            if journal is not None and head.image in journal.at_fault:
                deaths = journal.deaths[head.image]
                yield head, ImageOutcome(f"{head.file}: the process died {deaths} times while working on it")
                continue
            if journal is not None:
                journal.now_at(head.image)
            yield head, self._alone(pick)

    def _alone(self, pick: Pick) -> ImageOutcome:
        try:
            (result,) = self._segment([self.reader.read(pick)], 1)
            return _found(result)
        except InstanceFCNError:
            raise
        except Exception as fault:
            said = f"{pick.head.file}: the network failed ({type(fault).__name__}: {fault})"
            if _lost(self.predictor.device):
                # A process whose GPU has failed can do no more; its successor sees the journal.
                print(said, file=sys.stderr, flush=True)
                os._exit(1)
            return ImageOutcome(said, doubtful=True)

    def _segment(self, read: Iterable[FileResult], batch: int) -> Iterator[FileResult]:
        return self.predictor.decoded(read, score=self.job.score, batch_size=batch, tile=self.job.tile)


def _found(result: FileResult) -> ImageOutcome:
    if result.instances is None:
        return ImageOutcome(str(result.error), doubtful=isinstance(result.error, WrongImage))
    return outcome_of(result.instances)


def _lost(device: torch.device) -> bool:
    """Whether a device computes no more, as a GPU after an illegal access."""
    try:
        return float(torch.ones(1, device=device).sum()) != 1
    except RuntimeError:
        return True
