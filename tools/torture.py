"""Kill `instancefcn train` and `predict` at random moments, again and again, and see whether what they leave
in the end is what an undisturbed call leaves.

    python tools/torture.py --kills 20 --seed 0

Every attempt is a process of its own that runs the command line and kills itself (SIGKILL, from a second
thread that sees what the others are doing): at any time, or while it is at a place that is asked for, such as
the saving of a checkpoint. After every kill all files must be whole; at the end weights, optimizer, log and
results must equal the undisturbed ones bit for bit, and nothing but them may be left.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import math
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

# One thread: the results do not depend on it, and many would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

PATIENCE = 300
"""Seconds that the reading processes of a killed one have to end."""
ANYWHERE = "anywhere"
TRAIN_PLACES = {
    "saving": {"Run._save"},
    "evaluation": {"Run._evaluate"},
    "reading": {"read_batches"},
    "the log": {"RunLog.add", "RunLog._rewrite"},
    "the end": {"Run._finish"},
}
PREDICT_PLACES = {
    "writing": {"write_item"},
    "the log": {"ResumeLog.add", "ResumeLog.__init__"},
    "the end": {"finish", "ResumeLog.remove"},
}
"""Functions (their qualified names) in which to strike."""

TRAIN = [
    *(
        "--model",
        "tiny",
        "--set=pretrained=false",
        "--epochs",
        "3",
        "--set=batch_size=2",
        "--set=short_side=64",
        "--set=long_side=64",
    ),
    *("--set=train_short=[48, 64]", "--set=train_long=64", "--set=accelerator=cpu", "--set=log_every=1"),
    *("--set=sheets_every=1", "--set=save_every_minutes=0.005", "--set=warmup=4"),
]
KINDS = "overlay,coco,yolo,labelme,cutouts,labelmap,csv"


@dataclass(frozen=True)
class Strike:
    """When to kill: after so many seconds, or when a place was seen so many times (about once a millisecond).

    Attributes:
        place: ANYWHERE, or a key of the functions above.
        functions: those of the place.
        after: seconds, or times.
    """

    place: str
    functions: frozenset[str]
    after: float


class Campaign:
    """Attempts in one folder, and what became of them."""

    def __init__(self, folder: Path, random_: random.Random, kills: int) -> None:
        self.folder, self.random, self.wanted = folder, random_, kills
        self.kills = 0
        self.struck: Counter[str] = Counter()
        self.functions: Counter[str] = Counter()
        self.problems: list[str] = []
        self.outlived = 0.0
        self.temporary = folder / "tmp"
        self.temporary.mkdir(parents=True)

    def undisturbed(self, words: Sequence[str]) -> tuple[str, float]:
        """Run the command line to its end; return its standard output and its seconds. What it imported is
        imported here, so that the attempts need not.
        """
        status, out, seconds = self.attempt(words)
        assert status == 0, self.last_words()
        for name in (self.folder / "modules.txt").read_text().split():
            if "__main__" not in name and name not in sys.modules:
                with warnings.catch_warnings(), contextlib.suppress(Exception):
                    warnings.simplefilter("ignore")
                    importlib.import_module(name)
        return out, seconds

    def attempt(self, words: Sequence[str], strike: Strike | None = None) -> tuple[int | None, str, float]:
        """Run the command line in a process of its own.

        Returns:
            its exit status (None when it was killed), its standard output, and its seconds.
        """
        told, out, errors = (self.folder / name for name in ("told.txt", "stdout.txt", "stderr.txt"))
        told.unlink(missing_ok=True)
        start = time.monotonic()
        process = os.fork()
        if process == 0:
            _live(words, strike, self.temporary, told, out, errors)
        _, status = os.waitpid(process, 0)
        seconds = time.monotonic() - start
        self._await_orphans(process, words)
        if os.WIFSIGNALED(status):
            assert os.WTERMSIG(status) == signal.SIGKILL, errors.read_text()
            assert strike is not None
            self.kills += 1
            self.struck[strike.place] += 1
            function = told.read_text()
            self.functions[function] += 1
            print(f"  kill {self.kills} after {seconds:.1f} s in {function}", file=sys.stderr, flush=True)
            return None, out.read_text(), seconds
        return os.waitstatus_to_exitcode(status), out.read_text(), seconds

    def strike(self, places: dict[str, set[str]], seconds: float) -> Strike | None:
        """The next one: half of them at any time of an undisturbed call."""
        if self.kills >= self.wanted:
            return None
        place = self.random.choice([ANYWHERE] * len(places) + list(places))
        if place == ANYWHERE:
            return Strike(place, frozenset(), self.random.uniform(0, seconds))
        # As likely within the first milliseconds as later on.
        after = math.exp(self.random.uniform(0, math.log(200)))
        return Strike(place, frozenset(places[place]), after)

    def check(self, right: bool, problem: str) -> None:
        """Note what is wrong."""
        if not right:
            self.problems.append(problem)

    def whole(self, folder: Path) -> None:
        """Every file that has its name must be readable."""
        for path in sorted(folder.rglob("*")) if folder.exists() else []:
            if path.is_file() and not path.name.startswith(".") and "tensorboard" not in path.parts:
                try:
                    _read(path)
                except Exception as error:
                    self.problems.append(f"after kill {self.kills}: {path.relative_to(folder)}: {error!r}")

    def last_words(self) -> str:
        return (self.folder / "stderr.txt").read_text()[-2000:]

    def _await_orphans(self, process: int, words: Sequence[str]) -> None:
        """The reading processes of a killed one notice it and end; one that was just started first imports
        torch, which takes a while on a busy machine.
        """
        start = time.monotonic()
        while time.monotonic() - start < PATIENCE:
            try:
                os.killpg(process, 0)
            except ProcessLookupError:
                self.outlived = max(self.outlived, time.monotonic() - start)
                return
            time.sleep(0.05)
        self.problems.append(f"processes of {words[0]} outlived it by {PATIENCE} s")
        os.killpg(process, signal.SIGKILL)


def _live(
    words: Sequence[str], strike: Strike | None, temporary: Path, told: Path, out: Path, errors: Path
) -> None:
    """The whole life of an attempt's process."""
    status = 1
    try:
        os.setsid()
        os.environ["TMPDIR"] = str(temporary)
        tempfile.tempdir = str(temporary)
        for path, number in ((out, 1), (errors, 2)):
            os.dup2(os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o666), number)
        threading.Thread(target=_watch, args=(strike, told), daemon=True).start()
        from instancefcn.cli.main import app

        try:
            app(list(words))
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        (out.parent / "modules.txt").write_text("\n".join(sys.modules))
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _watch(strike: Strike | None, told: Path) -> None:
    """Kill the process when it is time, or when its parent is gone."""
    parent, start, seen = os.getppid(), time.monotonic(), 0
    while os.getppid() == parent:
        time.sleep(0.001 if strike is not None else 0.1)
        if strike is None:
            continue
        if strike.place == ANYWHERE:
            if time.monotonic() - start >= strike.after:
                break
            continue
        if any(name in strike.functions for frame in _frames() for name in _names(frame)):
            seen += 1
            if seen >= strike.after:
                break
    told.write_text(_doing())
    os.kill(os.getpid(), signal.SIGKILL)


def _frames() -> list[Any]:
    own = threading.get_ident()
    return [frame for thread, frame in sys._current_frames().items() if thread != own]


def _names(frame: Any) -> list[str]:
    names = []
    while frame is not None:
        if "instancefcn" in frame.f_code.co_filename:
            names.append(frame.f_code.co_qualname)
        frame = frame.f_back
    return names


def _doing() -> str:
    """The innermost function of the package that a thread is in; that which writes a file goes before."""
    found = [names[0] for frame in _frames() if (names := _names(frame))]
    writing = [name for name in found if "write" in name or "save" in name]
    return (writing or found or ["before it begins"])[0]


def _read(path: Path) -> None:
    if path.suffix == ".ckpt":
        from instancefcn.training.checkpoints import read_run

        read_run(path)
    elif path.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a dict)
                file.get_tensor(name)
    elif path.suffix == ".json":
        json.loads(path.read_text())
    elif path.suffix == ".png":
        from PIL import Image

        with Image.open(path) as image:
            image.load()
    elif path.suffix == ".csv":
        assert path.read_bytes().endswith(b"\n")
    elif path.suffix == ".txt":
        assert path.read_bytes()[-1:] in (b"", b"\n")


def torture_train(campaign: Campaign) -> str:
    """Kill runs until there were enough kills; every run must end like the undisturbed one."""
    from instancefcn.data.synthetic import write_shapes

    folder = campaign.folder
    data = write_shapes(folder / "data", train=8, val=4, size=64, seed=1)
    whole = ["train", str(data), "--out", str(folder / "whole"), *TRAIN, "--set=workers=0"]
    _, seconds = campaign.undisturbed(whole)
    runs = 0
    while campaign.kills < campaign.wanted:
        runs += 1
        run = folder / f"run{runs}"
        while True:
            resume = ["--resume"] if (run / "last.ckpt").exists() else []
            workers = f"--set=workers={campaign.random.choice((0, 0, 0, 1))}"
            words = ["train", str(data), "--out", str(run), *TRAIN, workers, *resume]
            status, _, _ = campaign.attempt(words, campaign.strike(TRAIN_PLACES, seconds))
            campaign.whole(run)
            if status is None:
                continue
            if "cannot be resumed (there is no last.ckpt)" in campaign.last_words():
                shutil.rmtree(run)  # killed during its first save: it asks for another folder
                continue
            finished = "is finished" in campaign.last_words()  # killed when all was done
            campaign.check(status == 0 or finished, f"run {runs}: {campaign.last_words()}")
            break
        campaign.problems += [f"run {runs}: {what}" for what in differences(folder / "whole", run)]
        shutil.rmtree(run)
    return f"{runs} runs of 12 steps ({seconds:.0f} s undisturbed)"


def differences(whole: Path, run: Path) -> list[str]:
    """What differs between two runs that should be the same, the times of their doings left aside."""
    import torch
    from safetensors.torch import load_file

    from instancefcn.training.checkpoints import read_run
    from instancefcn.training.log import read_log

    found = []
    names = [{path.name for path in folder.iterdir()} for folder in (whole, run)]
    if names[0] != names[1]:
        found.append(f"files: {names[0] ^ names[1]}")
    for name in ("last.safetensors", "best.safetensors"):
        a, b = load_file(whole / name), load_file(run / name)
        if a.keys() != b.keys() or not all(torch.equal(a[key], b[key]) for key in a):
            found.append(f"{name} differs")
    states = [read_run(folder / "last.ckpt") for folder in (whole, run)]
    for part in ("network", "average", "optimizer", "seen", "step", "best"):
        if not _equal(*(state[part] for state in states)):
            found.append(f"last.ckpt: {part} differs")
    metrics = [
        json.loads((folder / "metrics.json").read_text()) | {"seconds": 0, "versions": 0}
        for folder in (whole, run)
    ]
    if metrics[0] != metrics[1]:
        found.append(f"metrics.json differs: {metrics}")
    logs = [
        [{key: value for key, value in row.items() if key != "seconds"} for row in read_log(f / "log.csv")]
        for f in (whole, run)
    ]
    if logs[0] != logs[1]:
        found.append(f"log.csv differs: {[row for row in logs[1] if row not in logs[0]]}")
    return found


def _equal(a: Any, b: Any) -> bool:
    import torch

    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_equal, a, b))
    return bool(a == b)


def torture_predict(campaign: Campaign, images: int) -> str:
    """Kill calls over a folder until there were enough kills; all must end like the undisturbed one."""
    from instancefcn.data.synthetic import write_shapes

    folder = campaign.folder
    data = write_shapes(folder / "data", train=images, val=0, size=96, seed=2) / "images"
    model = _untrained(folder / "model.safetensors")
    call = ["predict", str(data), "--model", str(model), "--save", KINDS, "--json", "--score", "0.3"]
    call += ["--device", "cpu"]
    said, seconds = campaign.undisturbed([*call, "--out", str(folder / "whole")])
    whole = _contents(folder / "whole")
    objects = len(json.loads(whole["predictions.json"])["annotations"])
    assert objects >= images, "the model finds too little to be worth the while"
    calls = 0
    while campaign.kills < campaign.wanted:
        calls += 1
        out = folder / f"out{calls}"
        words = [*call, "--out", str(out)]
        while True:
            strike = campaign.strike(PREDICT_PLACES, seconds)
            status, again, _ = campaign.attempt([*words, "--resume"], strike)
            campaign.whole(out)
            if status is not None:
                break
        campaign.check(status == 0, f"call {calls}: {campaign.last_words()}")
        campaign.check(again == said, f"call {calls}: --json printed something else")
        found = _contents(out)
        different = sorted(name for name in whole.keys() | found.keys() if whole.get(name) != found.get(name))
        campaign.check(not different, f"call {calls}: these files differ: {different}")
        written = json.loads(found["predictions.json"])["images"]
        names = sorted(Path(record["file_name"]).name for record in written)
        campaign.check(names == sorted(p.name for p in data.iterdir()), f"call {calls}: images: {names}")
        shutil.rmtree(out)
    return f"{calls} calls over {images} images, {objects} objects ({seconds:.0f} s undisturbed)"


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _untrained(path: Path) -> Path:
    import torch

    from instancefcn.models import zoo
    from instancefcn.models.checkpoint import save_checkpoint

    torch.manual_seed(0)
    spec = zoo.SPECS["tiny"]
    network = zoo.build(spec, class_names=("circle", "square"), category_ids=(1, 2))
    save_checkpoint(path, network.state_dict(), spec, network.classes)
    return path


def _import_everything() -> None:
    """Once, so that no attempt pays for it; nothing may run yet, because threads do not survive a fork. And
    name a network of 0.1 million parameters, for the attempts to be quick.
    """
    import instancefcn.inference.pipeline
    import instancefcn.training.loop  # noqa: F401

    with contextlib.redirect_stdout(io.StringIO()):
        from instancefcn.cli.main import app  # noqa: F401
    from instancefcn.models import zoo
    from instancefcn.models.rpn import AnchorSpec, RPNSpec

    zoo.SPECS["tiny"] = replace(
        zoo.FCIS_LITE,
        name="tiny",
        backbone="test_efficientnet",
        frozen=(),
        short_side=64,
        long_side=96,
        anchors=AnchorSpec(scales=(1.0, 2.0)),
        rpn=RPNSpec(channels=32, before_nms=200, after_nms=50, min_size=2.0, inside_only=False, samples=64),
        head=replace(zoo.FCIS_LITE.head, channels=32, k=3),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="of train, and as many of predict")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=int, default=40, help="in predict's folder")
    parser.add_argument("--only", choices=("train", "predict"))
    arguments = parser.parse_args()
    _import_everything()
    problems = []
    tortures: dict[str, Callable[[Campaign], str]] = {
        "train": torture_train,
        "predict": lambda campaign: torture_predict(campaign, arguments.images),
    }
    for name, torture in tortures.items():
        if arguments.only not in (None, name):
            continue
        start = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="torture-") as folder:
            campaign = Campaign(Path(folder), random.Random(f"{arguments.seed} {name}"), arguments.kills)
            what = torture(campaign)
            # multiprocessing's folders of sockets are empty.
            left = [path for path in campaign.temporary.rglob("*") if path.is_file()]
            campaign.check(not left, f"left in the system's temporary folder: {left}")
        print(f"{name}: {campaign.kills} kills, {what}, {time.monotonic() - start:.0f} s in all")
        print(f"  places asked for: {_table(campaign.struck)}")
        print(f"  killed in: {_table(campaign.functions)}")
        print(f"  a reading process outlived its trainer by {campaign.outlived:.1f} s at most")
        print("".join(f"  WRONG: {problem}\n" for problem in campaign.problems) or "  nothing wrong")
        problems += campaign.problems
    sys.exit(bool(problems))


def _table(counted: Counter[str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in counted.most_common())


if __name__ == "__main__":
    main()
