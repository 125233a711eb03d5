"""Two real processes (gloo, on the CPU) against one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny_command  # noqa: F401  (the tiny models)
from instancefcn.data.formats.layouts import open_dataset
from instancefcn.data.loader import AspectBatches
from instancefcn.evaluation.run import evaluate
from instancefcn.models.fcis import FCIS
from instancefcn.training.log import read_log
from instancefcn.training.loop import train
from runs import PowerFailure

pytestmark = pytest.mark.distributed
TOLERANCE = 1e-5
TESTS = Path(__file__).parents[1]


def write_data(folder: Path) -> Path:
    """12 images of four sizes, of which only five have objects, and 5 to evaluate on."""
    from PIL import Image

    from instancefcn.data.synthetic import write_shapes

    write_shapes(folder, train=12, val=5, size=96, seed=1)
    path = folder / "train.json"
    content = json.loads(path.read_text())
    for record in content["images"]:
        if record["id"] % 3 == 0:  # a border to the right: wide images
            file = folder / "images" / record["file_name"]
            with Image.open(file) as image:
                wider = Image.new("RGB", (96 + 4 * record["id"], 96))
                wider.paste(image)
            wider.save(file)
            record["width"] = wider.width
    content["annotations"] = [
        a for a in content["annotations"] if a["image_id"] <= 5 and isinstance(a["segmentation"], list)
    ]
    path.write_text(json.dumps(content))
    return folder


def srun(script: Path, *words: object) -> list[subprocess.CompletedProcess[str]]:
    """Start `script` twice, as srun would."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    job = {"NTASKS": 2, "STEP_NUM_TASKS": 2, "NTASKS_PER_NODE": 2, "NNODES": 1, "NODEID": 0}
    shared = {f"SLURM_{name}": str(value) for name, value in job.items()}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    shared |= {"PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])}
    command = [sys.executable, str(script), *map(str, words)]
    started = [
        subprocess.Popen(
            command,
            env={**os.environ, **shared, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=1500) for process in started]
    return [
        subprocess.CompletedProcess(command, process.returncode, *output)
        for process, output in zip(started, outputs, strict=True)
    ]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two processes have done what `pair` says."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("pair")
    data = write_data(folder / "data")
    bad = write_data(folder / "bad")
    (bad / "images" / "train_0002.png").write_bytes(b"no image")
    with pytest.MonkeyPatch.context() as patch:
        forward, calls = FCIS.forward, [0]

        def fails(self: FCIS, *args: Any, **kwargs: Any) -> Any:
            calls[0] += self.training
            if calls[0] == 8:
                raise PowerFailure
            return forward(self, *args, **kwargs)

        patch.setattr(FCIS, "forward", fails)
        with pytest.raises(PowerFailure):
            train(data, "tiny", out=folder / "cut", epochs=4, batch_size=4)
    for process, code in zip(srun(TESTS / "training" / "pair.py", folder), (0, 9), strict=True):
        assert process.returncode == code, process.stderr
        with (folder / "stderr.txt").open("a") as said:
            said.write(process.stderr)
    torch.set_num_threads(threads)
    return folder


@pytest.fixture(scope="module")
def alone(place: Path) -> Path:
    """One process with the doubled batch."""
    train(place / "data", "tiny", out=place / "tiny-one", epochs=4, batch_size=4)
    return place / "tiny-one"


def seen(place: Path, rank: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((place / f"{rank}.json").read_text())
    return found


def distance(one: Path, other: Path) -> float:
    """The largest difference between the weights, averages and moments of two runs."""
    states = [torch.load(run / "last.ckpt", weights_only=True) for run in (one, other)]
    assert states[0]["step"] == states[1]["step"]
    values = []
    for state in states:
        moments = state["optimizer"]["state"].values()
        tensors = [*state["network"].values(), *state["average"].values()]
        values.append([*tensors, *(v for moment in moments for v in moment.values() if torch.is_tensor(v))])
    return max(float((a - b).abs().max()) for a, b in zip(*values, strict=True))


def test_some_process_has_a_batch_without_any_object(place: Path) -> None:
    """So that the tests below say something about it: such a process must neither hang nor differ."""
    dataset = open_dataset(place / "data", "train")
    empty = {i for i, image in enumerate(dataset.images) if not image.annotations}
    lonely = [
        rank
        for rank in range(2)
        for batch in AspectBatches.of(dataset, 2, seed=0, rank=rank, world_size=2)
        if {index for _, index in batch} <= empty
    ]
    assert lonely
    assert len(empty) < len(dataset)


def test_two_processes_learn_what_one_learns_from_the_doubled_batch(place: Path, alone: Path) -> None:
    assert distance(place / "tiny-two", alone) < TOLERANCE
    # It is not that nothing happens: other runs are further away.
    assert distance(place / "tiny-two", place / "tiny_ohem-two") > 100 * TOLERANCE
    logs = [read_log(run / "log.csv") for run in (place / "tiny-two", alone)]
    for two, one in zip(*logs, strict=True):
        assert two.keys() == one.keys()
        assert all(two[key] == pytest.approx(one[key], abs=1e-5) for key in one if key != "seconds")


def test_steps_of_two_batches_do_too(place: Path) -> None:
    train(place / "data", "tiny", out=place / "accumulated-one", epochs=1, batch_size=2, accumulate=2)
    assert distance(place / "accumulated-two", place / "accumulated-one") < TOLERANCE


@pytest.mark.parametrize("model", ["tiny_ohem", "tiny_proposals"])
def test_other_networks_do_too(place: Path, model: str) -> None:
    train(place / "data", model, out=place / f"{model}-one", epochs=4, batch_size=4)
    assert distance(place / f"{model}-two", place / f"{model}-one") < TOLERANCE


def test_evaluation_is_shared_out_and_counts_every_image_once(place: Path, alone: Path) -> None:
    """Five images for two processes."""
    two, one = (json.loads((run / "metrics.json").read_text()) for run in (place / "tiny-two", alone))
    assert two["final"]["images"] == 5
    assert two["best"] == one["best"]
    assert two["final"] == one["final"]
    assert one["final"]["proposals"]["AR@100"] > 0


def test_instancefcn_evaluate_shares_out_too(place: Path, alone: Path) -> None:
    shared = [seen(place, rank)["evaluated"] for rank in range(2)]
    single = evaluate(place / "data", place / "tiny-two")
    assert shared[0] == shared[1]
    assert {**single, "seconds_per_image": 0} == {**shared[0], "seconds_per_image": 0}


def test_a_killed_run_resumes_with_more_processes(place: Path, alone: Path) -> None:
    assert distance(place / "cut", alone) < TOLERANCE
    assert json.loads((place / "cut" / "config.json").read_text())["devices"] == 2


def test_a_killed_run_resumes_with_fewer_processes(place: Path, alone: Path) -> None:
    assert [seen(place, rank)["killed"][0] for rank in range(2)] == ["PowerFailure"] * 2
    killed = torch.load(place / "killed" / "last.ckpt", weights_only=True)
    assert killed["step"] == 6
    train(place / "data", out=place / "killed", resume=True, devices=1, batch_size=4)
    assert distance(place / "killed", alone) < TOLERANCE


def test_a_resumed_run_keeps_its_batches(place: Path) -> None:
    for rank in range(2):
        name, text = seen(place, rank)["other batch"]
        assert name == "ConfigError"
        assert "batches of 4 images" in text
        assert "Give batch_size=2" in text


def test_a_loss_that_is_not_finite_stops_both_and_names_the_guilty_images(place: Path) -> None:
    (name, text), other = (seen(place, rank)["poisoned"] for rank in range(2))
    assert name == "TrainingError"
    assert "a loss is not finite in step 4" in text
    assert text.count("images/train_") == 2
    assert other == [name, text]


def test_a_signal_to_another_process_than_the_first_stops_both(place: Path, alone: Path) -> None:
    for rank in range(2):
        name, text = seen(place, rank)["asked"]
        assert name == "Interrupted"
        assert "stopped by SIGTERM after batch 5 of 12" in text
    assert distance(place / "asked", alone) < TOLERANCE


def test_problems_of_the_data_are_reported_once(place: Path) -> None:
    first, second = (seen(place, rank)["bad"] for rank in range(2))
    assert first[0] == "DataError"
    assert "train_0002.png" in first[1]
    assert second == ["StoppedElsewhere", ""]
    assert not (place / "bad-two").exists()


def test_an_error_of_another_process_is_reported_by_the_first(place: Path) -> None:
    first, second = (seen(place, rank)["unreadable"] for rank in range(2))
    assert first[0] == "DataError"
    assert "process 1 stopped: DataError: " in first[1]
    assert "elsewhere" in first[1]
    assert second[0] == "StoppedElsewhere"


def test_the_death_of_a_process_does_not_leave_the_other_waiting(place: Path) -> None:
    name, text = seen(place, 0)["left alone"]
    assert name == "TrainingError"
    assert "another process has ended" in text


def test_only_the_first_process_speaks(place: Path) -> None:
    said = (place / "stderr.txt").read_text()
    assert said.count("starting: tiny_ohem") == 1
    assert "batches of 2 x 2 on cpu" in said
    assert "Warning" not in said
