"""One process or many: Lightning's trainer on the devices and machines that the config names."""

from __future__ import annotations

import contextlib
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.strategies import DDPStrategy

from instancefcn.errors import ConfigError, TrainingError
from instancefcn.processes import PATIENCE, environment
from instancefcn.training.config import TrainConfig
from instancefcn.training.keeper import StraightToFile


def make_trainer(config: TrainConfig, folder: Path) -> L.Trainer:
    """Lightning's trainer; nothing is started yet.

    Raises:
        ConfigError: the machine does not have these devices or not this precision, or nothing started
            processes on the others.
    """
    place = environment()
    if place is None and config.nodes > 1:
        raise ConfigError(
            f"nodes is {config.nodes}: start the command on every machine with torchrun or srun, which also "
            "say how many devices there are (docs/distributed.md)"
        )
    many = config.devices * config.nodes > 1
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "GPU available but not used")  # see _accelerator
            trainer = L.Trainer(
                accelerator=_accelerator(config.accelerator),
                devices=config.devices,
                num_nodes=config.nodes,
                strategy=_strategy() if many else "auto",
                plugins=[place or LightningEnvironment(), StraightToFile()],
                precision=config.precision,
                max_epochs=1,
                accumulate_grad_batches=config.accumulate,
                gradient_clip_val=config.clip_norm or None,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                use_distributed_sampler=False,
                default_root_dir=folder,
            )
    except MisconfigurationException as error:
        raise ConfigError(
            f"accelerator {config.accelerator} with {config.devices} devices is not possible here: {error}"
        ) from error
    # Lightning takes bfloat16 in its place and says so in a warning.
    if config.precision == "16-mixed" and trainer.precision_plugin.precision != "16-mixed":
        raise ConfigError("precision 16-mixed needs a GPU: give bf16-mixed or 32")
    on_cpu = trainer.strategy.root_device.type == "cpu"
    if config.precision == "bf16-mixed" and on_cpu and not convolves_in_bfloat16():
        raise ConfigError(
            "precision bf16-mixed needs a GPU or a processor with AVX-512: on this one every step would take "
            "many times as long as with 32. Give a new run 32; one that began with bf16-mixed needs another "
            "machine to go on"
        )
    return trainer


def _accelerator(wanted: str) -> str:
    # Lightning's own choice on a Mac is its GPU, which lacks the double precision that votes are counted in.
    return ("gpu" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted


def convolves_in_bfloat16() -> bool:
    """Whether oneDNN computes convolutions in bfloat16 on this processor.

    Where it does not, PyTorch's own take over: a step of `fcis_lite` lasts twenty times as long as with 32.
    """
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return supported is None or bool(supported())  # a build without oneDNN: not known to be slow


def _strategy() -> DDPStrategy:
    # Every parameter has a part in every loss (a picture without objects gives gradients of zero), and no
    # buffer ever changes.
    return DDPStrategy(
        find_unused_parameters=False, broadcast_buffers=False, gradient_as_bucket_view=True, timeout=PATIENCE
    )


@contextlib.contextmanager
def processes_of(trainer: L.Trainer) -> Iterator[None]:
    """The processes of a run, able to speak to each other within the block: those that torchrun or srun
    started, or else children of this process, which run the same command. An error here ends the children.

    Raises:
        TrainingError: another process has ended within the block.
    """
    if trainer.world_size == 1:
        yield
        return
    launcher: Any = trainer.strategy.launcher
    try:
        launcher.launch(trainer.strategy.setup_environment)
        yield
    except BaseException as error:
        launcher.kill(signal.SIGTERM)
        if isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error)):
            raise TrainingError(
                "another process of this run has ended or does not answer; its own message says why. What "
                f"was saved is in the folder of the run: go on with --resume ({error})"
            ) from error
        raise
