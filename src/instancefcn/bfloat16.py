"""Where convolutions may run in bfloat16: the range of float32 with 8 bits of precision, in half the time."""

from __future__ import annotations

from typing import Literal

import torch

from instancefcn.errors import ConfigError


def convolves_in_bfloat16() -> bool:
    """Whether oneDNN computes convolutions in bfloat16 on this CPU.

    Where it does not, PyTorch's own take over: a training step of `fcis_lite` takes twenty times as long.
    """
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return supported is None or bool(supported())  # a build without oneDNN: not known to be slow


def bfloat16_is_native(kind: str) -> bool:
    """Whether devices of a kind ("cpu", "cuda") have instructions for bfloat16; of CPUs AVX-512 BF16 or AMX.

    The CPU says so. To time it instead would choose by chance on a busy machine, and results would vary.
    """
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    cpu = torch.cpu
    native = cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported()
    return kind == "cpu" and native and convolves_in_bfloat16()


def chosen_precision(precision: str, device: torch.device) -> Literal["32", "bf16"]:
    """What "auto" means on a device: "bf16" on a CPU that has it natively, else "32" (GPUs are not measured).

    Raises:
        ConfigError: `precision` is not a valid precision, or the device would be many times slower with it.
    """
    if precision == "auto":
        return "bf16" if device.type == "cpu" and bfloat16_is_native("cpu") else "32"
    if precision == "32":
        return "32"
    if precision != "bf16":
        raise ConfigError(f"precision {precision!r} is not a valid precision: give auto, 32 or bf16")
    if device.type == "cpu" and not convolves_in_bfloat16():
        raise ConfigError("precision bf16 needs a GPU or a CPU with AVX-512; this one is faster with 32")
    return "bf16"
