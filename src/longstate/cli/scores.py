"""How good answers are: counts of right and wrong classes, and errors of targets."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np


@dataclass(frozen=True)
class Bucket:
    """Recordings of `shortest` to `longest` steps, and the share answered rightly."""

    shortest: int
    longest: int
    count: int
    accuracy: float


@dataclass(frozen=True)
class ClassScore:
    """One class: how many there were, and how they were found."""

    name: str
    count: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class ClassScores:
    """What `evaluate` says of a classifier or tagger; `confusion[true][answered]` counts."""

    count: int
    accuracy: float
    macro_f1: float
    classes: tuple[ClassScore, ...]
    confusion: tuple[tuple[int, ...], ...]
    buckets: tuple[Bucket, ...]

    def to_dict(self) -> dict[str, object]:
        """Plain containers for JSON."""
        return asdict(self)


def class_scores(
    truth: np.ndarray, answered: np.ndarray, classes: Sequence[str], lengths: np.ndarray | None = None
) -> ClassScores:
    """Score answered classes.

        F1 = 2 TP / (2 TP + FP + FN),    macro F1 = mean over the classes that occur or were answered

    Args:
        truth: Class indices (n,), all known.
        answered: Class indices (n,).
        classes: The names of the classes.
        lengths: Steps of each recording (n,), for the buckets; none without it.

    Returns:
        Accuracy, macro F1, scores by class, the confusion matrix, and accuracy by length in four buckets of equal count.
    """
    size = len(classes)
    confusion = np.bincount(truth * size + answered, minlength=size * size).reshape(size, size)
    right = np.diag(confusion)
    true, said = confusion.sum(1), confusion.sum(0)
    f1 = _share(2 * right, true + said)
    present = (true + said) > 0
    return ClassScores(
        count=len(truth),
        accuracy=float(_share(right.sum(), len(truth))),
        macro_f1=float(f1[present].mean()) if present.any() else float("nan"),
        classes=tuple(
            ClassScore(name, int(count), float(precision), float(recall), float(score))
            for name, count, precision, recall, score in zip(
                classes, true, _share(right, said), _share(right, true), f1, strict=True
            )
        ),
        confusion=tuple(tuple(int(count) for count in row) for row in confusion),
        buckets=() if lengths is None else length_buckets(lengths, truth == answered),
    )


def length_buckets(lengths: np.ndarray, right: np.ndarray, count: int = 4) -> tuple[Bucket, ...]:
    """Accuracy by length: at most `count` buckets of about as many recordings each, shortest first."""
    if len(lengths) == 0:
        return ()
    edges = np.unique(np.quantile(lengths, np.arange(1, count) / count, method="higher"))
    place = np.searchsorted(edges, lengths, side="left")
    buckets = []
    for number in np.unique(place):
        inside = place == number
        buckets.append(
            Bucket(
                int(lengths[inside].min()), int(lengths[inside].max()), int(inside.sum()), float(right[inside].mean())
            )
        )
    return tuple(buckets)


@dataclass(frozen=True)
class TargetScore:
    """One target of a regression: mean absolute and root mean square error, and the share of variance explained."""

    name: str
    mae: float
    rmse: float
    r2: float


def target_scores(truth: np.ndarray, answered: np.ndarray, targets: Sequence[str]) -> tuple[TargetScore, ...]:
    """Score answered targets.

        R2 = 1 - sum (y - a)^2 / sum (y - mean y)^2

    Args:
        truth: Targets (n, targets).
        answered: The same shape.
        targets: Their names.

    Returns:
        One score a target; R2 is NaN where all true values are the same.
    """
    error = answered.astype(np.float64) - truth
    spread = ((truth - truth.mean(0, dtype=np.float64)) ** 2).sum(0)
    square = (error**2).sum(0)
    return tuple(
        TargetScore(
            name,
            float(np.abs(error[:, column]).mean()),
            float(np.sqrt((error[:, column] ** 2).mean())),
            float(1 - square[column] / spread[column]) if spread[column] > 0 else float("nan"),
        )
        for column, name in enumerate(targets)
    )


def _share(part: np.ndarray | int, whole: np.ndarray | int) -> np.ndarray:
    """part / whole, 0 where the whole is 0."""
    whole = np.asarray(whole, np.float64)
    return np.divide(part, whole, out=np.zeros_like(whole), where=whole > 0)
