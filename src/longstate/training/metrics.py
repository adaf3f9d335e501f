"""How good answers are, in numpy: counts of right and wrong classes, errors of numbers, accuracy by length."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ClassScore:
    """One class: how often it occurs, and how it was found; a ratio of nothing is 0."""

    name: str
    count: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Bucket:
    """Recordings of `shortest` to `longest` steps: how many, and the share of their answers that is right."""

    shortest: int
    longest: int
    count: int
    accuracy: float


@dataclass(frozen=True)
class TargetScore:
    """One target: mean absolute error, root mean squared error (both in its own units), and R2 (None if constant)."""

    name: str
    mae: float
    rmse: float
    r2: float | None


def confusion_matrix(truth: np.ndarray, answer: np.ndarray, classes: int) -> np.ndarray:
    """How often class i was answered as j.

    Args:
        truth: Class indices (n,).
        answer: Class indices (n,).
        classes: Number of classes.

    Returns:
        Counts (classes, classes) int64, the truth along rows.

    Example:
        >>> import numpy as np
        >>> confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
        [[1, 1], [0, 1]]
    """
    return np.bincount(truth * classes + answer, minlength=classes * classes).reshape(classes, classes)


def class_scores(confusion: np.ndarray, names: tuple[str, ...]) -> tuple[ClassScore, ...]:
    """Precision, recall and F1 of each class.

    precision = TP / (TP + FP),    recall = TP / (TP + FN),    F1 = 2 TP / (2 TP + FP + FN)
    """
    right, occurs, answered = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    return tuple(
        ClassScore(name, int(n), _ratio(tp, said), _ratio(tp, n), _ratio(2 * tp, n + said))
        for name, tp, n, said in zip(names, right, occurs, answered, strict=True)
    )


def macro_f1(confusion: np.ndarray) -> float:
    """Mean F1 over the classes that occur or were answered.

    Example:
        >>> import numpy as np
        >>> macro_f1(np.array([[1, 1, 0], [0, 1, 0], [0, 0, 0]]))
        0.6666666666666666
    """
    seen = confusion.sum(0) + confusion.sum(1)
    return float(np.mean(2 * np.diag(confusion)[seen > 0] / seen[seen > 0]))


def length_buckets(lengths: np.ndarray, right: np.ndarray, answers: np.ndarray, buckets: int = 4) -> tuple[Bucket, ...]:
    """Accuracy by length: recordings in groups of equal count, as far as lengths differ.

    Args:
        lengths: Steps of each recording (n,).
        right: Right answers in each recording (n,).
        answers: Answers in each recording (n,): 1 for a classifier, the labelled steps for a tagger.
        buckets: The largest number of groups.

    Returns:
        Groups from short to long; equal lengths are never divided.

    Example:
        >>> import numpy as np
        >>> for bucket in length_buckets(np.array([5, 7, 7, 9]), np.array([1, 0, 1, 0]), np.ones(4), buckets=2):
        ...     print(bucket)
        Bucket(shortest=5, longest=7, count=3, accuracy=0.6666666666666666)
        Bucket(shortest=9, longest=9, count=1, accuracy=0.0)
    """
    edges = np.quantile(lengths, np.arange(1, buckets) / buckets, method="inverted_cdf")
    group = np.searchsorted(np.unique(edges), lengths, side="left")
    return tuple(
        Bucket(
            int(lengths[inside].min()),
            int(lengths[inside].max()),
            int(inside.sum()),
            float(right[inside].sum() / answers[inside].sum()),
        )
        for inside in (group == number for number in np.unique(group))
    )


def target_scores(truth: np.ndarray, answer: np.ndarray, names: tuple[str, ...]) -> tuple[TargetScore, ...]:
    """Errors of each target.

        R2 = 1 - sum (y - answer)^2 / sum (y - mean y)^2

    Args:
        truth: Targets (n, targets), NaN where there is none.
        answer: Answers (n, targets).
        names: Names of the targets.

    Returns:
        One score a target.
    """
    error = answer.astype(np.float64) - truth
    squares = np.nanmean(error**2, axis=0)
    spread = np.nanvar(truth, axis=0, dtype=np.float64)
    return tuple(
        TargetScore(
            name,
            mae=float(np.nanmean(np.abs(error[:, at]))),
            rmse=float(np.sqrt(squares[at])),
            r2=float(1 - squares[at] / spread[at]) if spread[at] > 0 else None,
        )
        for at, name in enumerate(names)
    )


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0
