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
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_

from instancefcn.console import Progress, duration, progress
from instancefcn.data.dataset import Dataset
from instancefcn.data.formats.layouts import describe_layout
from instancefcn.data.loader import AspectBatches, Sample, TrainSet
from instancefcn.errors import CheckpointError, ConfigError, TrainingError
from instancefcn.evaluation.predictions import Predictions
from instancefcn.evaluation.review import write_comparison
from instancefcn.evaluation.run import evaluate_predictions
from instancefcn.files import check_output_folder, remove_leftovers, writable, write_json
from instancefcn.folder_lock import only_writer
from instancefcn.inference.scale import scale_of
from instancefcn.models import zoo
from instancefcn.models.checkpoint import save_checkpoint, spec_to_json
from instancefcn.models.head import Classes
from instancefcn.processes import agreed, from_first, gathered, is_first, together, with_started
from instancefcn.provenance import git_revision, versions
from instancefcn.safe_text import plain
from instancefcn.training import setup
from instancefcn.training.budget import EVALUATION, TRIAL, Budget
from instancefcn.training.checkpoints import LAST, check_network, read_run, save_run
from instancefcn.training.config import TrainConfig, load_config
from instancefcn.training.data_fingerprint import FINGERPRINT, check_fingerprint, write_fingerprint
from instancefcn.training.interruption import Interrupted, explained, resume_command, stop_signals
from instancefcn.training.log import RunLog, plot_curves
from instancefcn.training.optimizer import averaged, build_optimizer, learning_rate_factor, set_learning_rate
from instancefcn.training.resumable_loader import read_batches, run_batches
from instancefcn.training.validation import DETECTIONS, PROPOSALS, BestSoFar, figures_of, predictions_of

METRICS = "metrics.json"
PLAN = "plan.json"


def train(
    data: Path | str, model: str | None = None, *, out: Path | str, resume: bool = False, **settings: Any
) -> Path:
    """Train a model on a folder of annotated images.

    Args:
        data: a folder or YAML file of any layout in docs/data.md, such as train.json (COCO), perhaps
            val.json, and images/.
        model: a name from `models.zoo`, trained with its own recipe; left out, the run follows a plan that is
            made from the data (a resumed run keeps its own settings).
        out: folder of the run; see the list below. Must not hold a run unless `resume`.
        resume: continue the run in `out`, exactly as if it had never stopped.
        settings: fields of `TrainConfig`; `augment={"flip": 0}` or `**{"augment.flip": 0}` for nested ones.

    Returns:
        Path of the best weights by mask AP (proposals: AR@100) on val; the last ones when there is no val
        split.

    Images are read by other processes, which import the calling script again, and so do the processes of
    `devices` above 1: call this from a function or below `if __name__ == "__main__":`, or set workers=0.

    Written to `out`: config.json, plan.json (the plan, with reasons), data.json (what the run trains on, so
    that a resumed run can tell a change), skipped.json (what `skip_bad` left out), last.ckpt (to resume),
    last.safetensors, best.safetensors, metrics.json, log.csv, curves.png, sheets/, tensorboard/.

    Raises:
        DataError: the dataset has problems (all of them are listed), or it is not what the resumed run began
            with, or it changed during the run.
        ConfigError: a setting is wrong, or `out` cannot be used.
        CheckpointError: there is nothing to resume.
        OutputError: `out` cannot be written to, or another process is writing to it.
        TrainingError: a loss is not finite, or a file of the run cannot be written.
        Interrupted: SIGINT or SIGTERM came; the run was saved.
        StoppedElsewhere: in all but the first process of torchrun or srun, when that raises an error.
    """
    folder = Path(out)
    given = {"data": str(Path(data).resolve()), "out": str(folder.resolve()), **settings}
    given = with_started(given | ({"model": model} if model else {}))
    config = setup.make_config(folder, resume, given)
    check_output_folder(folder)
    backend = "nccl" if setup.choose_device(config).type == "cuda" else "gloo"
    asked = None if model or resume else given
    return together(_train, config.devices, config.nodes, backend, config, folder, resume, asked)


def _train(
    local_rank: int, config: TrainConfig, folder: Path, resume: bool, asked: Mapping[str, Any] | None
) -> Path:
    """A whole run, in one of its processes; with the settings that the user `asked` for it follows a plan."""
    with ExitStack() as stack:
        agreed(lambda: stack.enter_context(only_writer(folder)) if is_first() else None)
        checkpoint = agreed(lambda: read_run(folder / LAST)) if resume else None
        splits = agreed(lambda: _read_data(config, folder, resume, planned=asked is not None))
        if asked is not None:
            config = agreed(lambda: _follow_plan(config, folder, asked, splits["train"]))
        run = agreed(lambda: Run(config, setup.choose_device(config, local_rank), folder, splits, checkpoint))
        checkpoint = None  # as large as all that trains
        with explained(folder, config.data):
            return run.train()


def _read_data(config: TrainConfig, folder: Path, resume: bool, planned: bool) -> dict[str, Dataset]:
    """Train and perhaps val, which a resumed run must know; the first process checks the images and tells the
    user what it found, about sizes only when no plan takes care of them.
    """
    first = is_first()
    if first:
        print(describe_layout(config.data), file=sys.stderr, flush=True)
    splits, report = setup.read_splits(config, check=first)
    if first and report is not None:
        lines = "".join(f"{line}\n" for line in setup.doubts(report, sizes=not planned))
        print(plain(lines), end="", file=sys.stderr, flush=True)
        if config.skip_bad:
            with writable():
                write_json(folder / setup.SKIPPED, [finding.as_json() for finding in report.skipped])
    if resume:
        check_fingerprint(folder / FINGERPRINT, splits)
    return splits


def _follow_plan(config: TrainConfig, folder: Path, asked: Mapping[str, Any], train: Dataset) -> TrainConfig:
    """The config with what the data ask for; the first process prints and writes the plan."""
    config, plan = setup.follow_plan(config, asked, train)
    if is_first():
        print(plan, file=sys.stderr, flush=True)
        with writable():
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / PLAN, plan.as_json())
    return config


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
        share: of val, how much an evaluation measures; less than 1 where the minutes do not allow more.
        log: the rows of log.csv; None in all processes but the first.
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
        self.spec = setup.spec_for(config, splits, None if checkpoint is None else checkpoint["model"])
        self.figures = PROPOSALS if isinstance(self.spec, zoo.ProposalModelSpec) else DETECTIONS
        self.goal = next(iter(self.figures))
        split = splits["train"]
        self.classes = Classes(split.class_names, split.category_ids)
        self.scale = scale_of(split, self.spec.preprocessing(), setup.crops(config))
        self.network, self.new = setup.build_network(
            config, self.spec, self.classes, fresh=checkpoint is None
        )
        self.network.to(memory_format=torch.channels_last).to(device)
        self.optimizer = build_optimizer(self.network.parameter_groups(config.backbone_rate), config)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "16-mixed")
        self.average = averaged(self.network, config.ema_decay) if config.ema_decay else None
        self.epoch_batches = AspectBatches.of(split, config.batch_size, config.seed, self.rank, self.world)
        self.epoch_length = len(self.epoch_batches)
        self.total, self.share = config.epochs * self.epoch_length, 1.0
        self.seen, self.step, self.rate, self.best = 0, 0, 0.0, BestSoFar()
        row = self._restore(checkpoint) if checkpoint is not None else None
        epoch = self.seen / self.epoch_length
        self.log = RunLog(folder, self.step, epoch, row) if self.rank == 0 else None
        self.budget = Budget(config.minutes, self.seen) if config.minutes else None

    def train(self) -> Path:
        """Train to the end, or to a signal; return the best weights."""
        config, log = self.config, self.log
        over = self._is_over()
        if log is not None:
            self._open_folder()
        if over:  # killed before it wrote all that it leaves
            return self._finish()

        train_set = TrainSet(self.splits["train"], setup.make_augment(config), config.seed)
        keys = run_batches(self.epoch_batches, config.epochs if self.budget is None else None, self.seen)
        model = self.network.train()
        saved, due = time.monotonic(), False
        with (
            log.writing() if log is not None else nullcontext(),
            progress(self.rank == 0) as show,
            stop_signals(self.rank == 0) as stop_asked,
            warnings.catch_warnings(),
        ):
            show.line(self._headline())
            if self.new:
                show.line(f"not in {config.init}, so new: {', '.join(self.new)}")
            show("training", self.seen, self.total)
            if self.world > 1:
                # Of filters of one channel or one pixel: the strides differ, the order in memory does not.
                warnings.filterwarnings("ignore", "(?s)Grad strides do not match bucket view strides")
                model = DistributedDataParallel(model, gradient_as_bucket_view=True)
                model.broadcast_buffers = False  # none ever changes
            for batch in read_batches(train_set, keys, setup.reading_processes(config)):
                # Forward and backward; after every `accumulate` batches, and after the last, a step.
                self._fit_total(self.budget)
                last = self.seen + 1 == self.total
                stepping = last or (self.seen + 1) % config.accumulate == 0
                with nullcontext() if stepping or self.world == 1 else model.no_sync():
                    losses = self._backward(model, batch)
                if stepping:
                    self._step(batch, losses)
                self.seen += 1
                self._report(losses, show)

                # Evaluate after every few epochs, and after the last.
                evaluating = "val" in self.splits and (last or self._is_turn(config.evaluate_every))
                if evaluating:
                    self._evaluate(last, show)

                # Save and stop when it is time, but right after a step: no gradient is ever lost.
                late = time.monotonic() - saved >= 60 * config.save_every_minutes
                asked, late = self._agree(stop_asked(), late)
                epoch_ends = self.budget is None and self.seen % self.epoch_length == 0
                due = due or late or epoch_ends or last or asked > 0
                if due and stepping:
                    self._save()
                    saved, due = time.monotonic(), False
                if stepping and (last or asked or self.best.in_vain(config.patience)):
                    break
        if asked and not last:
            if self.world > 1:
                dist.barrier()  # the files are there when any process stops
            raise Interrupted(
                asked,
                f"stopped by {signal.Signals(asked).name} after batch {self.seen} of {self.total}; "
                f"everything is saved. Resume with: {resume_command(self.folder, config.data)}",
            )
        return self._finish()

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
        # What is drawn for an image (RoIs, say) depends on its index in the run alone, not on the process.
        first = self.rank * len(batch)
        generators = [image_generator(config.seed, self.seen, first + i) for i in range(len(batch))]
        # Without autocast's cache, the gradients of a weight that is used twice are summed in float32.
        kind, mixed = setup.AUTOCAST[config.precision], config.precision != "32"
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
        config, total = self.config, -(-self.total // self.config.accumulate)
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

    def _report(self, losses: dict[str, float], show: Progress) -> None:
        """Show how the run stands; log the mean losses of every few batches."""
        epoch = self.seen / self.epoch_length
        note = f"epoch {epoch:.2f}, loss {losses['loss']:.3f}, learning rate {self.rate:.1e}"
        show("training", self.seen, self.total, note)
        if self.log is not None:
            self.log.gather(losses)
            if self.seen % self.config.log_every == 0 or self.seen == self.total:
                self.log.add_means(self.step, epoch, self.rate)

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

    def _is_turn(self, every: int) -> bool:
        """Whether so many epochs are over once more; 0 is never."""
        return every > 0 and self.seen % (every * self.epoch_length) == 0

    def _evaluate(self, last: bool, show: Progress) -> None:
        """Measure the weights on val, each process its share of the images; keep them when they are the best.
        In float32, whatever machine resumes the run: bfloat16 moves AP by some thousandths.
        """
        config, val, started = self.config, self._measured(show), time.monotonic()
        own = val.subset(range(self.rank, len(val), self.world))
        found = gathered(self._predictions(own))
        # Through JSON: only plain values may enter a checkpoint.
        metrics = json.loads(json.dumps(evaluate_predictions(val, found))) if self.rank == 0 else None
        metrics = from_first(metrics)
        figures, best = figures_of(metrics, self.figures), self.best
        epoch = -(-self.seen // self.epoch_length)
        if self.log is not None:
            said = "  ".join(f"{name} {'-' if x is None else f'{x:.3f}'}" for name, x in figures.items())
            took = f"took {duration(time.monotonic() - started)}"
            if best.epoch:
                took = f"best {self.goal} before {best.figure:.3f} in epoch {best.epoch}; {took}"
            show.line(f"epoch {epoch}: {said}  ({took})")
            row = {name: round(x, 5) for name, x in figures.items() if x is not None}
            self.log.add(
                self.step,
                self.seen / self.epoch_length,
                {f"val/{name.replace(' ', '_')}": x for name, x in row.items()},
            )
            plot_curves(self.log.rows, self.folder / "curves.png")
            if config.sheets_every and (last or self._is_turn(config.sheets_every)):
                write_comparison(val, found, self.folder / "sheets" / f"epoch_{epoch:03}.png")
        if best.judge(figures[self.goal], metrics, epoch) and self.rank == 0:
            self._export("best.safetensors", metrics)
        if not last and best.in_vain(config.patience):
            vain = f"in {best.without_gain} evaluations"
            show.line(f"stopping early: {self.goal} has not risen above {best.figure:.3f} {vain}")
        if self.budget is not None:
            spent = time.monotonic() - started
            self.budget.evaluation = spent * len(self.splits["val"]) / max(1, len(val))
            self.budget.pause(spent)

    def _measured(self, show: Progress) -> Dataset:
        """Val, or as many of its images, evenly spread, as the budget allows."""
        val = self.splits["val"]
        count = min(len(val), max(1, round(self.share * len(val))))
        if count < len(val) and self.log is not None:
            show.line(
                f"measuring {count:,} of the {len(val):,} images of val: all would take more than "
                f"{EVALUATION:.0%} of the minutes. For all: instancefcn eval {self.config.data} --model "
                f"{self.folder}"
            )
        return val.subset([i * len(val) // count for i in range(count)])

    def _predictions(self, dataset: Dataset) -> dict[int, Predictions]:
        """What the weights of now find in images, by image id; the network is in training mode afterwards."""
        sides, batch_size = self.spec.preprocessing(), self.config.batch_size
        found = predictions_of(self.result, dataset, sides, self.device, batch_size, self.scale)
        self.network.train()
        return found

    # -- a budget of minutes

    def _fit_total(self, budget: Budget | None) -> None:
        """How many batches the budget allows, at the pace of the first process, and which share of val."""
        if budget is None:
            return
        fitted = torch.zeros(2, device=self.device)
        if self.rank == 0:
            if budget.evaluation is None and "val" in self.splits and self.spent() > budget.seconds / 2:
                self._time_evaluation(budget)
            fitted[0], fitted[1] = budget.total(self.seen, self.spent()), budget.share()
        if self.world > 1:
            dist.broadcast(fitted, 0)
        self.total, self.share = int(fitted[0]), float(fitted[1])

    def spent(self) -> float:
        """Seconds of the budget that are spent, as the first process counts them."""
        return self.log.seconds if self.log is not None else 0.0

    def _time_evaluation(self, budget: Budget) -> None:
        """How long the last evaluation will take, from a few images."""
        val, started = self.splits["val"], time.monotonic()
        few = val.subset(range(min(TRIAL, len(val))))
        self._predictions(few)
        took = time.monotonic() - started
        budget.evaluation = took * len(val) / max(1, len(few))
        budget.pause(took)

    # -- a save

    def _save(self) -> None:
        """Write last.safetensors and last.ckpt, in the first process.

        last.ckpt comes last: whenever the process ends, everything that it says was done has been written.
        """
        if self.log is None:
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
            "row": self.log.unfinished,
        }
        save_run(self.folder / LAST, state)

    def _restore(self, checkpoint: dict[str, Any]) -> dict[str, Any]:
        """Continue from what `_save` wrote, on any number of processes; returns the log's unfinished row.

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
        self.seen, self.step, self.rate = (checkpoint[key] for key in ("seen", "step", "rate"))
        epochs = load_config(self.folder / "config.json").epochs
        if not self.config.minutes and self.config.epochs < epochs and self.seen >= self.total:
            raise ConfigError(
                f"{self.folder} has done {self.seen / self.epoch_length:.4g} of its {epochs} epochs "
                f"and cannot end after {self.config.epochs}: give more epochs, or another folder"
            )
        return dict(checkpoint["row"])

    def _export(self, name: str, metrics: dict[str, Any] | None) -> None:
        """Write the present (averaged) weights as a model file."""
        config, split = self.config, self.splits["train"]
        training = {
            "seed": config.seed,
            "step": self.step,
            "epoch": round(self.seen / self.epoch_length, 4),
            "images": len(split),
            "dataset": split.name,
            **self.scale,
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
        length = f"{config.minutes:g} minutes, epochs" if config.minutes else f"{config.epochs} epochs"
        return (
            f"{start}: {config.model} ({total / 1e6:.1f} M parameters, {trained / 1e6:.1f} M trained), "
            f"{len(split)} images of {len(split.class_names)} classes, {length} of "
            f"{self.epoch_length} batches of {config.batch_size} x {self.world} on {self.device}; "
            f"{config.optimizer}, learning rate {config.scaled_learning_rate:.2e} for "
            f"{config.effective_batch} images a step"
        )

    def _finish(self) -> Path:
        """Write what a finished run leaves, and return its best weights."""
        best, kept = self.best, self.best.epoch > 0
        path = self.folder / ("best.safetensors" if kept else "last.safetensors")
        if self.log is not None:
            summary = {
                "best_epoch": best.epoch if kept else None,
                f"best_{self.goal.replace(' ', '_')}": best.figure if kept else None,
                "best": best.metrics,
                "final": best.last,
                "epochs": round(self.seen / self.epoch_length, 2),
                "steps": self.step,
                "seconds": round(self.log.seconds, 1),
                "seed": self.config.seed,
                "versions": versions(),
            }
            plot_curves(self.log.rows, self.folder / "curves.png")
            write_json(self.folder / METRICS, summary)
            print(f"finished: {path}", file=sys.stderr, flush=True)
        if self.world > 1:
            dist.barrier()  # the files are there when any process returns
        return path

    def _is_over(self) -> bool:
        """Whether nothing is left to train; what a finished run leaves may still have to be written.

        Raises:
            ConfigError: that has been written, too.
        """
        config = self.config
        try:
            summary = json.loads((self.folder / METRICS).read_text(encoding="utf-8"))
            finished = from_first(summary["steps"] == self.step)
        except (OSError, ValueError, KeyError, TypeError):
            finished = from_first(False)
        if self.best.in_vain(config.patience):
            why, more = f"{self.goal} did not rise in {self.best.without_gain} evaluations", "patience"
        elif config.minutes:  # without a summary, the last batches are trained once more
            minutes = load_config(self.folder / "config.json").minutes if finished else None
            if minutes is None or config.minutes > minutes:
                return False
            why, more = f"its {minutes:g} minutes are over", "minutes"
        elif self.seen >= self.total:
            why, more = f"its {config.epochs} epochs are done", "epochs"
        else:
            return False
        if finished:
            raise ConfigError(
                f"{self.folder} is finished: {why}. Give more {more} to continue, or another folder"
            )
        return True


def image_generator(seed: int, batch: int, index: int) -> torch.Generator:
    """A generator for the image at `index` in a batch, counted over all processes. Its seed is well mixed:
    neighbouring batches have nothing in common.
    """
    digest = hashlib.blake2b(f"{seed}/{batch}/{index}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
