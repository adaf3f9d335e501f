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
class TrainingConfig:
    """How to train: AdamW, linear warm-up, then a cosine down to a floor.

    Args:
        epochs: Passes over the training recordings.
        batch_size: Recordings in one step, over all devices.
        lr: Largest learning rate; A, B and dt of a layer take at most 1e-3 (their `optimizer_rules`).
        final_lr: Where the cosine ends, as a share of the largest rate.
        warmup: Share of all steps in which the rate rises to its largest value.
        weight_decay: Of everything but A, B and dt.
        gradient_clip: Largest norm of the gradient; None clips nothing.
        precision: "fp32", or "bf16" for bfloat16 products where that is safe (states and kernels stay float32).
        patience: Stop after so many epochs without a better validation value; None trains all epochs.
        monitor: What makes an epoch the best: validation "accuracy" (ties go to the lower loss), or "loss";
            "auto" takes accuracy where there are classes. Without validation recordings the last epoch is the best.
        seed: Of the order, the crops, dropout and augmentation.
        crop: Train on random windows of at most so many steps; None trains on whole recordings.
        class_weights: "balanced" weights each class by the inverse of its count.
        label_smoothing: Share of the target spread evenly over all classes.
        noise: Standard deviation of Gaussian noise added to the input, in units of each channel's own deviation.
        scale: Random gain exp(scale * normal) of each channel of each recording, about the channel's mean.
        flip: Names of channels whose signs change together in half of the recordings, as in a mirror; by number,
            counted from 1, where channels have no names.
        rate: Random speed exp(rate * normal) of each step's batch, given to the model as its `rate`.
        device: "auto" takes a CUDA device if there is one, else the CPU.
        devices: Number of devices (processes on a CPU).
        strategy: How several devices share the work: "ddp", or "auto" (ddp when there are several).
        checkpoint_every: Write a checkpoint after so many steps too; None writes one at the end of each epoch only.

    Raises:
        InputError: If a value is not usable.

    Example:
        >>> from longstate.training import TrainingConfig
        >>> TrainingConfig(epochs=20, patience=5).lr
        0.004
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
    monitor: Monitor = "auto"
    seed: int = 0
    crop: int | None = None
    class_weights: ClassWeights = "none"
    label_smoothing: float = 0.0
    noise: float = 0.0
    scale: float = 0.0
    flip: tuple[str, ...] = ()
    rate: float = 0.0
    device: Device = "auto"
    devices: int = 1
    strategy: Strategy = "auto"
    checkpoint_every: int | None = None

    def __post_init__(self) -> None:
        check_positive(epochs=self.epochs, batch_size=self.batch_size, devices=self.devices)
        for name in ("patience", "crop", "checkpoint_every"):
            value = getattr(self, name)
            if value is not None:
                check_positive(**{name: value})
        if not isinstance(self.seed, int) or isinstance(self.seed, bool) or self.seed < 0:
            raise InputError(f"`seed` is {self.seed!r}, but an integer of at least 0 is needed; 0 is the default.")
        for name, low, high in (
            ("lr", 0.0, math.inf),
            ("final_lr", 0.0, 1.0),
            ("warmup", 0.0, 1.0),
            ("weight_decay", 0.0, math.inf),
            ("gradient_clip", 0.0, math.inf),
            ("label_smoothing", 0.0, 1.0),
            ("noise", 0.0, math.inf),
            ("scale", 0.0, math.inf),
            ("rate", 0.0, math.inf),
        ):
            _check_number(name, getattr(self, name), low, high, above=name in ("lr", "gradient_clip"))
        for name, choices in (
            ("precision", Precision),
            ("monitor", Monitor),
            ("class_weights", ClassWeights),
            ("device", Device),
            ("strategy", Strategy),
        ):
            check_choice(getattr(self, name), get_args(choices), name=name)


def _check_number(name: str, value: float | None, low: float, high: float, *, above: bool) -> None:
    """Raise unless `value` is None or finite and in [low, high], and not `low` itself if `above`."""
    if value is None:
        return
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not low <= value <= high or (above and value == low):
        least = f"more than {low:g}" if above else f"at least {low:g}"
        most = "" if math.isinf(high) else f" and at most {high:g}"
        default = getattr(TrainingConfig, name)
        raise InputError(f"`{name}` is {value!r}, but a number of {least}{most} is needed; the default is {default}.")
