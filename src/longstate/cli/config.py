"""The configuration of `longstate fit`: what is read, what is built, how it trains and how it is judged."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from longstate._checks import InputError
from longstate.data import Task
from longstate.data.splits import By
from longstate.data.statistics import Kind
from longstate.models import BackboneConfig
from longstate.training import TrainingConfig

_FORBID_EXTRA = {"extra": "forbid"}
ModelKind = Literal["classifier", "bidirectional_classifier", "tagger", "regressor", "step_regressor"]
Pooling = Literal["mean", "last"]

EVERY_STEP = ("tagger", "step_regressor")
"""The kinds that answer every step, so that nothing is pooled."""
_TASK_OF: dict[str, Task] = {
    "classifier": "classification",
    "bidirectional_classifier": "classification",
    "tagger": "tagging",
    "regressor": "regression",
    "step_regressor": "step_regression",
}


def task_of(kind: str) -> Task:
    """What the labels are for, of a kind of model."""
    return _TASK_OF[kind]


def kind_of(task: Task) -> str:
    """The first kind of model for a task of the data."""
    return next(kind for kind, its_task in _TASK_OF.items() if its_task == task)


@dataclass(frozen=True, kw_only=True)
class SplitSection:
    """Which recordings train, validate and test.

    Args:
        by: "group" keeps a group on one side, "stratified" divides single recordings, "manifest" insists that the
            source says it; "auto" divides by group if there are groups. What the source says is always kept.
        validation: Share of the recordings to validate with.
        test: Share of the recordings to test with.
        seed: Another seed, another division.
        validation_groups: The groups to validate with, by name, instead of a share.
        test_groups: The groups to test with, by name, instead of a share.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID_EXTRA

    by: By = "auto"
    validation: float = 0.2
    test: float = 0.2
    seed: int = 0
    validation_groups: tuple[str, ...] = ()
    test_groups: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("validation", "test"):
            share = getattr(self, name)
            if not 0 <= share < 1:
                raise InputError(f"`{name}` is {share}, but a share from 0 to below 1 is needed; 0 leaves it out.")
        if self.validation + self.test >= 1:
            raise InputError(
                f"`validation` is {self.validation} beside a `test` of {self.test}, but something has to train; "
                "choose them so that their sum is below 1."
            )


@dataclass(frozen=True, kw_only=True)
class DataSection:
    """Where the recordings come from and how they are brought to a common scale.

    Args:
        source: "watch", a manifest, a `.ts` or `.tsv` file, `package:NAME/PATH` for a file of an installed package, or
            `task:NAME?OPTIONS` for a synthetic task.
        channels: Names of the channels to take, in this order; all if None.
        targets: Columns of the manifest (or of the files with a step's numbers) that a regressor learns.
        normalise: Statistics of the training recordings that go into the model.
        split: Which recordings train, validate and test.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID_EXTRA

    source: str
    channels: tuple[str, ...] | None = None
    targets: tuple[str, ...] = ("label",)
    normalise: Kind = "zscore"
    split: SplitSection = SplitSection()


@dataclass(frozen=True, kw_only=True)
class ModelSection:
    """The model, but for what the data decide (channels, classes, statistics).

    Args:
        kind: What it answers; the task of the data follows from it.
        pooling: What of the steps decides; a tagger and a step regressor have none.
        backbone: The stack of layers.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID_EXTRA

    kind: ModelKind = "classifier"
    pooling: Pooling | None = None
    backbone: BackboneConfig = field(default_factory=BackboneConfig)

    def __post_init__(self) -> None:
        if self.kind in EVERY_STEP and self.pooling is not None:
            raise InputError(f"`pooling` is {self.pooling!r}, but a {self.kind} answers every step; leave it out.")

    @property
    def task(self) -> Task:
        """What the labels are for."""
        return task_of(self.kind)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One of several settings to choose from.

    Args:
        name: What the results call it.
        set: Dotted paths and their values, as after `-s`.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID_EXTRA

    name: str
    set: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class EvaluationSection:
    """How the result is judged.

    Args:
        protocol: "holdout" tests once on the test part; "leave_one_group_out" trains a model for every group left out.
        candidates: Settings to choose from, for every group left out anew, on the groups that train only.
        inner_folds: Parts into which the training groups are divided to choose a candidate.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID_EXTRA

    protocol: Literal["holdout", "leave_one_group_out"] = "holdout"
    candidates: tuple[Candidate, ...] = ()
    inner_folds: int = 2

    def __post_init__(self) -> None:
        if self.inner_folds < 2:
            raise InputError(f"`inner_folds` is {self.inner_folds}, but 2 at least are needed; the default is 2.")
        if self.candidates and self.protocol == "holdout":
            raise InputError(
                f"`candidates` has {len(self.candidates)} entries, but they are chosen from by the protocol "
                "leave_one_group_out only; set that protocol, or leave them out."
            )
        names = [candidate.name for candidate in self.candidates]
        double = next((name for name in names if names.count(name) > 1), None)
        if double is not None:
            raise InputError(f"`candidates` has the name {double!r} twice, but each needs its own; rename one.")


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """Everything that `longstate fit` is told.

    Args:
        data: What is read, and how it is divided.
        model: What is built.
        training: How it trains.
        evaluation: How it is judged.
        output: Folder of the run.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID_EXTRA

    data: DataSection
    model: ModelSection = ModelSection()
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationSection = EvaluationSection()
    output: str = "runs/longstate"
