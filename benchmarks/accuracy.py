"""Accuracy against training time: an FCIS and Mask R-CNN (FPN) on the same backbone, on equal terms.

    python benchmarks/accuracy.py DATA --out RUNS [--model fcis_lite] [--networks fcis mask_rcnn] [--seeds 0]
        [--minutes 20] [--epochs 12] [--evaluate-every 2] [--rate-of mask_rcnn=5e-4 ...]
        [--smallest-anchor 32] [--short-side 320] [--precision bf16-mixed] [--sampling random] [--threads 1]
        [--time 20] [--json FILE]

Both see the same images in the same order, with the same sizes, crops and colours, in batches of 4, from
the same ImageNet weights, with AdamW, the same warm-up, cosine schedule, clipping and averaging; the learning
rate is each one's own. A run ends with its epochs (equal images) or with its minutes of training (equal
time), whichever comes first, and the schedule is stretched to end there too. Minutes are those that the
process has spent on CPUs, for reading images and for training, without evaluation: with one thread the time
on a quiet machine, whatever else this one does. Measured on val after every few epochs: what comes out is AP
against minutes and against images seen, in a table and a plot. A run that was stopped resumes; a finished
one is only read. `--time` also measures how long the trained networks take for that many images of
val, in turns, for all objects that score 0.5, with masks at the images' size: on a quiet machine. The peak
of memory is that of the process: give one network a command to compare it.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from instancefcn.data.dataset import Dataset
from instancefcn.data.formats.layouts import open_datasets
from instancefcn.data.loader import AspectBatches, TrainSet
from instancefcn.data.transforms import Resize
from instancefcn.evaluation.report import format_figure
from instancefcn.evaluation.run import evaluate_predictions
from instancefcn.files import atomic_write, write_json
from instancefcn.images.decoding import read_image
from instancefcn.models import zoo
from instancefcn.models.head import Classes
from instancefcn.models.preprocessing import Preprocessing
from instancefcn.models.zoo import ModelSpec
from instancefcn.training.config import TrainConfig, resolve
from instancefcn.training.loop import image_generator
from instancefcn.training.optimizer import averaged, build_optimizer, learning_rate_factor, set_learning_rate
from instancefcn.training.resumable_loader import read_batches, run_batches
from instancefcn.training.setup import make_augment
from instancefcn.training.validation import predictions_of
from mask_rcnn import MaskRCNNPeer
from memory import peak
from results import write_result
from trainings import add_precision, add_sampling

NETWORKS = ("fcis", "mask_rcnn")
NAMES = ("AP", "AP50", "AP75")
PEER_RATE = 5e-4
"""Peak learning rate of Mask R-CNN for batches of 4; the FCIS has its model's own."""
SCORE = 0.5
"""Of the objects that an image is timed with: what `instancefcn predict` asks for."""


def build(name: str, spec: ModelSpec, classes: Classes, smallest_anchor: int = 32) -> nn.Module:
    """One of NETWORKS with ImageNet weights in its backbone."""
    if name == "fcis":
        return zoo.build(spec, class_names=classes.names, category_ids=classes.ids, pretrained=True)
    peer = MaskRCNNPeer(
        classes,
        spec.backbone,
        spec.frozen,
        instances=spec.head.instances,
        smallest_anchor=smallest_anchor,
    )
    return peer.to(memory_format=torch.channels_last)


class Run:
    """One network trained once.

    Args:
        name: of the network.
        spec: of the FCIS; the peer takes its backbone and its number of instances.
        config: the settings both share, with the seed and this network's rate.
        splits: train and val.
        folder: of its checkpoint and its curve.
        smallest_anchor: of the peer, px.
    """

    def __init__(
        self,
        name: str,
        spec: ModelSpec,
        config: TrainConfig,
        splits: list[Dataset],
        folder: Path,
        smallest_anchor: int = 32,
    ) -> None:
        self.config, self.val, self.folder = config, splits[1], folder
        torch.manual_seed(config.seed)
        classes = Classes(splits[0].class_names, splits[0].category_ids)
        self.network = build(name, spec, classes, smallest_anchor).train()
        self.train_set = TrainSet(splits[0], make_augment(config), config.seed)
        self.epoch_batches = AspectBatches.of(splits[0], config.batch_size, config.seed)
        self.steps = config.epochs * len(self.epoch_batches)
        groups = self.network.parameter_groups(config.backbone_rate)  # type: ignore[operator]
        self.optimizer = build_optimizer(groups, config)
        self.average = averaged(self.network, config.ema_decay)
        self.seconds, self.step, self.curve = 0.0, 0, list[dict[str, Any]]()
        if (folder / "state.pt").exists():
            self._load()

    def train(self, minutes: float, every: int) -> list[dict[str, Any]]:
        """To the end of the epochs or of the minutes, with a row of the curve every so many epochs."""
        keys = run_batches(self.epoch_batches, self.config.epochs, self.step)
        started = time.process_time()
        for batch in read_batches(self.train_set, keys, workers=0):
            self._step(batch, self._expected(minutes))
            now = time.process_time()
            self.seconds, started = self.seconds + now - started, now
            over = self.seconds >= 60 * minutes or self.step == self.steps
            if over or self.step % (every * len(self.epoch_batches)) == 0:
                self._evaluate()
                self._save(over)
                started = time.process_time()
            if over:
                break
        return self.curve

    def _expected(self, minutes: float) -> int:
        """How many steps the run will have at its pace so far."""
        if not self.step:
            return self.steps
        return min(self.steps, math.ceil(self.step * 60 * minutes / self.seconds))

    def _step(self, batch: list[Any], steps: int) -> None:
        config = self.config
        factor = learning_rate_factor(self.step, steps, config.warmup, config.schedule)
        set_learning_rate(self.optimizer, config.scaled_learning_rate * factor)
        generators = [image_generator(config.seed, self.step, place) for place in range(len(batch))]
        torch.manual_seed(generators[0].initial_seed())
        with self._autocast():
            losses = self.network([s.image for s in batch], [s.target for s in batch], generators=generators)
        self.optimizer.zero_grad()
        torch.stack([loss.float() for loss in losses.values()]).sum().backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), config.clip_norm)
        self.optimizer.step()
        self.average.update_parameters(self.network)
        self.step += 1
        if self.step % 50 == 0:
            done = f"step {self.step} of at most {self.steps}, {self.seconds / 60:.1f} min"
            print(f"{self.folder.name}: {done}", file=sys.stderr, flush=True)

    def _autocast(self) -> torch.autocast:
        """Training and measuring have the same precision."""
        return torch.autocast("cpu", torch.bfloat16, enabled=self.config.precision == "bf16-mixed")

    def _evaluate(self) -> None:
        preprocessing = Preprocessing(self.config.short_side, self.config.long_side)
        with self._autocast():
            found = predictions_of(self.average.module, self.val, preprocessing, torch.device("cpu"))
        metrics = evaluate_predictions(self.val, found)
        row = {
            "minutes": self.seconds / 60,
            "images": self.step * self.config.batch_size,
            **{kind: {name: metrics[kind][name] for name in NAMES} for kind in ("mask", "box")},
            "peak_mib": peak(),
        }
        self.curve.append(row)
        print(f"{self.folder.name}: " + json.dumps(row), file=sys.stderr, flush=True)

    def _save(self, over: bool) -> None:
        state = {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": {
                "weights": self.average.module.state_dict(),
                "updates": int(self.average.n_averaged) - 1,
            },
            "seconds": self.seconds,
            "step": self.step,
        }
        with atomic_write(self.folder / "state.pt") as temporary:
            torch.save(state, temporary)
        write_json(self.folder / "curve.json", {"finished": over, "rows": self.curve})

    def _load(self) -> None:
        state = torch.load(self.folder / "state.pt", weights_only=True)
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average.module.load_state_dict(state["average"]["weights"])
        self.average.n_averaged.fill_(state["average"]["updates"] + 1)
        self.seconds, self.step = state["seconds"], state["step"]
        self.curve = json.loads((self.folder / "curve.json").read_text(encoding="utf-8"))["rows"]


def plot(curves: dict[str, list[list[dict[str, Any]]]], path: Path) -> None:
    """AP50 and AP against minutes and against images seen, one colour a network, one line a seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, key in zip(figure.subplots(1, 2, sharey=True), ("minutes", "images"), strict=True):
        for number, (name, runs) in enumerate(curves.items()):
            for rows in runs:
                for figure_name, style in (("AP50", "-"), ("AP", "--")):
                    axes.plot(
                        [row[key] for row in rows],
                        [row["mask"][figure_name] for row in rows],
                        style,
                        color=f"C{number}",
                        marker="o",
                        markersize=3,
                        label=f"{name}, mask {figure_name}" if rows is runs[0] else None,
                    )
        axes.set(xlabel=f"{key} of training" if key == "minutes" else "images seen", ylim=(0, 1))
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize="small")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=110)


def main() -> None:
    """Train, measure, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    models = [spec.name for spec in zoo.SPECS.values() if isinstance(spec, ModelSpec)]
    parser.add_argument("--model", choices=models, default=zoo.FCIS_LITE.name)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--evaluate-every", type=int, default=2, help="epochs")
    parser.add_argument("--rate-of", nargs="*", default=[], metavar="NETWORK=RATE", help="for batches of 4")
    parser.add_argument(
        "--smallest-anchor", type=int, default=32, help="of the peer, px; 32 is torchvision's"
    )
    parser.add_argument("--short-side", type=int, help="of training and test, instead of the model's own")
    add_precision(parser)
    add_sampling(parser)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--time", type=int, default=0, metavar="IMAGES")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every evaluation of every run")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    own = {"fcis": spec_of(options).training["learning_rate"] / 4, "mask_rcnn": PEER_RATE}
    rates = own | {name: float(rate) for name, rate in (text.split("=") for text in options.rate_of)}
    splits = open_datasets(options.data, ("train", "val"))
    curves: dict[str, list[list[dict[str, Any]]]] = {}
    for seed in options.seeds:
        for name in options.networks:
            folder = options.out / f"{name}_seed{seed}"
            curves.setdefault(name, []).append(run(name, seed, rates[name], splits, folder, options))
    heads = (*NAMES, "box AP", "peak MiB", "minutes", "images")
    print(f"{'':<18}" + "".join(f"{head:>11}" for head in heads))
    for name, runs in curves.items():
        for seed, rows in zip(options.seeds, runs, strict=True):
            last = rows[-1]
            values = [*(last["mask"][key] for key in NAMES), last["box"]["AP"]]
            values += [last[key] for key in ("peak_mib", "minutes", "images")]
            figures = "".join(f"{format_figure(value):>11}" for value in values)
            print(f"{f'{name}, seed {seed}':<18}{figures}")
    times = time_images(options, splits[1]) if options.time else {}
    for name, seconds in times.items():
        print(f"{name}: {1000 * seconds:.0f} ms an image, {options.threads} threads")
    plot(curves, options.out / "accuracy.png")
    if options.json is not None:
        entries = [
            {"network": name, "seed": seed, **row}
            for name, runs in curves.items()
            for seed, rows in zip(options.seeds, runs, strict=True)
            for row in rows
        ]
        milliseconds = {name: 1000 * seconds for name, seconds in times.items()}
        write_result(options.json, {"rows": entries, "milliseconds": milliseconds})


def run(
    name: str, seed: int, rate: float, splits: list[Dataset], folder: Path, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """The curve of one run, trained when it is not finished."""
    curve = folder / "curve.json"
    folder.mkdir(parents=True, exist_ok=True)
    check_same_settings(folder / "asked.json", settings_record(name, rate, options))
    if curve.exists():
        found = json.loads(curve.read_text(encoding="utf-8"))
        if found["finished"]:
            rows: list[dict[str, Any]] = found["rows"]
            return rows
    spec = spec_of(options)
    short = options.short_side
    settings = {
        "model": spec.name,
        "data": str(options.data),
        "out": str(folder),
        "seed": seed,
        "epochs": options.epochs,
        "learning_rate": rate * 4,  # given for 16 images a step
        "precision": options.precision,
        "accelerator": "cpu",
        **input_sizes(short, spec),
        **({} if short is None else {"train_short": (short * 5 // 8, short), "train_long": short * 3 // 2}),
    }
    config = resolve(settings, spec.training)
    found = Run(name, spec, config, splits, folder, options.smallest_anchor)
    return found.train(options.minutes, options.evaluate_every)


def settings_record(name: str, rate: float, options: argparse.Namespace) -> dict[str, Any]:
    """What tells one run from another."""
    keys = ("minutes", "epochs", "evaluate_every", "model", "short_side", "precision")
    if name == "mask_rcnn":
        own: dict[str, Any] = {"smallest_anchor": options.smallest_anchor}
    else:
        own = {"sampling": spec_of(options).sampling.method}
    return {
        "data": str(options.data.resolve()),
        "rate": rate,
        **{key: getattr(options, key) for key in keys},
        **own,
    }


def check_same_settings(path: Path, wanted: dict[str, Any]) -> None:
    """Write a run's settings to `path`; ends the program where the folder holds a run of others, or of
    settings that were not written down.
    """
    if not path.exists():
        if (path.parent / "curve.json").exists():
            raise SystemExit(f"{path.parent} holds a run of unknown settings: give another --out")
        write_json(path, wanted)
        return
    found = json.loads(path.read_text(encoding="utf-8"))
    other = [f"{key} {found.get(key)} (now {wanted[key]})" for key in wanted if found.get(key) != wanted[key]]
    if other:
        raise SystemExit(f"{path.parent} holds a run of {', '.join(other)}: give another --out")


def time_images(options: argparse.Namespace, val: Dataset) -> dict[str, float]:
    """Median seconds of the networks of the first seed, from the resized image to masks at its own size."""
    spec = spec_of(options)
    sizes = input_sizes(options.short_side, spec)
    resize = Resize(sizes["short_side"], sizes["long_side"])
    networks = {}
    for name in options.networks:
        classes = Classes(val.class_names, val.category_ids)
        networks[name] = build(name, spec, classes, options.smallest_anchor).eval()
        state = torch.load(options.out / f"{name}_seed{options.seeds[0]}" / "state.pt", weights_only=True)
        networks[name].load_state_dict(state["average"]["weights"])
    times: dict[str, list[float]] = {name: [] for name in networks}
    for number, image in enumerate([val.images[0], *val.images[: options.time]]):  # the first warms up
        pixels = resize(read_image(image.path))[0]
        for name, network in networks.items():
            started = time.perf_counter()
            with torch.inference_mode():
                network([pixels], image_sizes=[(image.height, image.width)], min_score=SCORE)
            if number:
                times[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in times.items()}


def spec_of(options: argparse.Namespace) -> ModelSpec:
    """The FCIS that the options ask for."""
    spec = zoo.with_changes(zoo.SPECS[options.model], sampling=options.sampling)
    assert isinstance(spec, ModelSpec)
    return spec


def input_sizes(short: int | None, spec: ModelSpec) -> dict[str, int]:
    """Short and long side of images at test time, px: the model's own, or in proportion to `short`."""
    short = short or spec.short_side
    return {"short_side": short, "long_side": short * spec.long_side // spec.short_side}


if __name__ == "__main__":
    main()
