"""Training, from the dataset's check to the last figures: setup, the loop, a step, an evaluation, a save.

On torch alone: autocast and GradScaler are mixed precision, DistributedDataParallel is many devices, a few
lines each. With them every step of a run is on this page, as resuming to the same bits demands.
"""

from __future__ import annotations

import hashlib
import json
import math
import signal
import sys
import time
import warnings
from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_

from instancefcn.data.dataset import Dataset
from instancefcn.data.formats.layouts import describe_layout
from instancefcn.data.loader import AspectBatches, Sample, TrainSet
from instancefcn.errors import CheckpointError, ConfigError, TrainingError
from instancefcn.evaluation.review import write_comparison
from instancefcn.evaluation.run import evaluate_predictions
from instancefcn.files import check_output_folder, remove_leftovers, writable, write_json
from instancefcn.models import zoo
from instancefcn.models.checkpoint import save_checkpoint, spec_to_json
from instancefcn.models.head import Classes
from instancefcn.processes import agreed, from_first, gathered, is_first, together, with_started
from instancefcn.provenance import git_revision, versions
from instancefcn.safe_text import plain
from instancefcn.training import setup
from instancefcn.training.checkpoints import LAST, check_network, read_run, save_run
from instancefcn.training.config import TrainConfig, load_config
from instancefcn.training.data_fingerprint import FINGERPRINT, check_fingerprint, write_fingerprint
from instancefcn.training.devices import AUTOCAST, choose_device
from instancefcn.training.interruption import Interrupted, explained, resume_command, stop_signals
from instancefcn.training.log import RunLog, plot_curves
from instancefcn.training.optimizer import averaged, build_optimizer, learning_rate_factor, set_learning_rate
from instancefcn.training.progress import Progress, duration
from instancefcn.training.resumable_loader import read_batches, run_batches
from instancefcn.training.validation import DETECTIONS, PROPOSALS, BestSoFar, figures_of, predictions_of

METRICS = "metrics.json"


def train(
    data: Path | str, model: str | None = None, *, out: Path | str, resume: bool = False, **settings: Any
) -> Path:
    """Train a model on a folder of annotated images.

    Args:
        data: a folder or YAML file of any layout in docs/data.md, such as train.json (COCO), perhaps
            val.json, and images/.
        model: a name from `models.zoo`; "fcis_lite" when left out (a resumed run keeps its own).
        out: folder of the run; see the list below. Must not hold a run unless `resume`.
        resume: continue the run in `out`, exactly as if it had never stopped.
        settings: fields of `TrainConfig`; `augment={"flip": 0}` or `**{"augment.flip": 0}` for nested ones.

    Returns:
        Path of the best weights by mask AP (proposals: AR@100) on val; the last ones when there is no val
        split.

    Images are read by other processes, which import the calling script again, and so do the processes of
    `devices` above 1: call this from a function or below `if __name__ == "__main__":`, or set workers=0.

    Written to `out`: config.json, data.json (what the run trains on, so that a resumed run can tell a
    change), last.ckpt (to resume), last.safetensors, best.safetensors, metrics.json, log.csv, curves.png,
    sheets/, tensorboard/.

    Raises:
        DataError: the dataset has problems (all of them are listed), or it is not what the resumed run began
            with, or it changed during the run.
        ConfigError: a setting is wrong, or `out` cannot be used.
        CheckpointError: there is nothing to resume.
        TrainingError: a loss is not finite, or a file of the run cannot be written.
        Interrupted: SIGINT or SIGTERM came; the run was saved.
        StoppedElsewhere: in all but the first process of torchrun or srun, when that raises an error.
    """
    folder = Path(out)
    given = {"data": str(Path(data).resolve()), "out": str(folder.resolve()), **settings}
    config = setup.make_config(folder, resume, with_started(given | ({"model": model} if model else {})))
    check_output_folder(folder)
    backend = "nccl" if choose_device(config).type == "cuda" else "gloo"
    return together(_train, config.devices, config.nodes, backend, config, folder, resume)


def _train(local_rank: int, config: TrainConfig, folder: Path, resume: bool) -> Path:
    """A whole run, in one of its processes."""
    checkpoint = agreed(lambda: read_run(folder / LAST)) if resume else None
    splits = agreed(lambda: _read_data(config, folder, resume))
    run = agreed(lambda: Run(config, choose_device(config, local_rank), folder, splits, checkpoint))
    checkpoint = None  # as large as all that trains
    with explained(folder, config.data):
        return run.train()


def _read_data(config: TrainConfig, folder: Path, resume: bool) -> dict[str, Dataset]:
    """Train and perhaps val, which a resumed run must know; the first process checks the images and tells the
    user what it found.
    """
    first = is_first()
    if first:
        print(describe_layout(config.data), file=sys.stderr, flush=True)
    splits, doubts = setup.read_splits(config, check=first)
    print(plain("".join(f"{line}\n" for line in doubts)), end="", file=sys.stderr, flush=True)
    if resume:
        check_fingerprint(folder / FINGERPRINT, splits)
    return splits


class Run:
    """Everything of a run that changes while it trains, and the loop that changes it.

    Args:
        splits: "train" and perhaps "val".
        checkpoint: what `read_run` returned, for a run that resumes.

    Attributes:
        seen: batches that this process has trained on, over all epochs.
        step: optimizer steps taken.
        rate: learning rate of the last step (multiplier 1).
        best: the best evaluation so far.
    """

    def __init__(
        self,
        config: TrainConfig,
        device: torch.device,
        folder: Path,
        splits: dict[str, Dataset],
        checkpoint: dict[str, Any] | None,
    ) -> None:
        self.config, self.device, self.folder, self.splits = config, device, folder, splits
        many = config.devices * config.nodes > 1
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if many else (0, 1)
        torch.manual_seed(config.seed)
        self.spec = setup.network_spec(config)
        self.figures = PROPOSALS if isinstance(self.spec, zoo.ProposalModelSpec) else DETECTIONS
        self.goal = next(iter(self.figures))
        split = splits["train"]
        self.classes = Classes(split.class_names, split.category_ids)
        self.network, self.new = setup.build_network(config, self.classes, fresh=checkpoint is None)
        self.network.to(memory_format=torch.channels_last).to(device)
        self.optimizer = build_optimizer(self.network.parameter_groups(config.backbone_rate), config)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "16-mixed")
        self.average = averaged(self.network, config.ema_decay) if config.ema_decay else None
        self.epoch_batches = AspectBatches.of(split, config.batch_size, config.seed, self.rank, self.world)
        self.epoch_length = len(self.epoch_batches)
        self.total = config.epochs * self.epoch_length
        self.total_steps = -(-self.total // config.accumulate)
        self.seen, self.step, self.rate, self.best = 0, 0, 0.0, BestSoFar()
        self.row: dict[str, Any] | None = None
        if checkpoint is not None:
            self._restore(checkpoint)

    def train(self) -> Path:
        """Train to the end, or to a signal; return the best weights."""
        config, total, epoch_length = self.config, self.total, self.epoch_length
        log = RunLog(self.folder, self.step, self.seen / epoch_length) if self.rank == 0 else None
        over = self.seen >= total or self.best.in_vain(config.patience)
        if over:
            self._refuse_finished()
        if log is not None:
            self._open_folder()
        if over:  # killed before it wrote all that it leaves
            return self._finish(log, log.seconds_before if log is not None else 0.0)
        if log is not None:
            log.begin()
        progress = Progress(log, total, epoch_length, self.seen, config.log_every, self.row)
        progress.say(self._headline())
        if self.new:
            progress.say(f"not in {config.init}, so new: {', '.join(self.new)}")

        train_set = TrainSet(self.splits["train"], setup.make_augment(config), config.seed)
        keys = run_batches(self.epoch_batches, config.epochs, self.seen)
        model = self.network.train()
        saved, due = time.monotonic(), False
        with closing(progress), stop_signals(self.rank == 0) as stop_asked, warnings.catch_warnings():
            if self.world > 1:
                # Of filters of one channel or one pixel: the strides differ, the order in memory does not.
                warnings.filterwarnings("ignore", "(?s)Grad strides do not match bucket view strides")
                model = DistributedDataParallel(model, gradient_as_bucket_view=True)
                model.broadcast_buffers = False  # none ever changes
            for batch in read_batches(train_set, keys, setup.reading_processes(config)):
                # Forward and backward; after every `accumulate` batches, and after the last, a step.
                stepping = (self.seen + 1) % config.accumulate == 0 or self.seen + 1 == total
                with nullcontext() if stepping or self.world == 1 else model.no_sync():
                    losses = self._backward(model, batch)
                if stepping:
                    self._step(batch, losses)
                self.seen += 1
                progress.batch(self.seen, self.step, self.rate, losses)

                # Evaluate after every few epochs, and after the last.
                epoch, rest = divmod(self.seen, epoch_length)
                last = self.seen == total
                if rest == 0 and "val" in self.splits and (last or _is_turn(epoch, config.evaluate_every)):
                    with progress.paused():
                        self._evaluate(epoch, last, progress)

                # Save and stop when it is time, but right after a step: no gradient is ever lost.
                late = time.monotonic() - saved >= 60 * config.save_every_minutes
                asked, late = self._agree(stop_asked(), late)
                due = due or late or rest == 0 or asked > 0
                if due and stepping:
                    self._save(progress)
                    saved, due = time.monotonic(), False
                if stepping and (asked or self.best.in_vain(config.patience)):
                    break
        if asked and not last:
            if self.world > 1:
                dist.barrier()  # the files are there when any process stops
            raise Interrupted(
                asked,
                f"stopped by {signal.Signals(asked).name} after batch {self.seen} of {total}; everything is "
                f"saved. Resume with: {resume_command(self.folder, config.data)}",
            )
        return self._finish(log, progress.seconds)

    # -- a step

    def _backward(self, model: nn.Module, batch: Sequence[Sample]) -> dict[str, float]:
        """Forward and backward pass of a batch.

        Returns:
            its losses by name (means over all processes), and their sum as "loss".

        Raises:
            TrainingError: a loss is not finite.
        """
        config, device = self.config, self.device
        images = [sample.image.to(device, non_blocking=True) for sample in batch]
        targets = [sample.target.to(device) for sample in batch]
        # What is drawn for an image (RoIs, say) depends on its place in the run alone, not on the process.
        first = self.rank * len(batch)
        generators = [image_generator(config.seed, self.seen, first + i) for i in range(len(batch))]
        # Without autocast's cache, the gradients of a weight that is used twice are summed in float32.
        kind, mixed = AUTOCAST[config.precision], config.precision != "32"
        with torch.autocast(device.type, kind, enabled=mixed, cache_enabled=False):
            terms: dict[str, Tensor] = model(images, targets, generators=generators)
            own = torch.stack([term.float() for term in terms.values()])
            loss = own.sum()
        means = own.detach().clone()
        if self.world > 1:  # what is not finite in one process is so in the mean: they stop together
            dist.all_reduce(means)
        values = (means / self.world).tolist()
        losses = dict(zip(terms, values, strict=True)) | {"loss": sum(values)}
        if not math.isfinite(losses["loss"]):
            raise self._not_finite("a loss", losses, [] if bool(own.isfinite().all()) else batch)
        self.scaler.scale(loss / config.accumulate).backward()
        return losses

    def _step(self, batch: Sequence[Sample], losses: dict[str, float]) -> None:
        """Clip the gradient, change the weights, update their average.

        Raises:
            TrainingError: the gradient is not finite; the weights are as before.
        """
        config, total = self.config, self.total_steps
        self.scaler.unscale_(self.optimizer)
        norm = clip_grad_norm_(self.network.parameters(), config.clip_norm or math.inf)
        # With float16 an overflow is expected at times: the scaler skips that step and lowers its scale.
        if not self.scaler.is_enabled() and not bool(torch.isfinite(norm)):
            raise self._not_finite("the gradient", losses, batch)
        self.rate = config.scaled_learning_rate * learning_rate_factor(
            min(self.step, total - 1), total, config.warmup, config.schedule, config.milestones
        )
        set_learning_rate(self.optimizer, self.rate)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.step += 1
        if self.average is not None:
            self.average.update_parameters(self.network)

    def _not_finite(self, what: str, losses: dict[str, float], guilty: Sequence[Sample]) -> TrainingError:
        """The error, which names the `guilty` images of all processes; every process must call this."""
        images = ["".join(f"\n  {sample.record.path}" for sample in guilty)] * self.world
        if self.world > 1:
            dist.all_gather_object(images, images[self.rank])
        terms = ", ".join(f"{name} = {value:g}" for name, value in losses.items() if name != "loss")
        return TrainingError(
            f"{what} is not finite in step {self.step} ({terms}). The batch was:{''.join(images)}\n"
            "Nothing was saved since the last good checkpoint. Look at these images and their annotations; "
            "if they are sound, lower learning_rate, lengthen warmup or use precision 32, and start again"
        )

    def _agree(self, asked: int, late: bool) -> tuple[int, bool]:
        """What one process wants, all do: stop (a signal's number, or 0), save because it is late."""
        if self.world == 1:
            return asked, late
        flags = torch.tensor([asked, int(late)], device=self.device)
        dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        return int(flags[0]), bool(flags[1])

    # -- an evaluation

    @property
    def result(self) -> nn.Module:
        """The network to evaluate and export: the average when there is one."""
        return self.network if self.average is None else self.average.module

    def _evaluate(self, epoch: int, last: bool, progress: Progress) -> None:
        """Measure the weights on val, each process its share of the images; keep them when they are the best.
        In float32, whatever machine resumes the run: bfloat16 moves AP by some thousandths.
        """
        config, val, started = self.config, self.splits["val"], time.monotonic()
        own = val.subset(range(self.rank, len(val), self.world))
        preprocessing = self.spec.preprocessing()
        found = gathered(predictions_of(self.result, own, preprocessing, self.device, config.batch_size))
        self.network.train()
        # Through JSON: only plain values may enter a checkpoint.
        metrics = json.loads(json.dumps(evaluate_predictions(val, found))) if self.rank == 0 else None
        metrics = from_first(metrics)
        figures, best = figures_of(metrics, self.figures), self.best
        if progress.log is not None:
            said = "  ".join(f"{name} {'-' if x is None else f'{x:.3f}'}" for name, x in figures.items())
            before = (
                f"best {self.goal} before {best.figure:.3f} in epoch {best.epoch}; " if best.epoch else ""
            )
            progress.say(f"epoch {epoch}: {said}  ({before}took {duration(time.monotonic() - started)})")
            row = {f"val/{name.replace(' ', '_')}": x for name, x in figures.items() if x is not None}
            progress.log.add(
                self.step, epoch, progress.seconds, {name: round(x, 5) for name, x in row.items()}
            )
            plot_curves(progress.log.rows, self.folder / "curves.png")
            if config.sheets_every and (last or _is_turn(epoch, config.sheets_every)):
                write_comparison(val, found, self.folder / "sheets" / f"epoch_{epoch:03}.png")
        if best.judge(figures[self.goal], metrics, epoch) and self.rank == 0:
            self._export("best.safetensors", metrics)
        if not last and best.in_vain(config.patience):
            vain = f"in {best.without_gain} evaluations"
            progress.say(f"stopping early: {self.goal} has not risen above {best.figure:.3f} {vain}")

    # -- a save

    def _save(self, progress: Progress) -> None:
        """Write last.safetensors and last.ckpt, in the first process.

        last.ckpt comes last: whenever the process ends, everything that it says was done has been written.
        """
        if self.rank != 0:
            return
        self._export("last.safetensors", None)
        state = {
            "seen": self.seen,
            "step": self.step,
            "rate": self.rate,
            "model": spec_to_json(self.spec),
            "network": self.network.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "best": asdict(self.best),
            "row": progress.row,
        }
        save_run(self.folder / LAST, state)

    def _restore(self, checkpoint: dict[str, Any]) -> None:
        """Continue from what `_save` wrote, on any number of processes.

        Raises:
            CheckpointError: it is of another network, or damaged.
            ConfigError: the run is to end before where it is: its learning rate would never be lowered.
        """
        check_network(checkpoint, spec_to_json(self.spec), self.folder / LAST)
        try:
            self.network.load_state_dict(checkpoint["network"])
            self.optimizer.load_state_dict(checkpoint["optimizer"])
            self.scaler.load_state_dict(checkpoint["scaler"])
            if self.average is not None:
                self.average.load_state_dict(checkpoint["average"])
            self.best = BestSoFar(**checkpoint["best"])
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise CheckpointError(f"{self.folder / LAST} does not fit this run: {error}") from error
        self.seen, self.step, self.rate, self.row = (checkpoint[k] for k in ("seen", "step", "rate", "row"))
        epochs = load_config(self.folder / "config.json").epochs
        if self.config.epochs < epochs and self.seen >= self.total:
            raise ConfigError(
                f"{self.folder} has done {self.seen / self.epoch_length:.4g} of its {epochs} epochs "
                f"and cannot end after {self.config.epochs}: give more epochs, or another folder"
            )

    def _export(self, name: str, metrics: dict[str, Any] | None) -> None:
        """Write the present (averaged) weights as a model file."""
        config, split = self.config, self.splits["train"]
        training = {
            "seed": config.seed,
            "step": self.step,
            "epoch": round(self.seen / self.epoch_length, 4),
            "images": len(split),
            "dataset": split.name,
            "revision": git_revision(),
            "versions": versions(),
            "settings": config.model_dump(mode="json", exclude={"data", "out", "init", "pretrained"}),
        }
        weights, path = self.result.state_dict(), self.folder / name
        save_checkpoint(path, weights, self.spec, self.classes, metrics=metrics, training=training)

    # -- the beginning and the end

    def _open_folder(self) -> None:
        """A folder that says what the run is."""
        with writable():
            self.folder.mkdir(parents=True, exist_ok=True)
            for place in (self.folder, self.folder / "sheets"):
                remove_leftovers(place)  # of a run that was killed
            write_fingerprint(self.folder / FINGERPRINT, self.splits)
            self.config.save(self.folder / "config.json")

    def _headline(self) -> str:
        config, split = self.config, self.splits["train"]
        total = sum(p.numel() for p in self.network.parameters())
        trained = sum(p.numel() for p in self.network.parameters() if p.requires_grad)
        start = f"resuming after batch {self.seen}" if self.seen else "starting"
        return (
            f"{start}: {config.model} ({total / 1e6:.1f} M parameters, {trained / 1e6:.1f} M trained), "
            f"{len(split)} images of {len(split.class_names)} classes, {config.epochs} epochs of "
            f"{self.epoch_length} batches of {config.batch_size} x {self.world} on {self.device}; "
            f"{config.optimizer}, learning rate {config.scaled_learning_rate:.2e} for "
            f"{config.effective_batch} images a step"
        )

    def _finish(self, log: RunLog | None, seconds: float) -> Path:
        """Write what a finished run leaves, and return its best weights."""
        best, kept = self.best, self.best.epoch > 0
        path = self.folder / ("best.safetensors" if kept else "last.safetensors")
        if log is not None:
            summary = {
                "best_epoch": best.epoch if kept else None,
                f"best_{self.goal.replace(' ', '_')}": best.figure if kept else None,
                "best": best.metrics,
                "final": best.last,
                "epochs": self.config.epochs,
                "steps": self.step,
                "seconds": round(seconds, 1),
                "seed": self.config.seed,
                "versions": versions(),
            }
            plot_curves(log.rows, self.folder / "curves.png")
            write_json(self.folder / METRICS, summary)
            print(f"finished: {path}", file=sys.stderr, flush=True)
        if self.world > 1:
            dist.barrier()  # the files are there when any process returns
        return path

    def _refuse_finished(self) -> None:
        """Raises ConfigError when a run without anything left to train has also written what it leaves."""
        try:
            summary = json.loads((self.folder / METRICS).read_text(encoding="utf-8"))
            finished = summary["steps"] == self.step
        except (OSError, ValueError, KeyError, TypeError):
            finished = False
        if from_first(finished):
            why, more = f"its {self.config.epochs} epochs are done", "epochs"
            if self.best.in_vain(self.config.patience):
                why, more = f"{self.goal} did not rise in {self.best.without_gain} evaluations", "patience"
            raise ConfigError(
                f"{self.folder} is finished: {why}. Give more {more} to continue, or another folder"
            )


def image_generator(seed: int, batch: int, place: int) -> torch.Generator:
    """A generator for the image at a place of a batch, counted over all processes. Its seed is well mixed:
    neighbouring batches have nothing in common.
    """
    digest = hashlib.blake2b(f"{seed}/{batch}/{place}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def _is_turn(epoch: int, every: int) -> bool:
    return every > 0 and epoch % every == 0
