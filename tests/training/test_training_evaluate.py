import json
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_runs import classifier, waves

from longstate._checks import InputError
from longstate.data import collate, from_arrays
from longstate.models import (
    BackboneConfig,
    RegressorConfig,
    S4DConfig,
    SequenceTagger,
    StepRegressor,
    StepRegressorConfig,
    TaggerConfig,
    build,
)
from longstate.training import ClassificationEvaluation, RegressionEvaluation, evaluate, predict, predict_steps
from longstate.training.loaders import EvaluationBatches
from longstate.training.metrics import class_scores, confusion_matrix, length_buckets, macro_f1, target_scores

SMALL = BackboneConfig(4, 1, S4DConfig(d_state=4))

# Three classes: a is found 2 of 3 times, b 1 of 2, c never occurs and is answered once.
TRUTH, ANSWER = np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 1, 2])


def test_confusion_has_the_truth_along_rows() -> None:
    assert confusion_matrix(TRUTH, ANSWER, 3).tolist() == [[2, 1, 0], [0, 1, 1], [0, 0, 0]]


def test_scores_of_classes_by_hand() -> None:
    confusion = confusion_matrix(TRUTH, ANSWER, 4)
    a, b, c, d = class_scores(confusion, ("a", "b", "c", "d"))
    assert (a.name, a.count, a.precision, a.recall, a.f1) == ("a", 3, 1.0, 2 / 3, 0.8)
    assert (b.count, b.precision, b.recall, b.f1) == (2, 0.5, 0.5, 0.5)
    assert (c.count, c.precision, c.recall, c.f1) == (0, 0.0, 0.0, 0.0)
    assert (d.count, d.f1) == (0, 0.0)
    assert macro_f1(confusion) == pytest.approx((0.8 + 0.5 + 0.0) / 3)  # d neither occurs nor was answered


def test_quartiles_of_length() -> None:
    lengths = np.array([10, 80, 20, 70, 30, 60, 40, 50])
    right = np.array([1, 0, 1, 0, 1, 1, 0, 1])
    found = length_buckets(lengths, right, np.ones(8))
    assert [(b.shortest, b.longest, b.count, b.accuracy) for b in found] == [
        (10, 20, 2, 1.0),
        (30, 40, 2, 0.5),
        (50, 60, 2, 1.0),
        (70, 80, 2, 0.0),
    ]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=30))
def test_buckets_hold_every_recording_once_and_never_divide_a_length(lengths: list[int]) -> None:
    found = length_buckets(np.array(lengths), np.zeros(len(lengths)), np.ones(len(lengths)))
    assert sum(bucket.count for bucket in found) == len(lengths)
    assert all(a.longest < b.shortest for a, b in pairwise(found))
    assert len(found) <= 4


def test_errors_of_targets_by_hand() -> None:
    truth, answer = np.array([[1.0, 5.0], [3.0, 5.0]]), np.array([[2.0, 5.0], [3.0, 8.0]])
    mass, size = target_scores(truth, answer, ("mass", "size"))
    assert (mass.mae, mass.rmse, mass.r2) == (0.5, pytest.approx(math.sqrt(0.5)), pytest.approx(1 - 1 / 2))
    assert (size.mae, size.rmse, size.r2) == (1.5, pytest.approx(math.sqrt(4.5)), None)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_a_prediction_is_that_of_the_recording_alone_and_in_order(batch_size: int) -> None:
    recordings = waves(7)
    model = classifier(recordings)
    found = predict(model, recordings, batch_size=batch_size)
    model.eval()
    alone = [model(torch.from_numpy(row)[None])[0].softmax(-1).tolist() for row in recordings.x]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, alone, atol=1e-6)


def test_the_mode_of_the_model_is_given_back() -> None:
    recordings = waves(3)
    model = classifier(recordings).train()
    first = predict(model, recordings)
    assert model.training
    np.testing.assert_array_equal(first, predict(model, recordings))
    predict(model.eval(), recordings)
    assert not model.training


def test_predictions_need_no_labels_and_may_be_of_nothing() -> None:
    recordings = waves(3)
    model = classifier(recordings)
    np.testing.assert_array_equal(predict(model, recordings), predict(model, recordings.without_labels()))
    assert predict(model, recordings.select([])).shape == (0, 2)


def test_a_classifier_is_judged_by_its_probabilities() -> None:
    recordings = waves(9)
    model = classifier(recordings)
    chances = predict(model, recordings).astype(np.float64)
    found = evaluate(model, recordings, batch_size=4)
    assert isinstance(found, ClassificationEvaluation)
    assert found.count == 9
    assert found.loss == pytest.approx(-np.log(chances[np.arange(9), recordings.y]).mean(), rel=1e-6)
    assert found.accuracy == pytest.approx((chances.argmax(1) == recordings.y).mean())
    assert np.sum(found.confusion, axis=1).tolist() == [4, 5]
    assert sum(bucket.count * bucket.accuracy for bucket in found.buckets) == pytest.approx(9 * found.accuracy)
    assert json.loads(json.dumps(found.to_dict()))["buckets"][0]["shortest"] == recordings.lengths.min()


def test_a_tagger_is_judged_by_its_known_steps() -> None:
    random = np.random.default_rng(0)
    rows = [random.normal(size=length) for length in (5, 9, 7)]
    recordings = from_arrays(rows, [random.choice(list("ab"), len(row)) for row in rows], task="tagging")
    recordings.y[1][:4] = -1
    model = build(TaggerConfig(d_input=1, classes=("a", "b"), backbone=SMALL))
    assert isinstance(model, SequenceTagger)
    steps = predict_steps(model, recordings, batch_size=2)
    assert [part.shape for part in steps] == [(5, 2), (9, 2), (7, 2)]
    found = evaluate(model, recordings)
    assert isinstance(found, ClassificationEvaluation)
    right = [(part.argmax(1) == label)[label >= 0] for part, label in zip(steps, recordings.y, strict=True)]
    assert found.count == 5 + 5 + 7
    assert found.accuracy == pytest.approx(np.concatenate(right).mean())
    assert [bucket.accuracy for bucket in found.buckets] == pytest.approx([right[n].mean() for n in (0, 2, 1)])
    with pytest.raises(InputError, match="the model is a tagger, which answers every step; use `predict_steps`"):
        predict(model, recordings)


def test_a_regressor_is_judged_by_its_errors() -> None:
    recordings = from_arrays([np.ones(4), np.zeros(6)], [[1.0], [5.0]], task="regression")
    model = build(RegressorConfig(d_input=1, targets=("target",), backbone=SMALL))
    error = predict(model, recordings) - recordings.y
    found = evaluate(model, recordings)
    assert isinstance(found, RegressionEvaluation)
    assert found.count == 2
    assert found.targets[0].mae == pytest.approx(np.abs(error).mean())
    assert found.loss == pytest.approx(((error / 2.0) ** 2).mean())
    assert json.loads(json.dumps(found.to_dict()))["targets"][0]["name"] == "target"


def test_a_step_regressor_is_judged_by_its_known_steps() -> None:
    steps = [np.array([1.0, 2.0, np.nan]), np.array([4.0, 0.0])]
    recordings = from_arrays([np.arange(3.0), np.arange(2.0)], steps, task="step_regression")
    model = build(StepRegressorConfig(d_input=1, targets=("target",), backbone=SMALL))
    assert isinstance(model, StepRegressor)
    answers = predict_steps(model, recordings, batch_size=1)
    assert [part.shape for part in answers] == [(3, 1), (2, 1)]
    error = np.array([*(answers[0][:2, 0] - [1, 2]), *(answers[1][:, 0] - [4, 0])], dtype=np.float64)
    found = evaluate(model, recordings)
    assert isinstance(found, RegressionEvaluation)
    assert found.count == 4
    assert found.targets[0].rmse == pytest.approx(np.sqrt((error**2).mean()))
    assert found.targets[0].mae == pytest.approx(np.abs(error).mean())
    assert found.loss == pytest.approx((error**2).mean() / np.var([1, 2, 4, 0]))
    assert found.targets[0].r2 == pytest.approx(1 - found.loss)
    with pytest.raises(InputError, match="the model is a step regressor, which answers every step; use `predict_"):
        predict(model, recordings)


@given(count=st.integers(1, 12), processes=st.integers(1, 4), batch_size=st.integers(1, 5))
def test_processes_share_every_recording_once_in_equally_many_batches(
    count: int, processes: int, batch_size: int
) -> None:
    recordings = from_arrays([np.full(1 + number % 3, number) for number in range(count)], ["a"] * count)
    shares = [EvaluationBatches(recordings, batch_size, rank=r, world_size=processes) for r in range(processes)]
    assert len({len(list(share)) for share in shares}) == 1
    assert all(len(list(share)) == len(share) for share in shares)
    seen = [int(value) for share in shares for batch, own in share for value in batch.x[:own, 0, 0]]
    assert sorted(seen) == list(range(count))


def test_batches_hold_recordings_of_like_length() -> None:
    recordings = waves(8)
    padded = sum(batch.x.shape[0] * batch.x.shape[1] for batch, _ in EvaluationBatches(recordings, 2))
    in_order = sum(2 * collate(recordings, [row, row + 1]).x.shape[1] for row in range(0, 8, 2))
    assert padded < in_order
