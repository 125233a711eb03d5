"""Looking at the validation split while a run goes on: AP, pictures, the best weights, early stop."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import nn

from instancefcn.data.dataset import Dataset, ImageRecord
from instancefcn.data.transforms import Resize
from instancefcn.evaluation.predictions import Predictions, encode_instances
from instancefcn.evaluation.review import write_comparison
from instancefcn.evaluation.run import evaluate_predictions
from instancefcn.geometry.resizing import group_by_shape
from instancefcn.images.decoding import read_image
from instancefcn.instances import Instances
from instancefcn.processes import gathered
from instancefcn.training.config import TrainConfig
from instancefcn.training.log import plot_curves
from instancefcn.training.module import TrainModule, has_stepped
from instancefcn.training.progress import Progress, duration

REMEMBERED = ("best", "best_epoch", "best_metrics", "without_gain", "metrics")
DETECTIONS = {
    "mask AP": ("mask", "AP"),
    "mask AP50": ("mask", "AP50"),
    "mask AP75": ("mask", "AP75"),
    "box AP": ("box", "AP"),
}
PROPOSALS = {
    "AR@100": ("proposals", "AR@100"),
    "AR@10": ("proposals", "AR@10"),
    "AR@1000": ("proposals", "AR@1000"),
    "box AR@100": ("proposals", "box", "AR@100"),
}
"""What a run reports and where evaluation keeps it; the first figure tells which weights are the best."""


class Evaluator(L.Callback):
    """Evaluates at the end of every few epochs and after the last, on the averaged weights.

    Args:
        out: the run's folder.
        dataset: the validation split; None when there is none (nothing is done then).
        resize: the network's input at test time.
        progress: where to report.
        export: writes the present weights under a name, with metrics.
        figures: DETECTIONS or PROPOSALS.
    """

    def __init__(
        self,
        out: Path,
        dataset: Dataset | None,
        resize: Resize,
        progress: Progress,
        export: Callable[[str, dict[str, Any] | None], None],
        figures: Mapping[str, Sequence[str]],
    ) -> None:
        self.out, self.dataset, self.resize = out, dataset, resize
        self.progress, self.export, self.figures = progress, export, figures
        self.goal = next(iter(figures))
        self.best = -1.0
        self.best_epoch = 0
        self.best_metrics: dict[str, Any] | None = None
        self.without_gain = 0
        self.stopping = False
        self.metrics: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """What early stopping and the summary remember."""
        return {name: getattr(self, name) for name in REMEMBERED}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved state."""
        for name in REMEMBERED:
            setattr(self, name, state_dict.get(name))

    def in_vain(self, patience: int) -> bool:
        """Whether so many evaluations in a row brought no gain; a patience of 0 has no end."""
        return 0 < patience <= self.without_gain

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """At the end of an epoch: evaluate when it is that epoch's turn. An early stop waits for the step."""
        assert isinstance(pl_module, TrainModule)
        config, batches = pl_module.config, self.progress.loader.batches
        epoch, place = divmod(batch_idx + 1, batches.epoch_length)
        last = epoch == batches.epochs
        if place == 0 and self.dataset is not None and self._turn(config, epoch, last):
            self.progress.pause()
            self._evaluate(trainer, pl_module, self.dataset, epoch, last)
            self.progress.go_on()
        # Not between two steps: the gradients gathered so far would be lost to a run that goes on.
        if self.stopping and has_stepped(trainer, batch_idx, len(batches)):
            trainer.should_stop = True

    @staticmethod
    def _turn(config: TrainConfig, epoch: int, last: bool) -> bool:
        return last or (config.evaluate_every > 0 and epoch % config.evaluate_every == 0)

    def _evaluate(
        self, trainer: L.Trainer, module: TrainModule, dataset: Dataset, epoch: int, last: bool
    ) -> None:
        config, started = module.config, time.monotonic()
        network = module.evaluated_network
        was_training = network.training
        chosen = range(trainer.global_rank, len(dataset), trainer.world_size)
        # In full precision, as `eval` and `predict` run: bfloat16 moves AP50 by up to a point.
        with torch.autocast(module.device.type, enabled=False):
            pictures = [dataset.images[i] for i in chosen]
            # As `eval` by default; only a GPU gains by more at once.
            together = 1 if module.device.type == "cpu" else config.batch_size
            results = predict(network, pictures, self.resize, module.device, together)
            found: dict[int, Predictions] = {id_: encode_instances(instances) for id_, instances in results}
        network.train(was_training)
        found = gathered(found)
        if trainer.is_global_zero:
            # Through JSON: only plain values may enter a checkpoint.
            self.metrics = json.loads(json.dumps(evaluate_predictions(dataset, found)))
            self._report(trainer, self.metrics, epoch, time.monotonic() - started)
            if config.pictures_every and (last or epoch % config.pictures_every == 0):
                write_comparison(dataset, found, self.out / "pictures" / f"epoch_{epoch:03}.png")
        self.metrics = trainer.strategy.broadcast(self.metrics)
        assert self.metrics is not None
        reached = _lookup(self.metrics, self.figures[self.goal])
        self._judge(trainer, reached, epoch, 0 if last else config.patience)

    def _judge(self, trainer: L.Trainer, reached: float | None, epoch: int, patience: int) -> None:
        """Keep the weights when they are the best so far; stop when they have not been for too long."""
        if reached is None:
            return  # the split has no objects
        gain = reached > self.best
        # Of weights that find nothing yet the later ones have learnt more.
        if gain or reached == self.best == 0:
            self.best, self.best_epoch, self.best_metrics = reached, epoch, self.metrics
            if trainer.is_global_zero:
                self.export("best.safetensors", self.metrics)
        self.without_gain = 0 if gain else self.without_gain + 1
        if self.in_vain(patience):
            vain = f"in {self.without_gain} evaluations"
            self.progress.say(f"stopping early: {self.goal} has not risen above {self.best:.3f} {vain}")
            self.stopping = True

    def _report(self, trainer: L.Trainer, metrics: dict[str, Any], epoch: int, seconds: float) -> None:
        figures = {name: _lookup(metrics, place) for name, place in self.figures.items()}
        said = "  ".join(f"{name} {_number(figure)}" for name, figure in figures.items())
        before = f"best {self.goal} before {self.best:.3f} in epoch {self.best_epoch}; "
        best = before if self.best_epoch else ""
        self.progress.say(f"epoch {epoch}: {said}  ({best}took {duration(seconds)})")
        log = self.progress.book
        if log is not None:
            values = {
                f"val/{name.replace(' ', '_')}": round(figure, 5)
                for name, figure in figures.items()
                if figure is not None
            }
            log.add(trainer.global_step, epoch, self.progress.seconds, values)
            plot_curves(log.rows, self.out / "curves.png")


@torch.no_grad()
def predict(
    network: nn.Module, pictures: list[ImageRecord], resize: Resize, device: torch.device, batch_size: int = 1
) -> Iterator[tuple[int, Instances]]:
    """(picture id, instances in the picture's own pixels), in order; threads read ahead. Of `batch_size`
    pictures those of one shape run at once, so that the figures are those of `eval`.
    """
    network.eval()

    def read(picture: ImageRecord) -> torch.Tensor:
        return resize(read_image(picture.path))[0]

    with ThreadPoolExecutor(2) as readers:
        waiting = [(picture, readers.submit(read, picture)) for picture in pictures[: 2 * batch_size]]
        rest = iter(pictures[2 * batch_size :])
        while waiting:
            batch, waiting = waiting[:batch_size], waiting[batch_size:]
            waiting += [(picture, readers.submit(read, picture)) for picture in islice(rest, batch_size)]
            images = [image.result().to(device) for _, image in batch]
            found: dict[int, Instances] = {}
            for places in group_by_shape(images):
                sizes = [(batch[i][0].height, batch[i][0].width) for i in places]
                results = network([images[i] for i in places], image_sizes=sizes)
                found |= {i: result.to("cpu") for i, result in zip(places, results, strict=True)}
            for place, (picture, _) in enumerate(batch):
                yield picture.id, found[place]


def _lookup(metrics: Mapping[str, Any], place: Sequence[str]) -> float | None:
    found: Any = metrics
    for key in place:
        found = found[key]
    return None if found is None else float(found)


def _number(figure: float | None) -> str:
    return "-" if figure is None else f"{figure:.3f}"
