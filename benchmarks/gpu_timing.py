"""Timing on a GPU, for `gpu.py`; on a CPU, where only the code is tried, by the clock."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile


def synchronize(device: torch.device) -> None:
    """Wait for the GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def milliseconds(call: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Median time of a call, from before its first launch to the end of its last kernel; after three calls
    that warm up (and compile).
    """
    times = []
    for turn in range(repeats + 3):
        synchronize(device)
        start = time.perf_counter()
        call()
        synchronize(device)
        if turn >= 3:
            times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def kernel_milliseconds(call: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Mean time that the GPU works for a call, without the gaps between its kernels. Call it warm."""
    if device.type != "cuda":
        return milliseconds(call, device, repeats)
    synchronize(device)
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as seen:
        for _ in range(repeats):
            call()
        synchronize(device)
    kernels = (event for event in seen.key_averages() if event.device_type == DeviceType.CUDA)
    return sum(event.self_device_time_total for event in kernels) / 1000 / repeats


def copy_bandwidth(device: torch.device, gigabytes: float, repeats: int) -> float:
    """GB/s, read and written, of a copy within the GPU's memory: what a kernel can reach at most."""
    source = torch.zeros(int(gigabytes * 1e9), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    best = milliseconds(lambda: target.copy_(source), device, repeats)
    return 2 * gigabytes / best * 1000
