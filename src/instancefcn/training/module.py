"""The Lightning module: losses, learning rate, clipping, averaging. The loop itself is Lightning's."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from instancefcn.data.loader import Sample
from instancefcn.errors import TrainingError
from instancefcn.training.config import TrainConfig
from instancefcn.training.ema import AveragedNetwork
from instancefcn.training.optimizer import build_optimizer, set_learning_rate
from instancefcn.training.schedule import learning_rate_factor


class TrainModule(L.LightningModule):
    """Trains `network`, whose forward(images, targets, generators=...) gives a dict of scalar losses in
    training mode.

    Attributes:
        network: the network that learns.
        average: its moving average, or None when that is off.
        total_steps: optimizer steps of the whole run, for the schedule.
        losses: the last batch's losses by name (means over all processes), with their sum as "loss".
        rate: the last step's learning rate (multiplier 1).
    """

    def __init__(self, network: nn.Module, config: TrainConfig, total_steps: int) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)
        self.config = config
        self.total_steps = total_steps
        self.average: AveragedNetwork | None = None
        self.losses: dict[str, float] = {}
        self.rate = 0.0
        self._paths: list[str] = []

    def setup(self, stage: str) -> None:
        """Make the average; `on_fit_start` moves it to the network's device."""
        if self.config.ema_decay > 0 and self.average is None:
            self.average = AveragedNetwork(self.network, self.config.ema_decay)

    def on_fit_start(self) -> None:
        """The network is on its device now; the average follows."""
        if self.average is not None:
            self.average.network.to(self.device)

    @property
    def evaluated_network(self) -> nn.Module:
        """The network to evaluate and export: the average when there is one."""
        return self.network if self.average is None else self.average.network

    def configure_optimizers(self) -> Optimizer:
        """The config's optimizer; its rate is set in every step."""
        groups = self.network.parameter_groups(self.config.backbone_rate)  # type: ignore[operator]
        return build_optimizer(groups, self.config)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Leave the samples alone: `training_step` moves what it needs."""
        return batch

    def training_step(self, batch: Sequence[Sample], batch_idx: int) -> Tensor:
        """One batch: the sum of the losses.

        Raises:
            TrainingError: a loss is not finite.
        """
        self._paths = [str(sample.record.path) for sample in batch]
        images = [sample.image.to(self.device, non_blocking=True) for sample in batch]
        targets = [sample.target.to(self.device) for sample in batch]
        # What is drawn for a picture (RoIs, say) depends on its place in the run alone, not on the process.
        first = self.global_rank * len(batch)
        generators = [picture_generator(self.config.seed, batch_idx, first + i) for i in range(len(batch))]
        terms: dict[str, Tensor] = self.network(images, targets, generators=generators)
        total = torch.stack([term.float() for term in terms.values()]).sum()
        own = torch.stack([term.detach().float() for term in terms.values()])
        # Means over all processes. What is not finite in one is so in all: they stop together.
        values = self._mean(own.clone()).tolist()
        self.losses = dict(zip(terms, values, strict=True)) | {"loss": sum(values)}
        if not math.isfinite(self.losses["loss"]):
            raise TrainingError(self._not_finite("a loss", self._paths_of_all(bool(own.isfinite().all()))))
        return total

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None
    ) -> None:
        """Set this step's learning rate, then step."""
        config = self.config
        factor = learning_rate_factor(
            min(self.global_step, self.total_steps - 1),
            self.total_steps,
            config.warmup,
            config.schedule,
            config.milestones,
        )
        self.rate = config.scaled_learning_rate * factor
        set_learning_rate(optimizer, self.rate)
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        if self.average is not None:
            self.average.update(self.network)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the norm of the whole gradient; one that is not finite never reaches the weights."""
        parameters = [parameter for parameter in self.network.parameters() if parameter.grad is not None]
        limit = self.config.clip_norm or math.inf
        norm = torch.nn.utils.clip_grad_norm_(parameters, limit)
        # With float16 an overflow is expected at times: the scaler skips that step and lowers its scale.
        if self.config.precision != "16-mixed" and not bool(torch.isfinite(norm)):
            raise TrainingError(self._not_finite("the gradient", self._paths_of_all(False)))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The average travels with the run."""
        # A finished run can be resumed with more epochs: its last batch is then no longer the last.
        checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"] = False
        if self.average is not None:
            checkpoint["average"] = self.average.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the average up again."""
        if self.average is not None:
            self.average.load_state_dict(checkpoint["average"])

    def _mean(self, values: Tensor) -> Tensor:
        """Their mean over the processes."""
        world = self.trainer.world_size
        if world > 1:
            dist.all_reduce(values)
        return values / world

    def _paths_of_all(self, innocent: bool) -> list[str]:
        """The pictures of this step in those processes that are not `innocent`; every process calls this."""
        paths = [] if innocent else self._paths
        if self.trainer.world_size == 1:
            return paths
        found: list[Any] = [None] * self.trainer.world_size
        dist.all_gather_object(found, paths)
        return [path for part in found for path in part]

    def _not_finite(self, what: str, paths: Sequence[str]) -> str:
        terms = ", ".join(f"{name} = {value:g}" for name, value in self.losses.items() if name != "loss")
        pictures = "".join(f"\n  {path}" for path in paths)
        return (
            f"{what} is not finite in step {self.global_step} ({terms}). The batch was:{pictures}\n"
            "Nothing was saved since the last good checkpoint. Look at these pictures and their annotations; "
            "if they are sound, lower learning_rate, lengthen warmup or use precision 32, and start again"
        )


def has_stepped(trainer: L.Trainer, batch_idx: int, batches: int) -> bool:
    """Whether a batch, of so many in the run, was the last of an optimizer step."""
    return batch_idx + 1 == batches or (batch_idx + 1) % trainer.accumulate_grad_batches == 0


def picture_generator(seed: int, batch: int, place: int) -> torch.Generator:
    """A generator for the picture at a place of a batch, counted over all processes. Its seed is well mixed:
    neighbouring batches have nothing in common.
    """
    digest = hashlib.blake2b(f"{seed}/{batch}/{place}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
