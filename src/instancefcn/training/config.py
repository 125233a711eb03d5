"""Every setting of a training run, in one validated object that refuses unknown names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from instancefcn.data.text_files import read_json
from instancefcn.errors import ConfigError
from instancefcn.files import write_json
from instancefcn.limits import MAX_INPUT
from instancefcn.settings import Section, explain, merge, nest

REFERENCE_BATCH = 16
"""`learning_rate` is meant for this many images a step; it is scaled linearly to the batch in use."""

SHARES = ("batch_size", "devices", "nodes")
"""How the images of a batch are shared out. A resumed run may change them while their product stays."""
CHANGEABLE = frozenset(
    {
        "epochs",
        "minutes",
        "workers",
        "evaluate_every",
        "sheets_every",
        "patience",
        "save_every_minutes",
        "log_every",
    }
)
"""Others that a resumed run may change. Only `epochs` and `minutes` affect the weights: the schedule
stretches."""
ELSEWHERE = {
    "lr": "learning_rate",
    "lr0": "learning_rate",
    "rate": "learning_rate",
    "batch": "batch_size",
    "imgsz": "short_side",
    "size": "short_side",
    "amp": "precision",
    "num_workers": "workers",
}
"""What other programs call some settings."""

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Side = Annotated[int, Field(ge=32, le=MAX_INPUT)]


class AugmentConfig(Section):
    """How training images are varied. Strengths and chances lie between 0 (off) and 1."""

    flip: Share = Field(default=0.5, description="chance of a horizontal flip")
    turn: Share = Field(default=0.0, description="chance of 0 to 3 quarter turns: images without up and down")
    colour: Share = Field(default=0.2, description="strength of change in brightness, contrast, saturation")
    crop: Share = Field(default=0.0, description="chance of a random crop that keeps at least one object")


class TrainConfig(Section):
    """All settings of a run; `resolve` fills in what a model prefers. Saved as config.json beside the run.

    Sides are in pixels of the network's input: an image is scaled to the wanted short side, or less where its
    long side would pass the limit. In training the short side is drawn uniformly from `train_short` =
    (minimum, maximum), or from the few values of `train_sides`.
    """

    model: str = "fcis_lite"
    data: str
    out: str
    seed: int = Field(default=0, ge=0, lt=2**32, description="of weights, order, augmentation and sampling")

    epochs: Count = Field(default=12, description="how often every image is seen, unless minutes are given")
    minutes: float | None = Field(
        default=None,
        gt=0,
        le=1e6,
        description="of the whole run by the clock, evaluations too, instead of epochs: the number of steps "
        "follows from the machine's pace",
    )
    batch_size: Count = Field(
        default=4,
        le=4096,
        description="images a device; a step sees batch_size x devices x nodes x accumulate",
    )
    accumulate: Count = Field(default=1, description="batches whose gradients are averaged for one step")
    optimizer: Literal["adamw", "sgd"] = "sgd"
    learning_rate: float = Field(default=0.01, gt=0, description=f"for a batch of {REFERENCE_BATCH} images")
    backbone_rate: float = Field(default=1.0, ge=0, description="the backbone's learning rate, as a multiple")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="SGD only")
    weight_decay: float = Field(default=5e-4, ge=0, description="none on biases and normalisation layers")
    schedule: Literal["cosine", "step"] = "cosine"
    warmup: int = Field(default=250, ge=0, description="steps of rising rate, at most a third of a run")
    milestones: tuple[float, ...] = Field(
        default=(2 / 3,), description="step schedule: parts of the run after which the rate falls to a tenth"
    )
    clip_norm: float = Field(default=10.0, ge=0, description="maximum norm of the whole gradient; 0 is off")
    ema_decay: float = Field(default=0.999, ge=0, lt=1, description="of the averaged weights; 0 is off")
    precision: Literal["32", "bf16-mixed", "16-mixed"] = Field(
        default="32",
        description="of training: `16-mixed` on a GPU, `bf16-mixed` also on a CPU with AVX-512 (faster from "
        "AVX-512 BF16 or AMX on); validation runs in 32 bits",
    )

    short_side: Side = Field(default=600, description="of an image at test time")
    long_side: Side = Field(default=1000, description="limit at test time")
    train_short: tuple[int, int] = Field(
        default=(600, 600), description="minimum and maximum short side in training; follows short_side"
    )
    train_sides: tuple[int, ...] = Field(
        default=(), description="short sides to draw from, instead of the range train_short (InstanceFCN)"
    )
    train_long: Side = Field(
        default=1000, description="limit of the long side in training; follows long_side"
    )
    window: int = Field(
        default=0,
        ge=0,
        description="side of random crops of larger training images, px of the image; 0 is off",
    )
    augment: AugmentConfig = AugmentConfig()

    sampling: Literal["ohem", "random"] | None = Field(
        default=None, description="of RoIs; the model's own when left out"
    )
    k: int | None = Field(
        default=None, ge=1, le=64, description="parts of a window along a side; 1 is translation invariant"
    )
    joint: bool | None = Field(default=None, description="false: maps of their own for classes and for masks")
    fused: bool | None = Field(
        default=None, description="score maps from C3, C4 and C5 together, or C5 alone"
    )
    anchor_sides: tuple[Annotated[float, Field(ge=1, le=MAX_INPUT)], ...] = Field(
        default=(), description="square roots of the anchors' areas, px; the model's own when empty"
    )
    anchor_ratios: tuple[Annotated[float, Field(ge=0.01, le=100)], ...] = Field(
        default=(), description="height / width of anchors; the model's own when empty"
    )
    mask_weight: float | None = Field(
        default=None, gt=0, description="of the mask loss against the others; the model's own when left out"
    )
    pretrained: bool | str = Field(
        default=True, description="backbone from ImageNet's weights; a safetensors file; or false"
    )
    init: str | None = Field(default=None, description="checkpoint to start from, instead of `pretrained`")

    crowds_as_objects: bool = Field(
        default=False, description="take every crowd (iscrowd 1) as one object, as CVAT's brush masks are"
    )
    skip_bad: bool = Field(
        default=False,
        description="leave out what cannot be used; listed in skipped.json",
    )

    workers: int = Field(default=-1, ge=-1, le=256, description="processes that read images; -1 chooses")
    devices: Count = Field(default=1, le=1024, description="of each machine; torchrun and srun say it")
    nodes: Count = Field(default=1, le=1024, description="machines; torchrun and srun say it")
    accelerator: Literal["auto", "cpu", "gpu", "mps"] = Field(
        default="auto", description="`auto`: an NVIDIA GPU if there is one, else the CPU; `mps` is not tested"
    )
    evaluate_every: int = Field(default=1, ge=0, description="epochs; 0 only at the end")
    sheets_every: int = Field(default=2, ge=0, description="epochs between sheets of predictions; 0 is off")
    patience: int = Field(default=0, ge=0, description="evaluations without a gain before stopping; 0 is off")
    save_every_minutes: float = Field(default=2.0, gt=0)
    log_every: Count = Field(default=20, description="batches between two lines of log.csv")

    @field_validator("precision", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) else value  # `--set precision=32` is a number

    @model_validator(mode="after")
    def _sides_fit(self) -> Self:
        minimum, maximum = self.train_short
        if not 32 <= minimum <= maximum:
            raise ValueError(f"train_short needs 32 <= minimum <= maximum, got {self.train_short}")
        if any(side < 32 or side > self.train_long for side in self.train_sides):
            raise ValueError(f"train_sides must lie between 32 and train_long, got {self.train_sides}")
        if self.train_long < maximum or self.long_side < self.short_side:
            raise ValueError(
                f"a long side is shorter than its short side (short_side {self.short_side}, long_side "
                f"{self.long_side}; train_short up to {maximum}, train_long {self.train_long}): raise "
                "long_side or train_long"
            )
        if any(not 0 < part < 1 for part in self.milestones):
            raise ValueError(f"milestones are parts of the run between 0 and 1, got {self.milestones}")
        if not self.out:
            raise ValueError("out is empty: name the folder of the run")
        return self

    @property
    def global_batch(self) -> int:
        """Images that all devices see at once."""
        return self.batch_size * self.devices * self.nodes

    @property
    def effective_batch(self) -> int:
        """Images that one optimizer step has seen, over all devices."""
        return self.global_batch * self.accumulate

    @property
    def scaled_learning_rate(self) -> float:
        """Peak learning rate of a parameter group whose multiplier is 1: linear in the effective batch."""
        return self.learning_rate * self.effective_batch / REFERENCE_BATCH

    def save(self, path: Path) -> None:
        """Write the config as JSON."""
        write_json(path, self.model_dump(mode="json"))


def resolve(settings: Mapping[str, Any], preferred: Mapping[str, Any] | None = None) -> TrainConfig:
    """The config of a new run: what the user said, else what the model prefers, else the defaults above.

    Args:
        settings: nested or dotted keys (`{"augment.flip": 0}` equals `{"augment": {"flip": 0}}`).
        preferred: the same for the model; see `models.zoo`.

    Raises:
        ConfigError: unknown key (the nearest is suggested) or value out of range; everything wrong is listed.
    """
    try:
        return TrainConfig.model_validate(merge(nest(preferred or {}), nest(settings)))
    except ValidationError as error:
        raise ConfigError(explain(error, TrainConfig, ELSEWHERE)) from None


def load_config(path: Path) -> TrainConfig:
    """Read a config.json. Raises ConfigError when it is missing, damaged or of another version."""
    try:
        values = read_json(path)
    except FileNotFoundError:
        raise ConfigError(f"{path} is missing: is {path.parent} the folder of a training run?") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold a JSON object")
    try:
        return resolve(values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def resume_config(saved: TrainConfig, settings: Mapping[str, Any]) -> TrainConfig:
    """The saved config with the few changes that a resumed run may make; `data` and `out` are where its
    folders are now.

    Raises:
        ConfigError: a setting that must stay was given another value.
    """
    old = saved.model_dump(mode="json")
    wanted = resolve(merge(old, nest(settings)))
    changed = wanted.model_dump(mode="json")
    _check_same_batches(saved, wanted)
    wrong = [
        f"{key} was {old[key]!r} and is now {changed[key]!r}"
        for key in old
        if changed[key] != old[key] and key not in CHANGEABLE and key not in (*SHARES, "data", "out")
    ]
    if wrong:
        raise ConfigError(
            "a resumed run must keep its settings, but " + "; ".join(wrong) + ". Only these may change: "
            f"{', '.join(sorted(CHANGEABLE))}; and {', '.join(SHARES)} together. Start a new run in another "
            "folder for other settings"
        )
    return wanted


def _check_same_batches(saved: TrainConfig, wanted: TrainConfig) -> None:
    """Raise ConfigError unless a batch of all devices has as many images as before, however it is shared."""
    if wanted.global_batch == saved.global_batch:
        return
    devices = wanted.devices * wanted.nodes
    fits, rest = divmod(saved.global_batch, devices)
    fix = (
        f"Give batch_size={fits}"
        if not rest
        else f"It cannot be shared out over {devices} devices: use a number that divides it"
    )
    terms = [" x ".join(f"{name} {getattr(c, name)}" for name in SHARES) for c in (wanted, saved)]
    raise ConfigError(
        f"a resumed run must keep its batches of {saved.global_batch} images ({terms[1]}), but "
        f"{terms[0]} is {wanted.global_batch}. {fix}"
    )
