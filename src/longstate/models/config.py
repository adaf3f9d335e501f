"""What a model is, as frozen dataclasses: everything that `build` needs and `config.json` holds.

They are plain (no optional package), and pydantic reads them as they are: unknown keys are refused, and `kind` tells
the members of a union apart.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

from longstate._checks import InputError, check_positive
from longstate.models.layer_config import LayerConfig, S4DConfig

_FORBID_EXTRA = {"extra": "forbid"}
_LARGEST = 1e37  # of a statistic: it and its inverse are float32 numbers of full precision


@dataclass(frozen=True)
class BackboneConfig:
    """A stack of residual layers of width `d_model`, and a norm at its end.

    Args:
        d_model: Width.
        n_layers: How many times `layer`, or the whole `pattern`, stands in the stack.
        layer: What every layer is.
        norm: Before every layer and at the end.
        dropout: Share of every layer's outputs dropped in training.
        pattern: Different layers that follow each other, instead of `layer`: a mixer and a feed-forward, or the eight
            layers of a hybrid's period.
        norm_eps: What the norms add to a variance.
        float32_residual: Whether the sum of the branches is kept in float32 beside parameters of half precision.
        branch_scale: What every branch is multiplied by before it is added, below 1 in Granite.

    Example:
        >>> from longstate.models import BackboneConfig, S4Config, S4DConfig
        >>> BackboneConfig(d_model=32, layer=S4Config()).n_layers
        4
        >>> len(BackboneConfig(n_layers=2, pattern=(S4DConfig(), S4Config())).schedule)
        4
    """

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID_EXTRA

    d_model: int = 64
    n_layers: int = 4
    layer: LayerConfig = S4DConfig()
    norm: Literal["layer", "rms", "batch"] = "layer"
    dropout: float = 0.1
    pattern: tuple[LayerConfig, ...] = ()
    norm_eps: float = 1e-5
    float32_residual: bool = False
    branch_scale: float = 1.0

    @property
    def schedule(self) -> tuple[LayerConfig, ...]:
        """Every layer of the stack, in order."""
        return (self.pattern or (self.layer,)) * self.n_layers


@dataclass(frozen=True)
class InputStatistics:
    """What every input channel is shifted and scaled by: x -> (x - shift) / scale, so that a model takes raw input.

    Raises:
        InputError: If shift and scale differ in width, or a value is not finite, or a scale is 0.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID_EXTRA

    shift: tuple[float, ...]
    scale: tuple[float, ...]

    def __post_init__(self) -> None:
        _check_affine(self.shift, self.scale, name="statistics")


@dataclass(frozen=True)
class TargetStatistics:
    """What every target was shifted and scaled by in training: outputs are z * scale + shift, in the user's units.

    Raises:
        InputError: If shift and scale differ in width, or a value is not finite, or a scale is 0.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID_EXTRA

    shift: tuple[float, ...]
    scale: tuple[float, ...]

    def __post_init__(self) -> None:
        _check_affine(self.shift, self.scale, name="target_statistics")


@dataclass(frozen=True, kw_only=True)
class _Input:
    """What all models say of their input."""

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID_EXTRA

    kind: str
    d_input: int
    backbone: BackboneConfig = BackboneConfig()
    statistics: InputStatistics | None = None
    channels: tuple[str, ...] | None = None
    sampling_rate: float | None = None


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig(_Input):
    """A causal classifier of whole sequences (`SequenceClassifier`).

    Args:
        d_input: Input channels.
        classes: Names of the classes, in the order of the logits.
        backbone: The stack of layers.
        pooling: What of the steps decides: their "mean", or the "last" one.
        statistics: Shift and scale of each channel; the model then takes raw input.
        channels: Names of the input channels, in their order.
        sampling_rate: Of the training data, in Hz.

    Raises:
        InputError: If there are no classes or one twice, or widths do not fit `d_input`.

    Example:
        >>> from longstate.models import ClassifierConfig
        >>> ClassifierConfig(d_input=3, classes=("rest", "walk")).pooling
        'mean'
    """

    kind: Literal["classifier"] = "classifier"
    classes: tuple[str, ...]
    pooling: Literal["mean", "last"] = "mean"

    def __post_init__(self) -> None:
        _check_input(self)
        check_names(self.classes, name="classes")


@dataclass(frozen=True, kw_only=True)
class TaggerConfig(_Input):
    """A causal classifier of every step (`SequenceTagger`); the fields are those of `ClassifierConfig`.

    Raises:
        InputError: If there are no classes or one twice, or widths do not fit `d_input`.
    """

    kind: Literal["tagger"] = "tagger"
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        _check_input(self)
        check_names(self.classes, name="classes")


@dataclass(frozen=True, kw_only=True)
class RegressorConfig(_Input):
    """A causal model of numbers about whole sequences (`SequenceRegressor`).

    `targets` names them in the order of the outputs; with `target_statistics` outputs are in the targets' own units.
    The other fields are those of `ClassifierConfig`.

    Raises:
        InputError: If there are no targets or one twice, or widths do not fit.
    """

    kind: Literal["regressor"] = "regressor"
    targets: tuple[str, ...]
    target_statistics: TargetStatistics | None = None
    pooling: Literal["mean", "last"] = "mean"

    def __post_init__(self) -> None:
        _check_input(self)
        _check_targets(self.targets, self.target_statistics)


@dataclass(frozen=True, kw_only=True)
class StepRegressorConfig(_Input):
    """A causal model of numbers at every step (`StepRegressor`); the fields are those of `RegressorConfig`.

    Raises:
        InputError: If there are no targets or one twice, or widths do not fit.
    """

    kind: Literal["step_regressor"] = "step_regressor"
    targets: tuple[str, ...]
    target_statistics: TargetStatistics | None = None

    def __post_init__(self) -> None:
        _check_input(self)
        _check_targets(self.targets, self.target_statistics)


@dataclass(frozen=True, kw_only=True)
class BidirectionalClassifierConfig(_Input):
    """A classifier of whole sequences that reads both ways (`BidirectionalClassifier`) and cannot stream.

    The fields are those of `ClassifierConfig`. "last" sees all of the forward direction but a single step of the
    backward one, so "mean" is the choice to make.

    Raises:
        InputError: If there are no classes or one twice, or widths do not fit `d_input`.
    """

    kind: Literal["bidirectional_classifier"] = "bidirectional_classifier"
    classes: tuple[str, ...]
    pooling: Literal["mean", "last"] = "mean"

    def __post_init__(self) -> None:
        _check_input(self)
        check_names(self.classes, name="classes")


NumberConfig: TypeAlias = RegressorConfig | StepRegressorConfig
"""The models that answer with numbers; all others name a class."""

ModelConfig: TypeAlias = ClassifierConfig | TaggerConfig | NumberConfig | BidirectionalClassifierConfig


def _check_input(config: _Input) -> None:
    check_positive(d_input=config.d_input)
    if config.statistics is not None and len(config.statistics.shift) != config.d_input:
        raise InputError(
            f"`statistics` has {len(config.statistics.shift)} channels, but d_input={config.d_input} are needed; "
            "compute it from the same channels."
        )
    if config.channels is not None:
        check_names(config.channels, name="channels")
        if len(config.channels) != config.d_input:
            raise InputError(
                f"`channels` names {len(config.channels)} channels, but d_input={config.d_input} names are needed; "
                "name every channel of the input once."
            )
    rate = config.sampling_rate
    if rate is not None and not 0 < rate < math.inf:
        raise InputError(f"`sampling_rate` is {rate}, but a positive number in Hz is needed; leave it out if unknown.")


def _check_targets(targets: tuple[str, ...], statistics: TargetStatistics | None) -> None:
    check_names(targets, name="targets")
    if statistics is not None and len(statistics.shift) != len(targets):
        raise InputError(
            f"`target_statistics` has {len(statistics.shift)} values, but one for each of the {len(targets)} targets "
            "is needed; compute it from the same targets."
        )


def check_names(names: tuple[str, ...], *, name: str) -> None:
    """Raise unless `names` are different strings, at least one."""
    if not isinstance(names, tuple) or not all(isinstance(one, str) for one in names):
        raise InputError(f"`{name}` is {names!r}, but a tuple of strings is needed; write ('one', 'two').")
    if not names:
        raise InputError(f"`{name}` is empty, but at least one name is needed; name them in the order of the columns.")
    double = next((one for one in names if names.count(one) > 1), None)
    if double is not None:
        raise InputError(f"`{name}` has {double!r} twice, but different names are needed; rename one of them.")


def _check_affine(shift: tuple[float, ...], scale: tuple[float, ...], *, name: str) -> None:
    if len(shift) != len(scale):
        raise InputError(
            f"`{name}` has {len(shift)} shifts and {len(scale)} scales, but one of each a column is needed; "
            "compute both from the same data."
        )
    for at, (a, b) in enumerate(zip(shift, scale, strict=True)):
        if not abs(a) < _LARGEST or not 1 / _LARGEST < abs(b) < _LARGEST:
            raise InputError(
                f"`{name}` has shift {a} and scale {b} in column {at}, but finite float32 numbers and a scale other "
                "than 0 are needed; give a constant column the scale 1."
            )
