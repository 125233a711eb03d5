"""From what the user said to the parts of a run: config, datasets, augmentation, starting weights."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from instancefcn.console import progress
from instancefcn.data.dataset import Dataset
from instancefcn.data.doctor.examine import examine
from instancefcn.data.doctor.report import brief
from instancefcn.data.formats.layouts import open_datasets, splits_of
from instancefcn.data.transforms import Augment
from instancefcn.errors import ConfigError, DataError
from instancefcn.limits import MAX_INPUT
from instancefcn.models import zoo
from instancefcn.models.checkpoint import Loaded, bundled_models
from instancefcn.models.fcis import FCIS
from instancefcn.models.instance_fcn import InstanceFCN
from instancefcn.published.network import PublishedFCIS
from instancefcn.training.config import TrainConfig, load_config, nest, resolve, resume_config
from instancefcn.training.keeper import LAST

RESULTS = ("best.safetensors", "last.safetensors", "metrics.json")
"""What a run leaves beside `LAST`."""
SCORES = "maps.scores."
"""Begins the names of the tensors that make FCIS's score maps."""


def make_config(folder: Path, resume: bool, settings: Mapping[str, Any]) -> TrainConfig:
    """The config of a new run in `folder`, or of the one that is there and goes on.

    Raises:
        ConfigError: a setting is wrong, or the folder already holds a run.
    """
    settings = nest(settings)
    if resume:
        return resume_config(load_config(folder / "config.json"), settings)
    if (folder / LAST).exists():
        raise ConfigError(f"{folder} already holds a run: give --resume to go on with it, or another --out")
    if left := [name for name in RESULTS if (folder / name).exists()]:
        raise ConfigError(
            f"{folder} holds the {left[0]} of a run that cannot go on (there is no {LAST}): "
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
    if isinstance(spec, zoo.ModelSpec):  # written down: a run goes on so whatever becomes the model's own
        preferred |= {"sampling": spec.sampling.method}
    return resolve(settings, preferred)


def _training_sides(preferred: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Sides of training pictures: the test's, or the model's own; in proportion when the test's change. A
    range that the user gives replaces the model's list.
    """
    ratios = []
    for side in ("short_side", "long_side"):
        wanted = settings.get(side, preferred[side])
        # Anything but a number that can be is refused later, with a message.
        number = isinstance(wanted, int | float) and 0 <= wanted <= MAX_INPUT
        ratios.append(wanted / preferred[side] if number else 1.0)
    short = preferred.get("train_short", (preferred["short_side"], preferred["short_side"]))
    long = round(preferred.get("train_long", preferred["long_side"]) * ratios[1])
    least, greatest = (max(32, round(side * ratios[0])) for side in short)
    sides = () if "train_short" in settings else preferred.get("train_sides", ())
    return {
        "train_short": (least, greatest),
        "train_sides": tuple(max(32, round(side * ratios[0])) for side in sides),
        "train_long": max(long, greatest),
    }


NOT_MEASURED = (
    "there is no split val, so nothing is measured; to keep pictures back for it:"
    " instancefcn convert IN OUT --to coco --val-share 0.2"
)


def read_splits(config: TrainConfig, check: bool = True) -> tuple[Dataset, Dataset | None, list[str]]:
    """Let the dataset doctor look at train and val, and hand them out.

    Args:
        check: False only reads, where another process looks.

    Returns:
        both splits (None for val when there is none), and what to tell the user about doubtful things. For a
        class-agnostic model all objects are of one class.

    Raises:
        DataError: every error of both splits.
    """
    data = Path(config.data)
    names = ("train", "val") if "val" in splits_of(data) else ("train",)
    spec = replace(zoo.spec_of(config.model), short_side=config.short_side, long_side=config.long_side)
    doubts: list[str] = []
    if check:
        with progress() as show:
            report = examine(data, names, model=spec, progress=partial(show, "checking pictures"))
        if report.errors:
            raise DataError([finding.message for finding in report.errors])
        found, doubts = [split.dataset for split in report.splits], brief(report)
        if len(found) == 1:
            others = ", ".join(name for name in splits_of(data) if name != "train")
            doubts.append(
                NOT_MEASURED + (f"; or call one of those that are there so: {others}" if others else "")
            )
    else:
        found = open_datasets(data, names, check_images=False)
    if isinstance(spec, zoo.ProposalModelSpec):
        found = [split.as_objects() for split in found]
    return found[0], found[1] if len(found) > 1 else None, doubts


def start_from(network: FCIS | InstanceFCN, loaded: Loaded) -> list[str]:
    """Copy the weights that fit, a bias with its filters alone. Of the score maps those of the network's
    classes are copied when the checkpoint knows all of them, in whatever order; else, and where maps mean
    something else (`joint`), they stay as they were built.

    Returns:
        names of the tensors that were not copied.

    Raises:
        ConfigError: they were converted from published weights, whose network is another; or they are of
            another kind of network, or of another backbone, which would be random.
    """
    if isinstance(loaded.network, PublishedFCIS):
        raise ConfigError("init: converted weights run as they are and cannot be trained further")
    theirs, ours = type(loaded.network).__name__, type(network).__name__
    if theirs != ours:
        raise ConfigError(f"init: the checkpoint is an {theirs}, this model an {ours}: give one of its kind")
    own, given = network.state_dict(), loaded.network.state_dict()
    if isinstance(network, FCIS) and isinstance(loaded.network, FCIS):
        scores = _scores_of(network, loaded.network)
        given = {name: value for name, value in given.items() if not name.startswith(SCORES)} | scores
    left = [name for name in own if name not in given or own[name].shape != given[name].shape]
    filters = [name.removesuffix(".weight") for name in left if name.endswith(".weight")]
    left += [bias for name in filters if (bias := f"{name}.bias") in own and bias not in left]
    body = [name for name in own if ".body." in name]  # as `parameter_groups` tells the backbone
    if lacking := [name for name in left if name in body]:
        raise ConfigError(
            f"init: {len(lacking)} of the {len(body)} tensors of the backbone are not in the checkpoint or "
            f"have another shape (first: {lacking[0]}). Start from a checkpoint of a model with the same "
            "backbone, or without init"
        )
    network.load_state_dict({name: own[name] if name in left else given[name] for name in own})
    return left


def _scores_of(network: FCIS, other: FCIS) -> dict[str, Tensor]:
    """The weights with which `other` makes the score maps of the network's classes; empty when it knows not
    all of them, or when its maps have other parts or another meaning.
    """
    known = other.classes.names
    if (network.head.k, network.head.joint) != (other.head.k, other.head.joint):
        return {}
    if not set(network.classes.names) <= set(known):
        return {}
    chosen = [0, *(1 + known.index(name) for name in network.classes.names)]
    parts = (other.head.k, other.head.k, 2, len(known) + 1)
    return {
        SCORES + name: value.unflatten(0, parts)[:, :, :, chosen].flatten(0, 3)
        for name, value in other.maps.scores.state_dict().items()
    }


def make_augment(config: TrainConfig) -> Augment:
    """The random changes that the config asks for; InstanceFCN's pictures in a size that suits an object."""
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
