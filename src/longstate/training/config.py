"""What a training run is told."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from longstate._checks import InputError, check_choice, check_positive

Precision = Literal["fp32", "bf16"]
ClassWeights = Literal["none", "balanced"]
Monitor = Literal["auto", "accuracy", "loss"]
Device = Literal["auto", "cpu", "cuda", "mps"]
Strategy = Literal["auto", "ddp"]


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What every run is told: AdamW, linear warm-up, then a cosine down to a floor.

    Args:
        epochs: Passes over what is learned from.
        batch_size: Rows in one step, over all devices.
        lr: Largest learning rate; A, B and dt of a layer take at most 1e-3 (their `optimizer_rules`).
        final_lr: Where the cosine ends, as a share of the largest rate.
        warmup: Share of all steps in which the rate rises to its largest value.
        weight_decay: Of everything but A, B and dt.
        gradient_clip: Largest norm of the gradient; None clips nothing.
        precision: "fp32", or "bf16" for bfloat16 products where that is safe (states and kernels stay float32).
        patience: Stop after so many epochs without a better validation value; None trains all epochs.
        seed: Of the order and of everything else that is random.
        device: "auto" takes a CUDA device if there is one, else the CPU.
        devices: Number of devices (processes on a CPU).
        strategy: How several devices share the work: "ddp", or "auto" (ddp when there are several).
        checkpoint_every: Write a checkpoint after so many steps too; None writes one at the end of each epoch only.
        max_minutes: End the run after so many minutes, validation among them, and let the learning rate fall to its
            floor by then; None lets it take its time. What a clock decides cannot be repeated: a run that is stopped
            and continued uses no more time, but does not end with the same weights.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    epochs: int = 60
    batch_size: int = 16
    lr: float = 4e-3
    final_lr: float = 0.01
    warmup: float = 0.1
    weight_decay: float = 0.05
    gradient_clip: float | None = 1.0
    precision: Precision = "fp32"
    patience: int | None = None
    seed: int = 0
    device: Device = "auto"
    devices: int = 1
    strategy: Strategy = "auto"
    checkpoint_every: int | None = None
    max_minutes: float | None = None


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(RunConfig):
    """How to train on recordings.

    Args:
        monitor: What makes an epoch the best: validation "accuracy" (ties go to the lower loss), or "loss";
            "auto" takes accuracy where there are classes. Without validation recordings the last epoch is the best.
        crop: Train on random windows of at most so many steps; None trains on whole recordings.
        class_weights: "balanced" weights each class by the inverse of its count.
        label_smoothing: Share of the target spread evenly over all classes.
        noise: Standard deviation of Gaussian noise added to the input, in units of each channel's own deviation.
        scale: Random gain exp(scale * normal) of each channel of each recording, about the channel's mean.
        flip: Names of channels whose signs change together in half of the recordings, as in a mirror; by number,
            counted from 1, where channels have no names.
        rate: Random speed exp(rate * normal) of each step's batch, given to the model as its `rate`.

    The other settings are those of `RunConfig`.

    Raises:
        InputError: If a value is not usable.

    Example:
        >>> from longstate.training import TrainingConfig
        >>> TrainingConfig(epochs=20, patience=5).lr
        0.004
    """

    monitor: Monitor = "auto"
    crop: int | None = None
    class_weights: ClassWeights = "none"
    label_smoothing: float = 0.0
    noise: float = 0.0
    scale: float = 0.0
    flip: tuple[str, ...] = ()
    rate: float = 0.0

    def __post_init__(self) -> None:
        check_run(self)
        if self.crop is not None:
            check_positive(crop=self.crop)
        for name, high in (("label_smoothing", 1.0), ("noise", math.inf), ("scale", math.inf), ("rate", math.inf)):
            _check_number(self, name, high=high)
        check_choice(self.monitor, get_args(Monitor), name="monitor")
        check_choice(self.class_weights, get_args(ClassWeights), name="class_weights")


@dataclass(frozen=True, kw_only=True)
class TextTrainingConfig(RunConfig):
    """How to train a language model on documents.

    Args:
        sequence_length: Tokens of a row; through so many the gradient reaches back.
        carry_state: Whether every row of a batch goes on where it ended in the batch before, from the state that the
            model had there (truncated back-propagation through time). Else rows are cut from the documents anywhere
            and begin from rest.

    The other settings are those of `RunConfig`, with defaults of their own.

    Raises:
        InputError: If a value is not usable.

    Example:
        >>> from longstate.training import TextTrainingConfig
        >>> TextTrainingConfig(sequence_length=256).epochs
        10
    """

    epochs: int = 10
    lr: float = 2e-3
    final_lr: float = 0.1
    warmup: float = 0.05
    weight_decay: float = 0.1
    sequence_length: int = 512
    carry_state: bool = False

    def __post_init__(self) -> None:
        check_run(self)
        check_positive(sequence_length=self.sequence_length)
        if self.carry_state and self.devices > 1:
            raise InputError(
                f"`carry_state` is true with {self.devices} devices, but the states of one device only are kept for a "
                "run that continues; set `devices` to 1, or leave `carry_state` out."
            )


def check_run(config: RunConfig) -> None:
    """Raise unless the settings of every run are usable."""
    check_positive(epochs=config.epochs, batch_size=config.batch_size, devices=config.devices)
    for name, value in (("patience", config.patience), ("checkpoint_every", config.checkpoint_every)):
        if value is not None:
            check_positive(**{name: value})
    if not isinstance(config.seed, int) or isinstance(config.seed, bool) or config.seed < 0:
        raise InputError(f"`seed` is {config.seed!r}, but an integer of at least 0 is needed; 0 is the default.")
    _check_number(config, "lr", above=True)
    _check_number(config, "final_lr", high=1.0)
    _check_number(config, "warmup", high=1.0)
    _check_number(config, "weight_decay")
    _check_number(config, "gradient_clip", above=True)
    _check_number(config, "max_minutes", above=True)
    for name, choices in (("precision", Precision), ("device", Device), ("strategy", Strategy)):
        check_choice(getattr(config, name), get_args(choices), name=name)


def _check_number(config: RunConfig, name: str, *, high: float = math.inf, above: bool = False) -> None:
    """Raise unless a setting is None or finite and in [0, high], and not 0 itself if `above`."""
    value = getattr(config, name)
    if value is None:
        return
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not 0 <= value <= high or (above and value == 0):
        least = "more than 0" if above else "at least 0"
        most = "" if math.isinf(high) else f" and at most {high:g}"
        default = getattr(type(config), name)
        raise InputError(f"`{name}` is {value!r}, but a number of {least}{most} is needed; the default is {default}.")
