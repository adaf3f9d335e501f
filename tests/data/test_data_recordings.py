"""The set of recordings: its invariants, selection and relabelling; and the statistics of its channels."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longstate._checks import InputError
from longstate.data import Recordings, from_arrays, statistics, target_statistics

ROWS = [np.full((length, 2), length, dtype=np.float32) for length in (2, 4, 3)]


def example(**changes):
    options = {"groups": ["p", "q", "p"], "splits": ["train", None, "test"], "names": ["u", "v", "w"], **changes}
    return from_arrays(ROWS, ["b", "a", "b"], **options)


def test_the_arrays_are_kept():
    recordings = example(channels=["ax", "ay"], sampling_rate=50)
    assert isinstance(recordings, Recordings)
    assert len(recordings) == 3
    assert recordings.lengths.tolist() == [2, 4, 3]
    assert recordings.y.tolist() == [1, 0, 1]
    assert repr(recordings) == "Recordings(3 recordings, 2 to 4 steps, 2 channels, 2 classes)"
    with pytest.raises(dataclasses.FrozenInstanceError):
        recordings.y = None


def test_select_takes_every_column_along():
    part = example().select(np.array([2, 0]))
    assert part.lengths.tolist() == [3, 2]
    assert part.y.tolist() == [1, 1]
    assert (part.groups, part.splits, part.names) == (("p", "p"), ("test", "train"), ("w", "u"))
    assert part.classes == ("a", "b"), "a class that is gone keeps its number"
    assert len(example().select([])) == 0
    tagged = from_arrays(ROWS, [np.arange(len(row)) for row in ROWS], task="tagging")
    assert [y.tolist() for y in tagged.select([2]).y] == [[0, 1, 2]]


def test_classes_of_a_model():
    recordings = example().with_classes(["c", "b", "a"])
    assert recordings.classes == ("c", "b", "a")
    assert recordings.y.tolist() == [1, 2, 1]
    with pytest.raises(InputError) as caught:
        example().with_classes(["b", "c"])
    assert str(caught.value) == (
        "recordings are labelled a, but only b, c are known here; leave those recordings out, or train with them."
    )
    tagged = from_arrays(ROWS[:1], [["x", "y"]], task="tagging").with_classes(["y", "x"])
    assert tagged.y[0].tolist() == [1, 0]
    assert example().select([0]).with_classes(["b"]).y.tolist() == [0], "only classes that occur have to be known"
    unlabelled = from_arrays(ROWS).with_classes(["a", "b"])
    assert unlabelled.y.tolist() == [-1, -1, -1]
    with pytest.raises(InputError, match="the labels are numbers, but classes are needed"):
        from_arrays(ROWS, [1.0, 2.0, 3.0], task="regression").with_classes(["a"])


def test_tasks():
    assert example().task == "classification"
    assert from_arrays(ROWS).task == "prediction"
    assert example().without_labels().task == "prediction"
    regression = from_arrays(ROWS, np.ones((3, 2)), task="regression", targets=["u", "v"])
    assert (regression.task, regression.y.shape, regression.targets) == ("regression", (3, 2), ("u", "v"))
    assert repr(regression).endswith("2 targets)")
    steps = from_arrays(ROWS, [np.full((len(row), 2), 0.5) for row in ROWS], task="step_regression", targets=["u", "v"])
    assert (steps.task, steps.y[0].dtype, steps.targets) == ("step_regression", np.float32, ("u", "v"))
    assert steps.select([2]).y[0].shape == (len(ROWS[2]), 2)
    assert [r.has_numbers for r in (example(), regression, steps)] == [False, True, True]
    with pytest.raises(InputError, match="the labels are numbers, but classes are needed"):
        steps.with_classes(["a"])


def test_targets_of_steps_that_do_not_fit():
    with pytest.raises(InputError, match=r"recording 0 has targets of shape \(2, 3\), but \(length, 1\) is needed for"):
        from_arrays([np.zeros(2)], [np.zeros((2, 3))], task="step_regression")
    with pytest.raises(InputError, match="recording 0 has 3 labels for 2 steps, but one a step is needed"):
        from_arrays([np.zeros(2)], [np.zeros(3)], task="step_regression")
    with pytest.raises(InputError, match=r"recording 0 has the target \[inf\] at step 1, but regression needs finite"):
        from_arrays([np.zeros(2)], [[0.0, np.inf]], task="step_regression")


@pytest.mark.parametrize(
    ("x", "options", "sentence"),
    [
        ([], {}, "there are no recordings, but one at least is needed; check the source"),
        ([np.zeros((0, 2))], {}, "recording 0 has no rows, but at least one step of one channel is needed"),
        ([np.zeros(2), [0.0, np.nan]], {}, r"recording 1, row 1 \(counted from 0\), channel 0 holds nan"),
        ([np.zeros((2, 3)), np.zeros((2, 1))], {}, r"recording 1 is float32 of shape \(2, 1\), but .*\(length, 3\) is"),
        ([np.zeros((2, 3))], {"channels": ["a"]}, r"recording 0 .* shape \(2, 3\), but .*\(length, 1\) is needed for"),
        ([np.zeros(2)], {"labels": ["a", "b"]}, "`labels` has 2 entries for 1 recordings, but one each is needed"),
        ([np.zeros(2)], {"names": []}, "`names` has 0 entries for 1 recordings, but one each is needed"),
        ([np.zeros(2)], {"groups": ["a", "b"]}, "`groups` has 2 entries for 1 recordings, but one each is needed"),
        ([np.zeros(2)], {"splits": ["dev"]}, "`split of recording 0` is 'dev', but one of train, validation, test"),
        ([np.zeros(2)], {"labels": [" "]}, "recording 0 has an empty label, but a class name is needed"),
        ([np.zeros(2)], {"labels": [["a"]], "task": "tagging"}, "recording 0 has 1 labels for 2 steps, but one a step"),
        ([np.zeros(2)], {"labels": [np.inf], "task": "regression"}, r"recording 0 has the target \[inf\], but"),
        ([np.zeros(2)], {"task": "guessing"}, "`task` is 'guessing', but one of classification, tagging, regression"),
    ],
)
def test_refused(x, options, sentence):
    with pytest.raises(InputError, match=sentence):
        from_arrays(x, **options)


class TestStatistics:
    @given(st.lists(st.integers(1, 30), min_size=1, max_size=5), st.integers(0, 1000))
    def test_equal_to_numpy_over_all_steps(self, lengths, seed):
        random = np.random.default_rng(seed)
        rows = [random.normal([5.0, -3.0], [2.0, 0.1], size=(length, 2)).astype(np.float32) for length in lengths]
        steps = np.concatenate(rows).astype(np.float64)
        recordings = from_arrays(rows)
        several = len(steps) > 1
        shift, scale = statistics(recordings)
        np.testing.assert_allclose(shift, steps.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(scale, steps.std(axis=0) if several else [1, 1], rtol=1e-12)
        shift, scale = statistics(recordings, "minmax")
        np.testing.assert_array_equal(shift, steps.min(axis=0))
        np.testing.assert_array_equal(scale, np.ptp(steps, axis=0) if several else [1, 1])
        assert statistics(recordings, "none") == ((0.0, 0.0), (1.0, 1.0))

    def test_a_large_offset_costs_no_digits(self):
        steps = 1e6 + np.arange(16, dtype=np.float32)[:, None]
        np.testing.assert_allclose(statistics(from_arrays([steps])).scale, steps.astype(np.float64).std(), rtol=1e-12)

    @pytest.mark.parametrize("kind", ["zscore", "minmax"])
    @pytest.mark.parametrize("value", [0.0, 0.1, -1e30])
    def test_a_constant_channel_has_scale_one(self, kind, value):
        recordings = from_arrays([np.full((7, 1), value), np.full((4, 1), value)])
        shift, scale = statistics(recordings, kind)
        assert scale == (1.0,)
        assert shift == pytest.approx((value,), rel=1e-6)

    def test_a_channel_too_small_for_float32_has_scale_one(self):
        assert statistics(from_arrays([np.array([0.0, 1e-40])])).scale == (1.0,)

    def test_only_the_rows_given_count(self):
        recordings = from_arrays([np.array([0.0, 2.0]), np.array([100.0, 900.0])])
        assert statistics(recordings.select([0])) == ((1.0,), (1.0,))
        assert all(type(value) is float for value in statistics(recordings).shift)

    def test_targets_of_recordings_and_of_steps(self):
        source = from_arrays([np.zeros(2)] * 2, [[1.0, 7.0], [5.0, 7.0]], task="regression", targets=["u", "v"])
        assert target_statistics(source) == ((3.0, 7.0), (2.0, 1.0))
        steps = [np.array([1.0, np.nan]), np.array([3.0, 8.0, np.nan])]
        source = from_arrays([np.zeros(2), np.zeros(3)], steps, task="step_regression")
        assert np.allclose(target_statistics(source), ([4.0], [np.std([1, 3, 8])]), rtol=1e-12)
        with pytest.raises(InputError, match="the labels are for classification, but numbers are needed"):
            target_statistics(example())

    def test_refused(self):
        with pytest.raises(InputError, match="there are no recordings, but statistics need one at least"):
            statistics(example().select([]))
        with pytest.raises(InputError, match="`kind` is 'robust', but one of zscore, minmax, none is needed"):
            statistics(example(), "robust")
