"""What a model answers about recordings, and how good the answers are."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from longstate._checks import InputError
from longstate.data import Batch, Recordings
from longstate.models import Model, NumberConfig, SequenceTagger, StepRegressor
from longstate.training.loaders import EvaluationBatches
from longstate.training.metrics import (
    Bucket,
    ClassScore,
    TargetScore,
    class_scores,
    confusion_matrix,
    length_buckets,
    macro_f1,
    target_scores,
)
from longstate.training.task import check_channels, check_labels, target_scale


@dataclass(frozen=True)
class ClassificationEvaluation:
    """How good the answers of a classifier or tagger are.

    Args:
        count: Answers judged: recordings, or for a tagger the steps whose class is known.
        loss: Mean cross-entropy in nats.
        accuracy: Share of right answers.
        macro_f1: Mean F1 over the classes that occur or were answered.
        classes: Precision, recall and F1 of each class.
        confusion: How often class i (row) was answered as j (column).
        buckets: Accuracy by length of the recording, in quartiles.
    """

    count: int
    loss: float
    accuracy: float
    macro_f1: float
    classes: tuple[ClassScore, ...]
    confusion: tuple[tuple[int, ...], ...]
    buckets: tuple[Bucket, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class RegressionEvaluation:
    """How good the answers of a regressor are.

    Args:
        count: Recordings judged, or for a `StepRegressor` the steps that have a target.
        loss: Mean squared error in units of each target's deviation in these recordings.
        targets: Errors of each target, in its own units.
    """

    count: int
    loss: float
    targets: tuple[TargetScore, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


Evaluation: TypeAlias = ClassificationEvaluation | RegressionEvaluation


def predict(model: Model, recordings: Recordings, *, batch_size: int = 32) -> np.ndarray:
    """One answer a recording.

    Args:
        model: A classifier or a regressor, on any device; it is used in `eval()` mode.
        recordings: With the model's channels; labels are not looked at.
        batch_size: Recordings at once.

    Returns:
        Probabilities (n, classes), or targets (n, targets) in their own units; float32, in the recordings' order.

    Raises:
        InputError: If the channels do not fit, or the model answers every step (use `predict_steps`).

    Example:
        >>> import numpy as np
        >>> from longstate.data import from_arrays
        >>> from longstate.models import BackboneConfig, ClassifierConfig, build
        >>> from longstate.training import predict
        >>> model = build(ClassifierConfig(d_input=1, classes=("a", "b"), backbone=BackboneConfig(4, 1)))
        >>> predict(model, from_arrays([np.ones(5), np.ones(8)])).sum(1).round(5).tolist()
        [1.0, 1.0]
    """
    if isinstance(model, SequenceTagger | StepRegressor):
        kind = model.config.kind.replace("_", " ")
        raise InputError(f"the model is a {kind}, which answers every step; use `predict_steps` for it.")
    outputs = np.empty((len(recordings), _width(model)), dtype=np.float32)
    for rows, _, answer in _answers(model, recordings, batch_size):
        outputs[rows] = answer.cpu().numpy()
    return outputs


def predict_steps(
    model: SequenceTagger | StepRegressor, recordings: Recordings, *, batch_size: int = 32
) -> list[np.ndarray]:
    """One answer a step.

    Args:
        model: A tagger or a step regressor, on any device; it is used in `eval()` mode.
        recordings: With the model's channels; labels are not looked at.
        batch_size: Recordings at once.

    Returns:
        For each recording its probabilities (length, classes) or targets (length, targets), float32.

    Raises:
        InputError: If the channels do not fit.
    """
    outputs = [np.empty(0, dtype=np.float32)] * len(recordings)
    for rows, batch, answer in _answers(model, recordings, batch_size):
        for row, length, steps in zip(rows, batch.lengths, answer.cpu().numpy(), strict=True):
            outputs[row] = steps[: int(length)]
    return outputs


def evaluate(model: Model, recordings: Recordings, *, batch_size: int = 32) -> Evaluation:
    """Judge a model by labelled recordings.

    Args:
        model: Any model, on any device; it is used in `eval()` mode.
        recordings: With the model's channels and its classes or targets, in the model's order.
        batch_size: Recordings at once.

    Returns:
        A `RegressionEvaluation` for models of numbers, a `ClassificationEvaluation` for all others.

    Raises:
        InputError: If channels or labels do not fit.
    """
    check_labels(model.config, recordings)
    if isinstance(model.config, NumberConfig):
        if isinstance(model, StepRegressor):
            truth = np.concatenate(recordings.y)
            answer = np.concatenate(predict_steps(model, recordings, batch_size=batch_size))
        else:
            truth, answer = np.asarray(recordings.y), predict(model, recordings, batch_size=batch_size)
        known = ~np.isnan(truth)
        loss = float(np.mean((((answer - truth) / target_scale(recordings)) ** 2)[known]))
        return RegressionEvaluation(int(known.any(1).sum()), loss, target_scores(truth, answer, model.config.targets))
    if isinstance(model, SequenceTagger):
        steps = predict_steps(model, recordings, batch_size=batch_size)
        labels = [np.asarray(label) for label in recordings.y]
    else:
        steps = list(predict(model, recordings, batch_size=batch_size)[:, None])
        labels = [np.array([label]) for label in recordings.y]
    return _judge(steps, labels, recordings.lengths, model.config.classes)


def _judge(
    probabilities: list[np.ndarray], labels: list[np.ndarray], lengths: np.ndarray, classes: tuple[str, ...]
) -> ClassificationEvaluation:
    """Judge probabilities (answers, classes) of each recording by its labels (answers,); those below 0 are unknown."""
    known = [label >= 0 for label in labels]
    truth = np.concatenate([label[mask] for label, mask in zip(labels, known, strict=True)])
    chances = np.concatenate([part[mask] for part, mask in zip(probabilities, known, strict=True)])
    answer = chances.argmax(1)
    confusion = confusion_matrix(truth, answer, len(classes))
    of_recording = np.repeat(np.arange(len(labels)), [mask.sum() for mask in known])
    right = np.bincount(of_recording, weights=answer == truth, minlength=len(labels))
    likelihood = np.maximum(chances[np.arange(len(truth)), truth], np.finfo(np.float32).tiny)
    return ClassificationEvaluation(
        count=len(truth),
        loss=float(-np.log(likelihood.astype(np.float64)).mean()),
        accuracy=float((answer == truth).mean()),
        macro_f1=macro_f1(confusion),
        classes=class_scores(confusion, classes),
        confusion=tuple(tuple(int(count) for count in row) for row in confusion),
        buckets=length_buckets(lengths, right, np.bincount(of_recording, minlength=len(labels))),
    )


def _answers(model: Model, recordings: Recordings, batch_size: int) -> Iterator[tuple[np.ndarray, Batch, Tensor]]:
    """Row numbers, batch, and probabilities or targets, batch by batch; the model's mode is given back."""
    check_channels(model.config, recordings)
    if len(recordings) == 0:
        return
    batches = EvaluationBatches(recordings, batch_size)
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for number, (batch, _) in enumerate(batches):
                outputs = model(batch.x.to(device), lengths=batch.lengths.to(device)).float()
                answer = outputs if isinstance(model.config, NumberConfig) else outputs.softmax(-1)
                yield batches.rows[number * batch_size : (number + 1) * batch_size], batch, answer
    finally:
        model.train(was_training)


def _width(model: Model) -> int:
    config = model.config
    return len(config.targets) if isinstance(config, NumberConfig) else len(config.classes)
