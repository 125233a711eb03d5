"""A whole training run, from the dataset's check to the last figures."""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_only

from instancefcn.data.dataset import Dataset
from instancefcn.data.layout import describe
from instancefcn.data.loader import AspectBatches, TrainSet
from instancefcn.data.transforms import Resize
from instancefcn.errors import ConfigError
from instancefcn.files import write_json
from instancefcn.models import zoo
from instancefcn.models.checkpoint import load_checkpoint, save_checkpoint
from instancefcn.models.fcis import FCIS, Classes
from instancefcn.models.instance_fcn import InstanceFCN
from instancefcn.texts import plain
from instancefcn.training.config import TrainConfig
from instancefcn.training.evaluator import DETECTIONS, PROPOSALS, Evaluator
from instancefcn.training.keeper import LAST, Keeper, batches_seen, check_fit, read_run
from instancefcn.training.log import RunLog, plot_curves
from instancefcn.training.module import TrainModule
from instancefcn.training.progress import Progress
from instancefcn.training.provenance import git_revision, versions
from instancefcn.training.setup import make_augment, make_config, read_splits, reading_processes, start_from
from instancefcn.training.stream import RunBatches, RunLoader


class Interrupted(Exception):
    """The run was stopped by a signal and saved; `signal` is its number, `message` says how to go on."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.signal = number


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
    below `if __name__ == "__main__":`, or set workers=0.

    Written to `out`: config.json, last.ckpt (to resume), last.safetensors, best.safetensors, metrics.json,
    log.csv, curves.png, pictures/, tensorboard/.

    Raises:
        DataError: the dataset has problems; all of them are listed.
        ConfigError: a setting is wrong, or `out` cannot be used.
        CheckpointError: there is nothing to resume.
        TrainingError: a loss is not finite.
        Interrupted: SIGINT or SIGTERM came; the run was saved.
    """
    folder = Path(out)
    given = {"data": str(Path(data).resolve()), "out": str(folder.resolve()), **settings}
    config = make_config(folder, resume, given | ({"model": model} if model else {}))
    if is_main_process():
        print(describe(config.data), file=sys.stderr, flush=True)
    train_split, val_split, doubts = read_splits(config)
    if is_main_process():
        print(plain("".join(f"{line}\n" for line in doubts)), end="", file=sys.stderr, flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    config.save(folder / "config.json")
    with _quiet():
        return _Run(config, folder, train_split, val_split).run(resume)


class _Run:
    """The parts of one run, put together."""

    def __init__(
        self, config: TrainConfig, folder: Path, train_split: Dataset, val_split: Dataset | None
    ) -> None:
        self.config, self.folder, self.train_split, self.val_split = config, folder, train_split, val_split
        L.seed_everything(config.seed, verbose=False)
        self.resize = Resize(config.short_side, config.long_side)
        self.trainer = self._trainer()
        batches = RunBatches(
            AspectBatches.of(
                train_split, config.batch_size, config.seed, self.trainer.global_rank, self.trainer.world_size
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
        )
        self.spec = replace(changed, short_side=config.short_side, long_side=config.long_side)
        self.classes = Classes(train_split.class_names, train_split.category_ids)
        self.network = self._network()
        steps = -(-len(batches) // config.accumulate)
        self.module = TrainModule(self.network, config, steps)

    def run(self, resume: bool) -> Path:
        """Train to the end (or to a signal), then sum up."""
        checkpoint = read_run(self.folder / LAST) if resume else None
        if checkpoint:
            check_fit(checkpoint, self.module.state_dict(), self.folder / LAST)
        first = batches_seen(checkpoint) if checkpoint else 0
        main = self.trainer.is_global_zero
        log = RunLog(self.folder, checkpoint["global_step"] if checkpoint else 0) if main else None
        progress = Progress(self.loader, log, self.config.log_every)
        figures = PROPOSALS if isinstance(self.network, InstanceFCN) else DETECTIONS
        evaluator = Evaluator(self.folder, self.val_split, self.resize, progress, self.export, figures)
        keeper = Keeper(
            self.folder, self.loader, lambda name: self.export(name, None), self.config.save_every_minutes
        )
        # The order matters: numbers first, then the evaluation, whose outcome the checkpoint then holds.
        self.trainer.callbacks = [progress, evaluator, keeper]  # type: ignore[attr-defined]
        if first >= len(self.loader.batches):
            raise ConfigError(
                f"{self.folder} is finished: its {self.config.epochs} epochs are done. "
                "Give more epochs to go on, or another folder"
            )
        progress.say(self._headline(first))
        path = str(self.folder / LAST) if checkpoint else None
        self.trainer.fit(self.module, train_dataloaders=self.loader, ckpt_path=path, weights_only=True)
        if keeper.stopped_by is not None and self.loader.seen < len(self.loader.batches):
            message = (
                f"stopped by {keeper.stopped_by.name} after batch {self.loader.seen} of "
                f"{len(self.loader.batches)}; all is saved. Go on with: "
                f"instancefcn train {self.config.data} --out {self.folder} --resume"
            )
            raise Interrupted(int(keeper.stopped_by), message)
        best = self.folder / ("best.safetensors" if evaluator.best_epoch else "last.safetensors")
        if main:
            assert log is not None
            plot_curves(log.rows, self.folder / "curves.png")
            write_json(self.folder / "metrics.json", self._summary(evaluator, progress.seconds))
            progress.say(f"finished: {best}")
        return best

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
        weights = self.module.best_network.state_dict()
        save_checkpoint(
            self.folder / name, weights, self.spec, self.classes, metrics=metrics, training=training
        )

    def _trainer(self) -> L.Trainer:
        config = self.config
        return L.Trainer(
            accelerator=config.accelerator,
            devices=config.devices,
            strategy="ddp" if config.devices > 1 else "auto",
            precision=config.precision,
            max_epochs=1,
            accumulate_grad_batches=config.accumulate,
            gradient_clip_val=config.clip_norm or None,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            default_root_dir=self.folder,
        )

    def _network(self) -> FCIS | InstanceFCN:
        names, ids = self.classes.names, self.classes.ids
        if self.config.init is None:
            return zoo.build(
                self.spec, class_names=names, category_ids=ids, pretrained=self.config.pretrained
            )
        network = zoo.build(self.spec, class_names=names, category_ids=ids)
        start_from(network, load_checkpoint(self.config.init))
        return network

    def _headline(self, first: int) -> str:
        config, split = self.config, self.train_split
        trained = sum(p.numel() for p in self.network.parameters() if p.requires_grad)
        total = sum(p.numel() for p in self.network.parameters())
        start = f"going on after batch {first}" if first else "starting"
        return (
            f"{start}: {config.model} ({total / 1e6:.1f} M parameters, {trained / 1e6:.1f} M trained), "
            f"{len(split)} pictures of {len(split.class_names)} classes, {config.epochs} epochs of "
            f"{self.loader.batches.epoch_length} batches of {config.batch_size} x {self.trainer.world_size} "
            f"on {self.trainer.strategy.root_device}; {config.optimizer}, learning rate "
            f"{config.scaled_learning_rate:.2e} for {config.effective_batch} pictures a step"
        )

    def _summary(self, evaluator: Evaluator, seconds: float) -> dict[str, Any]:
        return {
            "best_epoch": evaluator.best_epoch or None,
            f"best_{evaluator.goal.replace(' ', '_')}": evaluator.best if evaluator.best_epoch else None,
            "best": evaluator.best_metrics,
            "final": evaluator.metrics,
            "epochs": self.config.epochs,
            "steps": self.trainer.global_step,
            "seconds": round(seconds, 1),
            "seed": self.config.seed,
            "versions": versions(),
        }


def is_main_process() -> bool:
    """False in all but one of the processes that train together on several devices."""
    return int(getattr(rank_zero_only, "rank", 0)) == 0


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
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
