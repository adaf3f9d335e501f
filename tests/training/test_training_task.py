import numpy as np
import pytest
import torch
from small_runs import classifier, waves

from longstate._checks import InputError
from longstate.data import from_arrays
from longstate.models import BackboneConfig, RegressorConfig, StepRegressorConfig, TaggerConfig, TargetStatistics
from longstate.training import TrainingConfig
from longstate.training.task import Classification, Regression, StepRegression, Tagging, build_task

SMALL = BackboneConfig(4, 1)
LOGITS = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 3.0]])


def cross_entropy(logits: torch.Tensor, label: int) -> float:
    return float(logits.exp().sum().log() - logits[label])


def test_classes_are_weighted() -> None:
    task = Classification(torch.tensor([1.0, 4.0, 2.0]), label_smoothing=0.0)
    score = task.score(LOGITS, torch.tensor([0, 1, 0]), torch.tensor([9, 9, 9]))
    expected = [cross_entropy(LOGITS[0], 0), 4 * cross_entropy(LOGITS[1], 1), cross_entropy(LOGITS[2], 0)]
    assert float(score.loss) == pytest.approx(sum(expected), rel=1e-6)
    assert [float(part) for part in score[1:]] == [6.0, 2.0, 3.0]


def test_smoothing_spreads_a_share_of_the_target() -> None:
    score = Classification(torch.ones(3), label_smoothing=0.3).score(LOGITS[:1], torch.tensor([0]), torch.tensor([9]))
    every = [cross_entropy(LOGITS[0], label) for label in range(3)]
    assert float(score.loss) == pytest.approx(0.7 * every[0] + 0.1 * sum(every), rel=1e-6)


def test_a_tagger_counts_valid_steps_whose_class_is_known() -> None:
    outputs = torch.stack([LOGITS, torch.full((3, 3), float("nan"))])
    outputs[1, 0] = LOGITS[1]
    outputs.requires_grad_()
    y = torch.tensor([[0, -1, 0], [1, 2, 2]])
    score = Tagging(torch.ones(3), label_smoothing=0.0).score(outputs, y, torch.tensor([3, 1]))
    expected = cross_entropy(LOGITS[0], 0) + cross_entropy(LOGITS[2], 0) + cross_entropy(LOGITS[1], 1)
    assert float(score.loss.detach()) == pytest.approx(expected, rel=1e-6)
    assert [float(part) for part in score[1:]] == [3.0, 2.0, 3.0]
    score.loss.backward()
    assert outputs.grad is not None
    assert outputs.grad.isfinite().all()


def test_errors_of_a_regressor_are_in_units_of_deviation() -> None:
    outputs, y = torch.tensor([[1.0, 10.0], [3.0, 40.0]]), torch.tensor([[2.0, 10.0], [3.0, 20.0]])
    score = Regression(torch.tensor([0.5, 10.0])).score(outputs, y, torch.tensor([9, 9]))
    assert [float(part) for part in score] == [2.0**2 + 2.0**2, 4.0, 0.0, 2.0]


def test_a_step_regressor_counts_valid_targets_that_are_known() -> None:
    outputs = torch.tensor([[[1.0, 10.0], [3.0, 40.0]], [[0.0, 0.0], [float("nan"), 0.0]]], requires_grad=True)
    y = torch.tensor([[[2.0, 10.0], [float("nan"), 20.0]], [[0.0, 30.0], [1.0, 1.0]]])
    score = StepRegression(torch.tensor([0.5, 10.0])).score(outputs, y, torch.tensor([2, 1]))
    assert [float(part.detach()) for part in score] == [2.0**2 + 2.0**2 + 3.0**2, 5.0, 0.0, 5.0]
    score.loss.backward()
    assert outputs.grad is not None
    assert outputs.grad.isfinite().all()
    assert outputs.grad[1, 1].tolist() == [0.0, 0.0]


def test_balanced_weights_are_inverse_counts() -> None:
    recordings = from_arrays([np.ones(3)] * 4, list("aaab"))
    task = build_task(classifier(recordings).config, recordings, TrainingConfig(class_weights="balanced"))
    assert isinstance(task, Classification)
    assert task.weights.tolist() == pytest.approx([4 / (2 * 3), 4 / (2 * 1)])
    other = recordings.select([0, 1])
    alone = build_task(classifier(recordings).config, other, TrainingConfig(class_weights="balanced"))
    assert isinstance(alone, Classification)
    assert alone.weights.tolist() == [0.5, 0.0]


def test_balanced_weights_of_a_tagger_count_steps() -> None:
    recordings = from_arrays([np.ones(3), np.ones(2)], [list("aab"), list("aa")], task="tagging")
    config = TaggerConfig(d_input=1, classes=("a", "b"), backbone=SMALL)
    task = build_task(config, recordings, TrainingConfig(class_weights="balanced"))
    assert isinstance(task, Tagging)
    assert task.weights.tolist() == pytest.approx([5 / (2 * 4), 5 / (2 * 1)])


def test_the_scale_of_targets_comes_from_the_training_recordings() -> None:
    recordings = from_arrays([np.ones(3)] * 2, [[1.0, 7.0], [5.0, 7.0]], task="regression", targets=("mass", "size"))
    statistics = TargetStatistics((0.0, 0.0), (99.0, 99.0))
    config = RegressorConfig(d_input=1, targets=("mass", "size"), target_statistics=statistics, backbone=SMALL)
    task = build_task(config, recordings, TrainingConfig())
    assert isinstance(task, Regression)
    assert task.scale.tolist() == [2.0, 1.0]


def test_the_scale_of_targets_of_steps_is_that_over_the_steps() -> None:
    steps = [[1.0, float("nan")], [5.0, 1.0, 5.0]]
    recordings = from_arrays([np.ones(2), np.ones(3)], steps, task="step_regression")
    config = StepRegressorConfig(d_input=1, targets=("target",), backbone=SMALL)
    task = build_task(config, recordings, TrainingConfig())
    assert isinstance(task, StepRegression)
    assert task.scale.tolist() == [2.0]
    recordings.y[1][:] = float("nan")
    with pytest.raises(InputError, match="recording 1 has no label, but one is needed here"):
        build_task(config, recordings, TrainingConfig())
    tagged = from_arrays([np.ones(2)], [list("ab")], task="tagging")
    with pytest.raises(InputError, match="labelled for tagging, but a step_regressor needs step_regression"):
        build_task(config, tagged, TrainingConfig())


def test_recordings_that_do_not_fit_the_model_are_refused() -> None:
    recordings = waves(4)
    config = classifier(recordings).config
    with pytest.raises(InputError, match="there are no recordings, but at least one is needed"):
        build_task(config, recordings.select([]), TrainingConfig())
    tagged = from_arrays([np.ones(2)], [list("ab")], task="tagging")
    with pytest.raises(InputError, match="labelled for tagging, but a classifier needs classification"):
        build_task(config, tagged, TrainingConfig())
    with pytest.raises(InputError, match="labelled a, b, but the model knows sine, square, in that order"):
        build_task(config, from_arrays([np.ones(2)] * 2, ["a", "b"]), TrainingConfig())
    with pytest.raises(InputError, match="have 2 channels, but the model takes 1"):
        build_task(config, from_arrays([np.ones((2, 2))] * 2, ["sine", "square"]), TrainingConfig())
    with pytest.raises(InputError, match="have the channels other, but the model takes channel_0"):
        build_task(config, from_arrays([np.ones(2)] * 2, ["sine", "square"], channels=["other"]), TrainingConfig())


def test_a_recording_without_a_label_is_named() -> None:
    recordings = from_arrays([np.ones(2)] * 2, ["sine", "square"], names=["one.csv", "two.csv"])
    recordings.y[1] = -1
    with pytest.raises(InputError, match=r"two\.csv has no label, but one is needed here"):
        build_task(classifier(recordings).config, recordings, TrainingConfig())
