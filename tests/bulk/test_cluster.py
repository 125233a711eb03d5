"""The real thing: a cluster of Ray with room for two workers, and processes that are killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet as pq
from typer.testing import CliRunner

import bulk_models
from instancefcn.bulk.cluster import connected, run
from instancefcn.bulk.job import Job
from instancefcn.bulk.worker import Resources
from instancefcn.errors import InstanceFCNError

pytestmark = [
    pytest.mark.distributed,
    # Ray's own: files and sockets that it leaves to the collector, and what it tells itself.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of a cluster with two cores to give out."""
    pytest.importorskip("ray")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # pytest's path leads to bulk_models
        for attempt in range(5):
            try:
                cluster.add_node(num_cpus=2, include_dashboard=False)
                break
            except Exception as error:  # Ray gives it 30 s, which a very busy machine may need longer than
                if "timed out during startup" not in str(error) or attempt == 4:
                    raise
    yield cluster.address
    cluster.shutdown()


def wait_for(condition: Callable[[], Any], seconds: float = 900) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.05)


def parts(out: Path) -> list[Path]:
    return list(out.glob("images/part-*.parquet"))


def test_nothing_is_lost_or_twice_when_workers_die(
    address: str, deadly: Path, table: Path, begin: Callable[..., Job], tmp_path: Path
) -> None:
    """One worker is killed from outside; an image kills every one that touches it; one is cut off."""
    out, pids = tmp_path / "out", tmp_path / "out.pids"
    job = begin(deadly, table)

    def kill() -> bool:
        """Kill a worker when the first chunk is done."""
        for path in pids.glob("*") if parts(out) else ():
            with contextlib.suppress(ProcessLookupError):  # the image was faster
                os.kill(int(path.name), signal.SIGKILL)
                return True
        return False

    killer = threading.Thread(target=wait_for, args=(kill,), daemon=True)
    killer.start()
    with connected(address, 2):
        summary = run(job, Resources(), 2, open_model=bulk_models.slow_colours)
    killer.join()
    assert (summary.images, summary.instances, summary.errors) == (20, 34, 3)
    assert summary.interrupted >= 3
    assert len(list(pids.iterdir())) >= 2 + 3
    rows = pq.read_table(out / "images").sort_by("image").to_pylist()
    assert [row["image"] for row in rows] == list(range(20))
    assert [row["image"] for row in rows if row["error"]] == [1, 4, 19]
    assert "the process died 2 times" in rows[1]["error"]
    found = pq.read_table(out / "instances").to_pylist()
    pairs = sorted((row["image"], row["number"]) for row in found)
    assert pairs == [(image, n) for image in range(20) if image not in (1, 4, 19) for n in (1, 2)]


def test_a_killed_command_resumes_where_it_stopped(
    address: str, photos: Path, begin: Callable[..., Job], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = [sys.executable, bulk_models.__file__, str(photos), str(out), address]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(words, env=environment) as command:
        wait_for(lambda: parts(out) or command.poll() is not None)
        command.send_signal(signal.SIGKILL)
    assert command.returncode == -signal.SIGKILL
    job = begin(photos)
    assert 0 < len(job.todo) < 3
    with connected(address, 2):
        summary = run(job, Resources(), 1, open_model=bulk_models.colours)
    assert (summary.images, summary.instances, summary.errors) == (10, 18, 1)
    assert summary.new_images == job.images_left < 10


def test_what_a_worker_says_reaches_the_user(
    address: str, photos: Path, begin: Callable[..., Job], tmp_path: Path
) -> None:
    job = begin(photos)
    photos.rename(tmp_path / "elsewhere")
    with connected(address, 2), pytest.raises(InstanceFCNError, match=r"(?s)chunk 0: .*00\.png") as error:
        run(job, Resources(), 1, open_model=bulk_models.colours)
    assert "Traceback" not in str(error.value)


def test_the_command_finds_what_predict_finds(address: str, tmp_path: Path) -> None:
    from importlib.resources import files

    import instancefcn
    from instancefcn.cli.main import app

    demo = Path(str(files("instancefcn"))) / "assets" / "demo"
    words = ["bulk", f"{demo}/t*.jpg", "--out", str(tmp_path / "out"), "--address", address, "--json"]

    def bulk() -> dict[str, Any]:
        """The summary: the last line, as Ray's threads may print after the job, when memory is short."""
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, result.output
        return dict(json.loads(result.stdout.splitlines()[-1]))

    summary = bulk()
    found = pq.read_table(tmp_path / "out" / "instances").sort_by(
        [("image", "ascending"), ("number", "ascending")]
    )
    model = instancefcn.load(device="cpu")
    expected = [model(path) for path in sorted(demo.glob("t*.jpg"))]
    assert summary["images"] == len(expected) == 3
    assert summary["instances"] == len(found) == sum(map(len, expected)) > 0
    assert found["class"].to_pylist() == [name for one in expected for name in one.names]
    assert found["rle"].to_pylist() == [rle["counts"] for one in expected for rle in one.rles()]
    assert found["score"].to_pylist() == pytest.approx([float(s) for one in expected for s in one.scores])
    # Ray may have ended a worker for want of memory in the first call; the second one has none to end.
    nothing = {"seconds": 0, "new_images": 0, "interrupted": 0}
    assert bulk() | {"seconds": 0} == summary | nothing
