"""The device and the precision of a run."""

from __future__ import annotations

import torch

from instancefcn.errors import ConfigError
from instancefcn.training.config import TrainConfig

AUTOCAST = {"32": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def choose_device(config: TrainConfig, local_rank: int = 0) -> torch.device:
    """The device of the process `local_rank` of this machine.

    Raises:
        ConfigError: the machine does not have these devices, or not this precision.
    """
    # On a Mac "auto" is not its GPU, which lacks the double precision that votes are counted in.
    automatic = "gpu" if torch.cuda.is_available() else "cpu"
    kind = automatic if config.accelerator == "auto" else config.accelerator
    if kind != "cpu":
        found = torch.cuda.device_count() if kind == "gpu" else int(torch.backends.mps.is_available())
        if found < config.devices:
            raise ConfigError(
                f"accelerator {kind} with {config.devices} devices is not possible here: this machine has "
                f"{found}"
            )
    if config.precision == "16-mixed" and kind == "cpu":
        raise ConfigError("precision 16-mixed needs a GPU: give bf16-mixed or 32")
    if config.precision == "bf16-mixed" and kind == "cpu" and not convolves_in_bfloat16():
        raise ConfigError(
            "precision bf16-mixed needs a GPU or a CPU with AVX-512: on this one every step would take many "
            "times as long as with 32. Give a new run 32; one that began with bf16-mixed needs another "
            "machine to resume"
        )
    return torch.device("cuda", local_rank) if kind == "gpu" else torch.device(kind)


def convolves_in_bfloat16() -> bool:
    """Whether oneDNN computes convolutions in bfloat16 on this CPU.

    Where it does not, PyTorch's own take over: a step of `fcis_lite` takes twenty times as long as with 32.
    """
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return supported is None or bool(supported())  # a build without oneDNN: not known to be slow
