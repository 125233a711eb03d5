"""From what the user said to the parts of a run: config, data, network, starting weights, device."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from instancefcn.bfloat16 import bfloat16_is_native, convolves_in_bfloat16
from instancefcn.console import Progress, progress
from instancefcn.data.dataset import Dataset
from instancefcn.data.doctor.examine import Report, examine
from instancefcn.data.doctor.report import brief, left_out
from instancefcn.data.formats.layouts import open_datasets, splits_of
from instancefcn.data.transforms import Augment
from instancefcn.errors import ConfigError
from instancefcn.folder_lock import check_not_locked
from instancefcn.limits import MAX_INPUT
from instancefcn.models import zoo
from instancefcn.models.checkpoint import bundled_models
from instancefcn.models.head import Classes
from instancefcn.models.rpn import AnchorSpec
from instancefcn.models.starting_weights import start_from
from instancefcn.published.checkpoint import load_any_checkpoint
from instancefcn.settings import merge, nest
from instancefcn.training.checkpoints import LAST
from instancefcn.training.config import TrainConfig, load_config, resolve, resume_config
from instancefcn.training.plan import GENERAL, MODEL, Plan, make_plan

SKIPPED = "skipped.json"
"""What `skip_bad` left out of the data, in a run's folder."""
RESULTS = ("best.safetensors", "last.safetensors", "metrics.json")
"""What a run leaves beside `LAST`."""
AUTOCAST = {"32": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
"""The data type of each precision."""


def make_config(folder: Path, resume: bool, settings: Mapping[str, Any]) -> TrainConfig:
    """The config of a new run in `folder`, or of the one that is there and resumes.

    Raises:
        ConfigError: a setting is wrong, or the folder already holds a run.
        OutputError: the folder holds a run that another process is training.
    """
    settings = nest(settings)
    if resume:
        return resume_config(load_config(folder / "config.json"), settings)
    if (folder / LAST).exists():
        check_not_locked(folder)
        raise ConfigError(f"{folder} already holds a run: give --resume to continue it, or another --out")
    if left := [name for name in RESULTS if (folder / name).exists()]:
        raise ConfigError(
            f"{folder} holds the {left[0]} of a run that cannot be resumed (there is no {LAST}): "
            "give another --out"
        )
    model = settings.setdefault("model", MODEL)
    if model in bundled_models():
        raise ConfigError(
            f"{model} is a trained network, not an architecture: to start from its weights, give --set "
            f"init={model}, and as the model the architecture that its model card names"
        )
    spec = zoo.spec_of(model)
    preferred: dict[str, Any] = {"short_side": spec.short_side, "long_side": spec.long_side}
    if settings.get("accelerator", "auto") in ("auto", "cpu") and bfloat16_is_native("cpu"):
        preferred |= {"precision": "bf16-mixed"}
    preferred |= nest(spec.training)
    preferred |= _training_sides(preferred, settings)
    if isinstance(spec, zoo.ModelSpec):  # written down: a resumed run keeps it when the model's own changes
        preferred |= {"sampling": spec.sampling.method}
    if settings.get("minutes") is not None:
        preferred |= {"evaluate_every": 0, "sheets_every": 0}
    return resolve(settings, preferred)


def follow_plan(config: TrainConfig, settings: Mapping[str, Any], train: Dataset) -> tuple[TrainConfig, Plan]:
    """The config of a run whose model the user did not choose: what the data ask for.

    Args:
        config: from `make_config`.
        settings: what the user said, which comes before the plan.
        train: the images to train on.
    """
    plan = make_plan(
        train,
        minutes=config.minutes,
        batch_size=config.effective_batch,
        bfloat16=bfloat16_is_native(choose_device(config).type),
        general=GENERAL in bundled_models(),
    )
    settings, planned = nest(settings), plan.settings()
    if {"short_side", "long_side"} & settings.keys():
        settings = _training_sides(planned, settings) | settings
    preferred = merge(config.model_dump(), nest(planned))
    return resolve(settings, preferred), plan.without(settings)


def plan(data: Path | str, *, minutes: float | None = None, **settings: Any) -> Plan:
    """What `train` would do with a folder of annotated images, and why.

    Args:
        data, settings: as for `train`; what is set has no line in the plan.
        minutes: the budget of the run; None chooses epochs.

    Raises:
        DataError: the train split is missing or cannot be read.
        ConfigError: a setting is wrong.
    """
    asked = nest({"data": str(data), "out": "run", **settings} | ({"minutes": minutes} if minutes else {}))
    train = open_datasets(Path(data), ("train",), check_images=False)[0]
    return follow_plan(resolve(asked, {"model": MODEL}), asked, train)[1]


def _training_sides(preferred: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Sides of training images: the test's, or the model's own; in proportion when the test's change. A
    range that the user gives replaces the model's list.
    """
    ratios = []
    for side in ("short_side", "long_side"):
        wanted = settings.get(side, preferred[side])
        # Anything but a possible number is refused later, with a message.
        number = isinstance(wanted, int | float) and 0 <= wanted <= MAX_INPUT
        ratios.append(wanted / preferred[side] if number else 1.0)
    short = preferred.get("train_short", (preferred["short_side"], preferred["short_side"]))
    long = round(preferred.get("train_long", preferred["long_side"]) * ratios[1])
    minimum, maximum = (max(32, round(side * ratios[0])) for side in short)
    sides = () if "train_short" in settings else preferred.get("train_sides", ())
    return {
        "train_short": (minimum, maximum),
        "train_sides": tuple(max(32, round(side * ratios[0])) for side in sides),
        "train_long": max(long, maximum),
    }


NOT_MEASURED = (
    "there is no split val, so nothing is measured; to hold out images for it:"
    " instancefcn convert IN OUT --to coco --val-share 0.2"
)


def read_splits(config: TrainConfig, check: bool = True) -> tuple[dict[str, Dataset], Report | None]:
    """Let the dataset doctor look at "train" and, if there is one, "val".

    Args:
        check: False only reads, where another process looks.

    Returns:
        the splits, and the doctor's report, if it looked. For a class-agnostic model all objects are of one
        class.

    Raises:
        DataError: every error of both splits.
    """
    data = Path(config.data)
    names = ("train", "val") if "val" in splits_of(data) else ("train",)
    spec = network_spec(config)
    report = None
    if check or config.skip_bad:  # what is left out must be known in every process
        with progress() if check else nullcontext(Progress()) as show:
            report = examine(
                data,
                names,
                model=spec,
                crowds_as_objects=config.crowds_as_objects,
                skip_bad=config.skip_bad,
                progress=partial(show, "checking images"),
            )
        report.raise_errors()
        found = [split.dataset for split in report.splits]
    else:
        found = open_datasets(data, names, check_images=False)
        if config.crowds_as_objects:
            found = [split.crowds_as_objects() for split in found]
    if isinstance(spec, zoo.ProposalModelSpec):
        found = [split.as_objects() for split in found]
    return dict(zip(names, found, strict=True)), report


def doubts(report: Report, sizes: bool = True) -> list[str]:
    """What to tell the user about the data of a run, as lines of text; of unsuitable `sizes` if wanted."""
    if not sizes:
        findings = tuple(finding for finding in report.findings if finding.check != "object-size")
        report = replace(report, findings=findings)
    lines = [*left_out(report), *brief(report)]
    if len(report.splits) == 1:
        others = ", ".join(name for name in splits_of(report.data) if name != "train")
        lines.append(NOT_MEASURED + (f"; or rename one of those: {others}" if others else ""))
    return lines


def network_spec(config: TrainConfig) -> zoo.AnySpec:
    """The model with what the config changes in it. Raises ConfigError for what it cannot change."""
    changed = zoo.with_changes(
        zoo.spec_of(config.model),
        k=config.k,
        joint=config.joint,
        sampling=config.sampling,
        fused=config.fused,
        mask_weight=config.mask_weight,
    )
    if isinstance(changed, zoo.ModelSpec):
        anchors, stride = changed.anchors, changed.anchors.stride
        scales = tuple(side / stride for side in config.anchor_sides) or anchors.scales
        ratios = config.anchor_ratios or anchors.ratios
        changed = replace(changed, anchors=AnchorSpec(scales, ratios, stride))
    return replace(changed, short_side=config.short_side, long_side=config.long_side)


HEADROOM = 1.25
"""Room for objects in an image, as a multiple of the maximum in the data: other images may hold more."""


def spec_for(
    config: TrainConfig, splits: Mapping[str, Dataset], begun: Mapping[str, Any] | None
) -> zoo.AnySpec:
    """The model with room for all objects of an image, by the data.

    Args:
        begun: the model of the run that is resumed, as `spec_to_json` gave it, whose room is kept.
    """
    if begun is not None:
        room = begun.get("head", {}).get("instances", 0)
    else:
        room = math.ceil(HEADROOM * max(split.most_objects for split in splits.values()))
    return zoo.with_room(network_spec(config), room)


def build_network(
    config: TrainConfig, spec: zoo.AnySpec, classes: Classes, fresh: bool
) -> tuple[Any, list[str]]:
    """The network of a run.

    Args:
        spec: what `spec_for` returned.
        fresh: with the weights to start from; a resumed run has its own.

    Returns:
        the network, and the names of the tensors that are not in the checkpoint `init`.
    """
    network = zoo.build(
        spec,
        class_names=classes.names,
        category_ids=classes.ids,
        pretrained=config.pretrained if fresh and config.init is None else False,
    )
    if not fresh or config.init is None:
        return network, []
    return network, start_from(network, load_any_checkpoint(config.init).network)


def crops(config: TrainConfig) -> tuple[int, float] | None:
    """Side of the crops that the config asks for, in pixels of the image, and network pixels per pixel where
    they are seen largest, as in prediction.
    """
    return (config.window, config.train_short[1] / config.window) if config.window else None


def make_augment(config: TrainConfig) -> Augment:
    """The random changes that the config asks for; InstanceFCN's images in a size that suits an object."""
    change, spec = config.augment, zoo.spec_of(config.model)
    return Augment(
        short_sides=config.train_short,
        long=config.train_long,
        flip=change.flip,
        turn=change.turn,
        brightness=change.colour,
        contrast=change.colour,
        saturation=change.colour,
        crop=change.crop,
        window=config.window,
        choices=config.train_sides,
        fits=spec.windows.fitting_sides if isinstance(spec, zoo.ProposalModelSpec) else None,
    )


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


def reading_processes(config: TrainConfig) -> int:
    """On a CPU one process keeps up with the network; a GPU needs more, but leave some cores to others."""
    if config.workers >= 0:
        return config.workers
    cores = os.cpu_count() or 1
    if config.accelerator == "cpu" or not torch.cuda.is_available():
        return 1
    return max(1, min(12, cores // config.devices - 1))
