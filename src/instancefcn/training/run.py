"""A whole training run, from the dataset's check to the last figures."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L

from instancefcn.data.dataset import Dataset
from instancefcn.data.formats.layouts import describe_layout
from instancefcn.data.loader import AspectBatches, TrainSet
from instancefcn.data.transforms import Resize
from instancefcn.errors import ConfigError
from instancefcn.files import check_output_folder, remove_leftovers, writable, write_json
from instancefcn.models import zoo
from instancefcn.models.checkpoint import save_checkpoint, spec_to_json
from instancefcn.models.fcis import FCIS
from instancefcn.models.head import Classes
from instancefcn.models.instance_fcn import InstanceFCN
from instancefcn.processes import agreed, from_first, is_first, with_started
from instancefcn.provenance import git_revision, versions
from instancefcn.published.checkpoint import load_any_checkpoint
from instancefcn.safe_text import plain
from instancefcn.training.config import TrainConfig, load_config
from instancefcn.training.devices import make_trainer, processes_of
from instancefcn.training.evaluator import DETECTIONS, PROPOSALS, Evaluator
from instancefcn.training.keeper import (
    LAST,
    Interrupted,
    Keeper,
    batches_seen,
    check_fit,
    read_run,
    state_kept,
    way_on,
)
from instancefcn.training.log import RunLog, plot_curves
from instancefcn.training.module import TrainModule
from instancefcn.training.progress import Progress
from instancefcn.training.same_data import RECORD, check_same_data, record_data
from instancefcn.training.setup import make_augment, make_config, read_splits, reading_processes, start_from
from instancefcn.training.stream import RunBatches, RunLoader

METRICS = "metrics.json"


def train(
    data: Path | str, model: str | None = None, *, out: Path | str, resume: bool = False, **settings: Any
) -> Path:
    """Train a model on a folder of annotated pictures.

    Args:
        data: a folder or YAML file of any layout in docs/data.md, such as train.json (COCO), perhaps
            val.json, and images/.
        model: a name from `models.zoo`; "fcis_lite" when left out (a resumed run keeps its own).
        out: folder of the run; see the list below. Must not hold a run unless `resume`.
        resume: go on with the run in `out`, exactly as if it had never stopped.
        settings: fields of `TrainConfig`; `augment={"flip": 0}` or `**{"augment.flip": 0}` for nested ones.

    Returns:
        Path of the best weights by mask AP (proposals: AR@100) on val; the last ones when there is no val
        split.

    Pictures are read by other processes, which import the calling script again: call this from a function or
    below `if __name__ == "__main__":`, or set workers=0. With `devices` above 1 the script itself runs once
    for every device (docs/distributed.md).

    Written to `out`: config.json, data.json (what the run learns from, so that a resumed run can tell a
    change), last.ckpt (to resume), last.safetensors, best.safetensors, metrics.json,
    log.csv, curves.png, pictures/, tensorboard/.

    Raises:
        DataError: the dataset has problems (all of them are listed), or it is not what the resumed run began
            with, or it changed while the run went on.
        ConfigError: a setting is wrong, or `out` cannot be used.
        CheckpointError: there is nothing to resume.
        TrainingError: a loss is not finite, or a file of the run cannot be written.
        Interrupted: SIGINT or SIGTERM came; the run was saved.
        StoppedElsewhere: in all but the first of several processes, when that one raises an error.
    """
    folder = Path(out)
    given = {"data": str(Path(data).resolve()), "out": str(folder.resolve()), **settings}
    with _quiet():
        given = with_started(given | ({"model": model} if model else {}))
        config = make_config(folder, resume, given)
        check_output_folder(folder)
        trainer = make_trainer(config, folder)
        with processes_of(trainer):
            train_split, val_split = agreed(lambda: _read(config, folder, resume))
            run = agreed(lambda: _Run(config, folder, trainer, train_split, val_split, resume))
            return run.run()


def _read(config: TrainConfig, folder: Path, resume: bool) -> tuple[Dataset, Dataset | None]:
    """Both splits, which a resumed run must know; the first process checks the pictures and tells the user
    what it found.
    """
    main = is_first()
    if main:
        print(describe_layout(config.data), file=sys.stderr, flush=True)
    train_split, val_split, doubts = read_splits(config, check=main)
    print(plain("".join(f"{line}\n" for line in doubts)), end="", file=sys.stderr, flush=True)
    if resume:
        check_same_data(folder / RECORD, _splits(train_split, val_split))
    return train_split, val_split


def _splits(train_split: Dataset, val_split: Dataset | None) -> dict[str, Dataset]:
    return {"train": train_split} | ({} if val_split is None else {"val": val_split})


class _Run:
    """The parts of one run, put together."""

    def __init__(
        self,
        config: TrainConfig,
        folder: Path,
        trainer: L.Trainer,
        train_split: Dataset,
        val_split: Dataset | None,
        resume: bool,
    ) -> None:
        self.config, self.folder, self.trainer = config, folder, trainer
        self.train_split, self.val_split = train_split, val_split
        self.checkpoint = read_run(folder / LAST) if resume else None
        L.seed_everything(config.seed, verbose=False)
        self.resize = Resize(config.short_side, config.long_side)
        batches = RunBatches(
            AspectBatches.of(
                train_split, config.batch_size, config.seed, trainer.global_rank, trainer.world_size
            ),
            config.epochs,
        )
        self.loader = RunLoader(
            TrainSet(train_split, make_augment(config), config.seed), batches, reading_processes(config)
        )
        changed = zoo.with_changes(
            zoo.spec_of(config.model),
            k=config.k,
            joint=config.joint,
            sampling=config.sampling,
            fused=config.fused,
            mask_weight=config.mask_weight,
        )
        self.spec = replace(changed, short_side=config.short_side, long_side=config.long_side)
        self.classes = Classes(train_split.class_names, train_split.category_ids)
        self.new: list[str] = []
        self.network = self._network()
        steps = -(-len(batches) // config.accumulate)
        self.module = TrainModule(self.network, config, steps)
        self.first = 0
        if self.checkpoint:
            check_fit(self.checkpoint, spec_to_json(self.spec), self.module.state_dict(), folder / LAST)
            self.first = batches_seen(self.checkpoint)
            self._check_length(load_config(folder / "config.json").epochs)

    def _check_length(self, epochs: int) -> None:
        """Raises ConfigError when a run that was to have so many `epochs` is to end behind where it stands:
        its rate would never be lowered.
        """
        batches, wanted = self.loader.batches, self.config.epochs
        if wanted < epochs and self.first >= len(batches):
            raise ConfigError(
                f"{self.folder} has done {self.first / batches.epoch_length:.4g} of its {epochs} epochs and "
                f"cannot end after {wanted}: give more epochs, or another folder"
            )

    def _prepare(self) -> None:
        """A folder that says what the run is."""
        with writable():
            self.folder.mkdir(parents=True, exist_ok=True)
            for place in (self.folder, self.folder / "pictures"):
                remove_leftovers(place)  # of a run that was killed
            record_data(self.folder / RECORD, _splits(self.train_split, self.val_split))
            self.config.save(self.folder / "config.json")

    def run(self) -> Path:
        """Train to the end (or to a signal), then sum up."""
        with state_kept(self.folder, self.config.data):
            return self._run()

    def _run(self) -> Path:
        checkpoint = self.checkpoint
        main = self.trainer.is_global_zero
        if main and checkpoint is None:
            self._prepare()
        log = self._log() if main else None
        progress = Progress(self.loader, log, self.config.log_every)
        figures = PROPOSALS if isinstance(self.network, InstanceFCN) else DETECTIONS
        evaluator = Evaluator(self.folder, self.val_split, self.resize, progress, self.export, figures)
        keeper = Keeper(
            self.folder,
            self.loader,
            lambda name: self.export(name, None),
            self.config.save_every_minutes,
            spec_to_json(self.spec),
        )
        # The order matters: numbers first, then the evaluation, whose outcome the checkpoint then holds.
        self.trainer.callbacks = [progress, evaluator, keeper]  # type: ignore[attr-defined]
        if checkpoint is not None:
            evaluator.load_state_dict(checkpoint["callbacks"][evaluator.state_key])
            if self.first >= len(self.loader.batches) or evaluator.in_vain(self.config.patience):
                return self._sum_up_killed(evaluator, log, checkpoint["global_step"])
            if main:  # not before: what is refused leaves no trace
                self._prepare()
        if log is not None:
            log.begin()
        progress.say(self._headline())
        if self.new:
            progress.say(f"not in {self.config.init}, so new: {', '.join(self.new)}")
        path = str(self.folder / LAST) if checkpoint else None
        self.trainer.fit(self.module, train_dataloaders=self.loader, ckpt_path=path, weights_only=True)
        if keeper.stopped_by is not None and self.loader.seen < len(self.loader.batches):
            message = (
                f"stopped by {keeper.stopped_by.name} after batch {self.loader.seen} of "
                f"{len(self.loader.batches)}; all is saved. Go on with: "
                f"{way_on(self.folder, self.config.data)}"
            )
            raise Interrupted(int(keeper.stopped_by), message)
        return self._sum_up(evaluator, log, self.trainer.global_step, progress.seconds)

    def _log(self) -> RunLog:
        """The log of a new run, or of one that goes on, up to its checkpoint."""
        step = self.checkpoint["global_step"] if self.checkpoint else 0
        return RunLog(self.folder, step, self.first / self.loader.batches.epoch_length)

    def _sum_up(self, evaluator: Evaluator, log: RunLog | None, steps: int, seconds: float) -> Path:
        """Write what a finished run leaves, and return its best weights."""
        best = self.folder / ("best.safetensors" if evaluator.best_epoch else "last.safetensors")
        if log is not None:
            plot_curves(log.rows, self.folder / "curves.png")
            write_json(self.folder / METRICS, self._summary(evaluator, steps, seconds))
            print(f"finished: {best}", file=sys.stderr, flush=True)
        self.trainer.strategy.barrier()  # the files are there when any process returns
        return best

    def _sum_up_killed(self, evaluator: Evaluator, log: RunLog | None, steps: int) -> Path:
        """There is nothing to train, but perhaps the run was killed before it summed up.

        Raises:
            ConfigError: it was not.
        """
        try:
            summed_up = json.loads((self.folder / METRICS).read_text(encoding="utf-8"))["steps"] == steps
        except (OSError, ValueError, KeyError, TypeError):
            summed_up = False
        if not from_first(summed_up):
            return self._sum_up(evaluator, log, steps, log.seconds_before if log is not None else 0.0)
        if evaluator.in_vain(self.config.patience):
            raise ConfigError(
                f"{self.folder} is finished: {evaluator.goal} did not rise in {evaluator.without_gain} "
                "evaluations. Give more patience to go on, or another folder"
            )
        raise ConfigError(
            f"{self.folder} is finished: its {self.config.epochs} epochs are done. "
            "Give more epochs to go on, or another folder"
        )

    def export(self, name: str, metrics: dict[str, Any] | None) -> None:
        """Write the present (averaged) weights as a model file."""
        config = self.config
        training = {
            "seed": config.seed,
            "step": self.trainer.global_step,
            "epoch": round(self.loader.seen / self.loader.batches.epoch_length, 4),
            "pictures": len(self.train_split),
            "dataset": self.train_split.name,
            "revision": git_revision(),
            "versions": versions(),
            "settings": config.model_dump(mode="json", exclude={"data", "out", "init", "pretrained"}),
        }
        weights = self.module.evaluated_network.state_dict()
        save_checkpoint(
            self.folder / name, weights, self.spec, self.classes, metrics=metrics, training=training
        )

    def _network(self) -> FCIS | InstanceFCN:
        """With the weights to start from; those of a run that goes on come with its checkpoint."""
        names, ids, config = self.classes.names, self.classes.ids, self.config
        fresh = self.checkpoint is None
        pretrained = config.pretrained if fresh and config.init is None else False
        network = zoo.build(self.spec, class_names=names, category_ids=ids, pretrained=pretrained)
        if fresh and config.init is not None:
            self.new = start_from(network, load_any_checkpoint(config.init))
        return network

    def _headline(self) -> str:
        config, split = self.config, self.train_split
        trained = sum(p.numel() for p in self.network.parameters() if p.requires_grad)
        total = sum(p.numel() for p in self.network.parameters())
        start = f"going on after batch {self.first}" if self.first else "starting"
        return (
            f"{start}: {config.model} ({total / 1e6:.1f} M parameters, {trained / 1e6:.1f} M trained), "
            f"{len(split)} pictures of {len(split.class_names)} classes, {config.epochs} epochs of "
            f"{self.loader.batches.epoch_length} batches of {config.batch_size} x {self.trainer.world_size} "
            f"on {self.trainer.strategy.root_device}; {config.optimizer}, learning rate "
            f"{config.scaled_learning_rate:.2e} for {config.effective_batch} pictures a step"
        )

    def _summary(self, evaluator: Evaluator, steps: int, seconds: float) -> dict[str, Any]:
        return {
            "best_epoch": evaluator.best_epoch or None,
            f"best_{evaluator.goal.replace(' ', '_')}": evaluator.best if evaluator.best_epoch else None,
            "best": evaluator.best_metrics,
            "final": evaluator.metrics,
            "epochs": self.config.epochs,
            "steps": steps,
            "seconds": round(seconds, 1),
            "seed": self.config.seed,
            "versions": versions(),
        }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's tips and the warnings that do not concern this use of it."""
    loggers = [
        logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning")
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning(_fabric|_utilities)?\b.*")
        # Of filters of one channel or one pixel: the strides differ, the order in memory does not.
        warnings.filterwarnings("ignore", "(?s)Grad strides do not match bucket view strides")
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
