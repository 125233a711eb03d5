"""From what the user said to the parts of a run: config, data, augmentation, network, starting weights."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from instancefcn.console import progress
from instancefcn.data.dataset import Dataset
from instancefcn.data.doctor.examine import examine
from instancefcn.data.doctor.report import brief
from instancefcn.data.formats.layouts import open_datasets, splits_of
from instancefcn.data.transforms import Augment
from instancefcn.errors import ConfigError, DataError
from instancefcn.folder_lock import check_not_locked
from instancefcn.limits import MAX_INPUT
from instancefcn.models import zoo
from instancefcn.models.checkpoint import bundled_models
from instancefcn.models.head import Classes
from instancefcn.models.starting_weights import start_from
from instancefcn.published.checkpoint import load_any_checkpoint
from instancefcn.settings import nest
from instancefcn.training.checkpoints import LAST
from instancefcn.training.config import TrainConfig, load_config, resolve, resume_config

RESULTS = ("best.safetensors", "last.safetensors", "metrics.json")
"""What a run leaves beside `LAST`."""


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
    model = settings.setdefault("model", "fcis_lite")
    if model in bundled_models():
        raise ConfigError(
            f"{model} is a trained network, not an architecture: to start from its weights, give --set "
            f"init={model}, and as the model the architecture that its model card names"
        )
    spec = zoo.spec_of(model)
    preferred = {"short_side": spec.short_side, "long_side": spec.long_side, **nest(spec.training)}
    preferred |= _training_sides(preferred, settings)
    if isinstance(spec, zoo.ModelSpec):  # written down: a resumed run keeps it when the model's own changes
        preferred |= {"sampling": spec.sampling.method}
    return resolve(settings, preferred)


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


def read_splits(config: TrainConfig, check: bool = True) -> tuple[dict[str, Dataset], list[str]]:
    """Let the dataset doctor look at "train" and, if there is one, "val".

    Args:
        check: False only reads, where another process looks.

    Returns:
        the splits, and what to tell the user about doubtful things. For a class-agnostic model all objects
        are of one class.

    Raises:
        DataError: every error of both splits.
    """
    data = Path(config.data)
    names = ("train", "val") if "val" in splits_of(data) else ("train",)
    spec = network_spec(config)
    doubts: list[str] = []
    if check:
        with progress() as show:
            report = examine(data, names, model=spec, progress=partial(show, "checking images"))
        if report.errors:
            raise DataError([finding.message for finding in report.errors])
        found, doubts = [split.dataset for split in report.splits], brief(report)
        if len(found) == 1:
            others = ", ".join(name for name in splits_of(data) if name != "train")
            doubts.append(NOT_MEASURED + (f"; or rename one of those: {others}" if others else ""))
    else:
        found = open_datasets(data, names, check_images=False)
    if isinstance(spec, zoo.ProposalModelSpec):
        found = [split.as_objects() for split in found]
    return dict(zip(names, found, strict=True)), doubts


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
        choices=config.train_sides,
        fits=spec.windows.fitting_sides if isinstance(spec, zoo.ProposalModelSpec) else None,
    )


def reading_processes(config: TrainConfig) -> int:
    """On a CPU one process keeps up with the network; a GPU needs more, but leave some cores to others."""
    if config.workers >= 0:
        return config.workers
    cores = os.cpu_count() or 1
    if config.accelerator == "cpu" or not torch.cuda.is_available():
        return 1
    return max(1, min(12, cores // config.devices - 1))
