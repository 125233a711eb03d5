"""What `instancefcn bulk` costs beside plain prediction, and what its results take on disk.

    python benchmarks/bulk.py IMAGES [--count 48] [--model fcis-animals7] [--json FILE]
    python benchmarks/bulk.py --from FILE --plan 10000000 --workers 256 --price 0.04

One worker with one thread, everything on this machine. CPU seconds are counted for every process
of Ray (Linux only), so that other work on the machine matters little; the wall's seconds stand beside them.

* Throughput: the same images through `Predictor.files` with run-length encodings, and through `bulk` into
  Parquet, after the model is there and warm.
* Scheduling: images of 16 x 16 pixels and a network that finds nothing: more chunks of one image give
  what a chunk costs, larger chunks what an image costs in the pipeline (fetch, decode, row).
* Storage: bytes of an empty chunk's two files, and beyond it bytes of an image and of an instance.
* Listing: seconds and memory of a list of many images, without asking a disk or store for it.

`--plan` computes what so many images take from figures measured earlier: workers of one core each, and a
price of one core's hour, which is yours to put in.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from instancefcn.bulk.cluster import connected, run
from instancefcn.bulk.job import DEFAULT_CHUNK, prepare
from instancefcn.bulk.listing import Listing, cut, list_images
from instancefcn.bulk.shards import outcome_of, part_name, write_chunk
from instancefcn.bulk.storage import Folder
from instancefcn.bulk.worker import Resources
from instancefcn.bulk.worker import open_model as open_own
from instancefcn.geometry.cropped_masks import CroppedMasks
from instancefcn.inference.predictor import load
from instancefcn.inference.sources import find_images
from instancefcn.instances import Instances
from instancefcn.models.checkpoint import locate

LISTED = 200_000
FEW, MANY, LARGE = 20, 220, 33
"""Chunks of a short and a long run, and images of a large chunk."""


@dataclass
class Used:
    """CPU seconds: of this process, of Ray's own without the workers, and of every process
    since its birth; and of the wall.
    """

    driver: float = 0
    since_birth: dict[int, float] = field(default_factory=dict)
    ray: float = 0
    wall: float = 0

    def worker(self, out: Path) -> float:
        """Seconds of the worker since its model was there."""
        pid, before = json.loads((out / "warm.json").read_text())
        return float(self.since_birth[pid] - before)


@contextmanager
def used() -> Iterator[Used]:
    """Counts what happens in the block, in this process and its descendants."""
    result, stop = Used(), threading.Event()
    before = {pid: seconds for pid, (_, seconds) in _descendants().items()}
    start, own = time.perf_counter(), time.process_time()

    watching = 0.0

    def watch() -> None:
        nonlocal watching
        while not stop.wait(0.1):
            look()
            watching = time.thread_time()

    def look() -> None:
        found = _descendants()
        result.since_birth.update({pid: seconds for pid, (_, seconds) in found.items()})
        others = (pid for pid, (name, _) in found.items() if not name.startswith("ray::"))
        result.ray = sum(found[pid][1] - before.get(pid, 0) for pid in others)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield result
    finally:
        stop.set()
        watcher.join()
        look()
        result.wall, result.driver = time.perf_counter() - start, time.process_time() - own - watching


def _descendants() -> dict[int, tuple[str, float]]:
    """(command, CPU seconds) of every process below this one, by id."""
    tick = os.sysconf("SC_CLK_TCK")
    parents: dict[int, int] = {}
    found: dict[int, tuple[str, float]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            values = (folder / "stat").read_text().rpartition(")")[2].split()
            name = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has gone
            continue
        parents[int(folder.name)] = int(values[1])
        found[int(folder.name)] = name, (int(values[11]) + int(values[12])) / tick
    below = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in below} - below:
        below |= more
    return {pid: found[pid] for pid in below - {os.getpid()}}


class Nothing:
    """A predictor without a network."""

    device = torch.device("cpu")

    def decoded(self, read: Any, **settings: Any) -> Any:
        from dataclasses import replace

        none = torch.zeros(0)
        for one in read:
            masks = CroppedMasks.empty(tuple(one.image.shape[1:]))
            yield replace(one, instances=Instances(none.reshape(0, 4), none, none.long(), masks, (), ()))


class OpenWarm:
    """The job's model after one image, or none; leaves the process and its seconds so far."""

    def __init__(self, image: Path | None) -> None:
        self.image = image

    def __call__(self, out: Folder, device: str, precision: str) -> Any:
        predictor: Any = Nothing()
        if self.image is not None:
            predictor = open_own(out, device, precision)
            predictor(self.image)
        out.write("warm.json", json.dumps([os.getpid(), time.process_time()]).encode())
        return predictor


def throughput(paths: list[Path], model: str, out: Path) -> dict[str, float]:
    """Seconds an image, plainly and in bulk, and the bytes of the results."""
    predictor = load(model, device="cpu")
    predictor(paths[0])
    start, own = time.perf_counter(), time.process_time()
    for result in predictor.files(paths, ahead=4):
        if result.instances is not None:
            outcome_of(result.instances)
    plain_wall, plain_cpu = time.perf_counter() - start, time.process_time() - own
    chunk = max(1, len(paths) // 4)
    listing = list_images([str(path) for path in paths])
    job = prepare(listing, str(out), locate(model).read_bytes(), model=model, score=0.5, chunk=chunk)
    with used() as bulk:
        summary = run(job, Resources(), 1, open_model=OpenWarm(paths[0]))
    warm = json.loads((out / "warm.json").read_text())[1]
    empty = Folder(str(out / "empty"))
    write_chunk(empty, 0, [])
    footer = sum((out / "empty" / part_name(name, 0)).stat().st_size for name in ("images", "instances"))
    size = {name: sum(p.stat().st_size for p in (out / name).iterdir()) for name in ("images", "instances")}
    beyond = sum(size.values()) - job.chunks * footer
    return {
        "images": len(paths),
        "instances": summary.instances,
        "plain cpu": plain_cpu / len(paths),
        "plain wall": plain_wall / len(paths),
        "bulk worker cpu": bulk.worker(out) / len(paths),
        "start cpu": warm,
        "bulk wall with start": bulk.wall / len(paths),
        "chunk bytes": footer,
        "image bytes": beyond / len(paths),
        "instance bytes": beyond / max(summary.instances, 1),
    }


def empty_run(folder: Path, chunks: int, chunk: int) -> dict[str, float]:
    """Seconds of a job of tiny images and no network."""
    source = folder / f"in-{chunks}-{chunk}"
    source.mkdir()
    for number in range(chunks * chunk):
        Image.new("RGB", (16, 16)).save(source / f"{number:06d}.png")
    out = str(folder / f"out-{chunks}-{chunk}")
    job = prepare(list_images([str(source)]), out, b"", model="none", score=0.5, chunk=chunk)
    with used() as found:
        run(job, Resources(), 1, open_model=OpenWarm(None))
    return {"worker": found.worker(Path(out)), "driver": found.driver, "ray": found.ray, "wall": found.wall}


def scheduling(folder: Path) -> dict[str, float]:
    """Seconds of a chunk and of an image in it."""
    empty_run(folder, 2, 1)  # what is done once in a process
    short, long, large = empty_run(folder, FEW, 1), empty_run(folder, MANY, 1), empty_run(folder, FEW, LARGE)
    rows = {f"chunk {who}": (long[who] - short[who]) / (MANY - FEW) for who in short}
    return rows | {"image worker": (large["worker"] - short["worker"]) / (FEW * (LARGE - 1))}


def listed(count: int = LISTED) -> dict[str, float]:
    """Seconds and bytes an image of keeping and cutting a list."""
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    files = [f"s3://bucket/photos/2024/{number // 1000:06d}/{number:010d}.jpg" for number in range(count)]
    listing = Listing(("s3://bucket/photos",), [0] * count, files, list(range(count)), list(range(count)))
    listing.digest()
    size = sum(piece.nbytes for piece in cut(listing, listing.counts(), 512))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "cpu": (time.process_time() - start) / count,
        "memory bytes": (after - before) * 1024 / count,
        "table bytes": size / count,
    }


def plan(report: dict[str, dict[str, float]], images: int, workers: int, price: float) -> None:
    """Print what `images` take with one worker a core."""
    real, overhead, keeping = report["throughput"], report["scheduling"], report["listing"]
    chunks = -(-images // DEFAULT_CHUNK)
    work = images * real["bulk worker cpu"] / 3600
    driver = chunks * (overhead["chunk driver"] + overhead["chunk ray"]) + images * keeping["cpu"]
    hours = max(work / workers, driver / 3600)
    stored = images * real["image bytes"] + chunks * real["chunk bytes"]
    print(f"{images:,} images in {chunks:,} chunks of {DEFAULT_CHUNK}")
    print(f"  {work:,.0f} core hours; {workers} workers need {hours:,.1f} hours")
    print(f"  {work * price:,.0f} at {price:g} a core hour")
    print(f"  {stored / 1e9:,.1f} GB of results in {2 * chunks:,} files")
    print(
        f"  {driver / 60:,.1f} minutes of one core for the driver and Ray; the list takes"
        f" {images * keeping['memory bytes'] / 1e9:,.1f} GB of the driver's memory"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", nargs="?")
    parser.add_argument("--count", type=int, default=48)
    parser.add_argument("--model", default="fcis-animals7")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--from", dest="earlier", type=Path)
    parser.add_argument("--plan", type=int, default=10_000_000)
    parser.add_argument("--workers", type=int, default=256)
    parser.add_argument("--price", type=float, default=0.04)
    words = parser.parse_args()
    if words.earlier:
        plan(json.loads(words.earlier.read_text()), words.plan, words.workers, words.price)
        return
    if words.images is None:
        parser.error("name a folder of images, or --from a file of figures")
    torch.set_num_threads(1)
    report: dict[str, dict[str, float]] = {"listing": listed()}
    with tempfile.TemporaryDirectory() as name, connected(None, 1):
        folder = Path(name)
        report["scheduling"] = scheduling(folder)
        paths = find_images([words.images])[: words.count]
        report["throughput"] = throughput(paths, words.model, folder / "results")
    for part, figures in report.items():
        print(part)
        for what, value in figures.items():
            unit = "" if what in ("images", "instances") or "bytes" in what else " s"
            print(f"  {what:<28}{value:12.6g}{unit}")
    if words.json:
        words.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
