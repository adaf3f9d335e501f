"""What a model is trained to do: the loss of a batch and what is counted beside it."""

import abc
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from longstate._checks import InputError, valid_steps
from longstate.data import Recordings, target_statistics
from longstate.data import Task as DataTask
from longstate.models import ModelConfig, NumberConfig, RegressorConfig, StepRegressorConfig, TaggerConfig
from longstate.training.config import TrainingConfig

WANTED: dict[type, DataTask] = {
    TaggerConfig: "tagging",
    RegressorConfig: "regression",
    StepRegressorConfig: "step_regression",
}
"""The labels that a model needs; all others need classes of whole recordings."""


class Score(NamedTuple):
    """Sums over a batch, each a scalar tensor: the loss is `loss / weight`, the accuracy `correct / answers`."""

    loss: Tensor
    weight: Tensor
    correct: Tensor
    answers: Tensor


class Task(abc.ABC):
    """The objective of a model over batches."""

    has_classes: bool

    @abc.abstractmethod
    def score(self, outputs: Tensor, y: Tensor, lengths: Tensor) -> Score:
        """The sums of one batch, from the model's outputs, the labels and the valid lengths (batch,)."""


class Classification(Task):
    """Cross-entropy of one class a recording.

        loss = sum_i w[y_i] CE(outputs_i, y_i) / sum_i w[y_i]

    Args:
        weights: Weight of each class (classes,).
        label_smoothing: Share of the target spread over all classes.

    Example:
        >>> import torch
        >>> task = Classification(torch.ones(2), label_smoothing=0.0)
        >>> score = task.score(torch.tensor([[2.0, 0.0]]), torch.tensor([0]), torch.tensor([9]))
        >>> round(float(score.loss), 4), int(score.correct), int(score.answers)
        (0.1269, 1, 1)
    """

    has_classes = True

    def __init__(self, weights: Tensor, *, label_smoothing: float) -> None:
        self.weights = weights
        self.label_smoothing = label_smoothing

    def score(self, outputs: Tensor, y: Tensor, lengths: Tensor) -> Score:
        """`outputs` (batch, classes), `y` (batch,); a class of -1 is unknown and does not count."""
        known = y >= 0
        outputs, y = outputs[known].float(), y[known]
        weights = self.weights.to(outputs.device)
        loss = nn.functional.cross_entropy(
            outputs, y, weight=weights, label_smoothing=self.label_smoothing, reduction="sum"
        )
        correct = (outputs.argmax(-1) == y).sum()
        return Score(loss, weights[y].sum(), correct, torch.full_like(correct, len(y)))


class Tagging(Classification):
    """Cross-entropy of one class a step, over the valid steps whose class is known."""

    def score(self, outputs: Tensor, y: Tensor, lengths: Tensor) -> Score:
        """`outputs` (batch, length, classes), `y` (batch, length)."""
        valid = valid_steps(lengths, outputs.shape[1])
        return super().score(outputs[valid], y[valid], lengths)


class Regression(Task):
    """Squared error in units of each target's deviation in the training recordings.

    loss = mean_ij ((outputs_ij - y_ij) / scale_j)^2
    """

    has_classes = False

    def __init__(self, scale: Tensor) -> None:
        self.scale = scale

    def score(self, outputs: Tensor, y: Tensor, lengths: Tensor) -> Score:
        """`outputs` and `y` (batch, targets), both in the targets' own units."""
        error = (outputs.float() - y) / self.scale.to(outputs.device)
        loss = error.square().sum()
        count = torch.full_like(loss, len(y), dtype=torch.int64)
        return Score(loss, loss.new_full((), error.numel()), torch.zeros_like(count), count)


class StepRegression(Regression):
    """The same over the valid steps, for every target that is known there (not NaN)."""

    def score(self, outputs: Tensor, y: Tensor, lengths: Tensor) -> Score:
        """`outputs` and `y` (batch, length, targets), both in the targets' own units."""
        known = valid_steps(lengths, outputs.shape[1])[..., None] & ~y.isnan()
        scale = self.scale.to(outputs.device).expand_as(y)
        loss = ((outputs[known].float() - y[known]) / scale[known]).square().sum()
        count = known.sum()
        return Score(loss, count.to(loss.dtype), torch.zeros_like(count), count)


def build_task(model: ModelConfig, train: Recordings, config: TrainingConfig) -> Task:
    """The task of a model, with what it takes from the training recordings.

    Raises:
        InputError: If the recordings have other labels than the model has outputs.
    """
    check_labels(model, train)
    if isinstance(model, NumberConfig):
        scale = torch.from_numpy(target_scale(train))
        return Regression(scale) if isinstance(model, RegressorConfig) else StepRegression(scale)
    weights = torch.ones(len(model.classes))
    if config.class_weights == "balanced":
        weights = torch.from_numpy(balanced_weights(train, len(model.classes)))
    task = Tagging if isinstance(model, TaggerConfig) else Classification
    return task(weights, label_smoothing=config.label_smoothing)


def check_labels(model: ModelConfig, recordings: Recordings) -> None:
    """Raise unless the recordings are labelled, by the model's own classes or targets."""
    is_regressor = isinstance(model, NumberConfig)
    wanted = WANTED.get(type(model), "classification")
    if len(recordings) == 0:
        raise InputError("there are no recordings, but at least one is needed; look at the split.")
    if recordings.task != wanted:
        raise InputError(
            f"the recordings are labelled for {recordings.task}, but a {model.kind} needs {wanted}; "
            "choose another kind of model, or read the labels for it."
        )
    ours = model.targets if isinstance(model, NumberConfig) else model.classes
    theirs = recordings.targets if is_regressor else recordings.classes
    if ours != theirs:
        raise InputError(
            f"the recordings are labelled {', '.join(theirs)}, but the model knows {', '.join(ours)}, in that order; "
            "use `recordings.with_classes(model.config.classes)`, or train a model with those."
        )
    check_channels(model, recordings)
    for name, label in zip(recordings.names, recordings.y, strict=True):
        known = np.isfinite(label) if is_regressor else np.asarray(label) >= 0
        if not (known.all() if wanted == "regression" else known.any()):
            raise InputError(f"{name} has no label, but one is needed here; label it, or leave it out.")


def check_channels(model: ModelConfig, recordings: Recordings) -> None:
    """Raise unless the recordings have the channels that the model takes."""
    if len(recordings.channels) != model.d_input:
        raise InputError(
            f"the recordings have {len(recordings.channels)} channels, but the model takes {model.d_input}; "
            "choose the same channels."
        )
    if model.channels is not None and recordings.channels != model.channels:
        raise InputError(
            f"the recordings have the channels {', '.join(recordings.channels)}, but the model takes "
            f"{', '.join(model.channels)}, in that order; choose the same channels."
        )


def target_scale(recordings: Recordings) -> np.ndarray:
    """Standard deviation of each target (targets,) float32; 1 where it is constant."""
    return np.array(target_statistics(recordings).scale, dtype=np.float32)


def balanced_weights(recordings: Recordings, classes: int) -> np.ndarray:
    """Weight n / (classes * count) of each class (classes,) float32, 0 for a class that never occurs."""
    labels = np.concatenate([np.atleast_1d(label) for label in recordings.y])
    counts = np.bincount(labels[labels >= 0], minlength=classes)
    weights = counts.sum() / (classes * np.maximum(counts, 1))
    return np.where(counts > 0, weights, 0.0).astype(np.float32)
