"""Dividing recordings: groups stay together, classes stay in training, and the source is obeyed."""

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from longstate._checks import InputError
from longstate.data import from_arrays, leave_one_group_out, split


def recordings(labels, groups=None, splits=None, **options):
    return from_arrays([np.zeros(2)] * len(labels), list(labels), groups=groups, splits=splits, **options)


def parts_of(source, **options):
    parts = split(source, **options)
    rows = np.concatenate(parts)
    assert sorted(rows.tolist()) == list(range(len(source))), "every recording is in one part"
    assert all(np.all(np.diff(part) > 0) and part.dtype == np.int64 for part in parts)
    return parts


def assert_groups_apart(parts, groups):
    sides = [{groups[row] for row in part} for part in parts]
    assert sum(map(len, sides)) == len(set().union(*sides))


GROUPED = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("pqrstuvw")), min_size=2, max_size=60)
SHARE = st.floats(0.05, 0.4)


class TestGroups:
    @settings(max_examples=100)
    @given(GROUPED, SHARE, SHARE, st.integers(0, 5))
    def test_laws(self, rows, validation, test, seed):
        labels, groups = zip(*rows, strict=True)
        source = recordings(labels, groups)
        try:
            parts = parts_of(source, validation=validation, test=test, seed=seed)
        except InputError:
            reject()  # too few groups or classes; hypothesis complains if that is the rule
        assert_groups_apart(parts, groups)
        assert {labels[row] for row in parts.train} == set(labels)
        assert len(parts.validation) > 0
        assert len(parts.test) > 0

    def test_near_to_the_shares_of_all_and_of_each_class(self):
        labels, groups = zip(*[(c, str(g)) for g in range(40) for c in "abcdef"], strict=True)
        parts = parts_of(recordings(labels, groups), validation=0.25, test=0.1)
        assert (len(parts.validation), len(parts.test)) == (60, 24)

    def test_groups_of_one_class_each(self):
        labels, groups = zip(*[("abcd"[g % 4], str(g)) for g in range(20) for _ in range(3)], strict=True)
        parts = parts_of(recordings(labels, groups), validation=0.2)
        assert sorted(labels[row] for row in parts.validation) == sorted("abcd" * 3)

    def test_a_group_with_the_only_recordings_of_a_class_trains(self):
        source = recordings("aab" + "aa" * 4, ["x"] * 3 + list("ppqqrrss"))
        for seed in range(20):
            assert {0, 1, 2} <= set(parts_of(source, validation=0.3, seed=seed).train.tolist())

    def test_seeds(self):
        labels, groups = zip(*[(c, str(g)) for g in range(10) for c in "ab"], strict=True)
        source = recordings(labels, groups)
        chosen = {tuple(split(source, seed=seed).validation.tolist()) for seed in range(20)}
        assert len(chosen) > 10
        assert split(source, seed=3).validation.tolist() == split(source, seed=3).validation.tolist()

    def test_two_large_groups_are_still_divided(self):
        parts = parts_of(recordings("abab", list("ppqq")), validation=0.1)
        assert len(parts.validation) == 2

    def test_impossible(self):
        with pytest.raises(InputError) as caught:
            split(recordings("aabb", list("ppqq")))
        assert str(caught.value) == (
            "no part for validation can be taken from 2 groups or recordings without taking a whole class from "
            "training; add recordings of the rare classes, or set `validation=0`."
        )

    def test_no_groups(self):
        with pytest.raises(InputError) as caught:
            split(recordings("abab"), by="group")
        assert str(caught.value) == (
            "a split by group was asked for, but the recordings have no groups; add a column `group` to the manifest, "
            "or split by 'stratified'."
        )


class TestStratified:
    @given(st.lists(st.integers(2, 30), min_size=2, max_size=5), SHARE, st.integers(0, 5))
    def test_near_to_the_share_of_each_class(self, sizes, share, seed):
        labels = [str(c) for c, size in enumerate(sizes) for _ in range(size)]
        parts = parts_of(recordings(labels), validation=share, seed=seed)
        assert abs(len(parts.validation) - share * len(labels)) <= 1
        for c, size in enumerate(sizes):
            taken = sum(labels[row] == str(c) for row in parts.validation)
            assert abs(taken - share * size) <= 1
            assert taken < size

    def test_small_classes_fill_the_part_together(self):
        labels = [str(c) for c in range(20) for _ in range(2)]
        parts = parts_of(recordings(labels), validation=0.2)
        assert len(parts.validation) == 8
        assert len({labels[row] for row in parts.train}) == 20

    def test_groups_are_ignored_when_asked(self):
        source = recordings("ab" * 10, ["p"] * 20)
        assert len(parts_of(source, by="stratified").validation) == 4
        with pytest.raises(InputError, match="can be taken from 1 groups or recordings without taking a whole class"):
            split(source)

    def test_targets_and_tags(self):
        source = from_arrays([np.zeros(2)] * 10, np.arange(10.0), task="regression")
        assert [len(part) for part in parts_of(source, validation=0.2, test=0.3)] == [5, 2, 3]
        source = from_arrays([np.zeros(2)] * 10, np.ones((10, 2)), task="step_regression")
        assert [len(part) for part in parts_of(source, validation=0.2, test=0.3)] == [5, 2, 3]
        source = from_arrays([np.zeros(2)] * 10, [["a", "b"]] * 9 + [["a", "c"]], task="tagging")
        for seed in range(10):
            parts = parts_of(source, validation=0.2, seed=seed)
            assert len(parts.validation) == 2
            assert 9 in parts.train, "the only recording with the class c"

    def test_no_validation(self):
        parts = parts_of(recordings("abab"), validation=0.0)
        assert [len(part) for part in parts] == [4, 0, 0]


class TestManifest:
    def test_all_parts_named(self):
        source = recordings("abab" * 2, splits=["train"] * 4 + ["validation"] * 2 + ["test", None])
        for by in ("manifest", "auto", "stratified"):
            parts = parts_of(source, by=by, test=0.3)
            assert [part.tolist() for part in parts] == [[0, 1, 2, 3, 7], [4, 5], [6]]

    def test_validation_is_cut_from_training_only(self):
        source = recordings("ab" * 10, [str(row // 4) for row in range(20)], ["train"] * 12 + ["test"] * 8)
        parts = parts_of(source, validation=0.3)
        assert parts.test.tolist() == list(range(12, 20))
        assert len(parts.validation) == 4
        assert len({row // 4 for row in parts.validation}) == 1

    def test_a_group_on_two_sides(self):
        source = recordings("abab", list("pqpq"), ["train", "train", "test", "train"], names=list("uvwx"))
        with pytest.raises(InputError) as caught:
            split(source)
        assert str(caught.value) == (
            "the group p has u in train and w in test, but a group may be on one side only; correct the splits, or "
            "split by 'stratified'."
        )
        assert split(source, by="stratified", validation=0).test.tolist() == [2]

    def test_no_splits(self):
        with pytest.raises(InputError) as caught:
            split(recordings("abab"), by="manifest")
        assert str(caught.value) == (
            "a split by manifest was asked for, but no recording has a split; add a column `split` with train, "
            "validation, test, or split by 'group' or 'stratified'."
        )

    @pytest.mark.parametrize("part", ["test", "validation"])
    def test_a_class_that_is_not_trained(self, part):
        with pytest.raises(InputError) as caught:
            split(recordings("ababc", splits=["train"] * 4 + [part]), validation=0.25)
        assert str(caught.value) == (
            f"the class 'c' is in the {part} part only, but a class has to be trained before it can be recognised; "
            "move a recording of it to training, or leave the class out."
        )

    def test_nothing_to_train(self):
        with pytest.raises(InputError) as caught:
            split(recordings("abab", splits=["test"] * 4), validation=0)
        assert str(caught.value) == (
            "all 4 recordings are for validation or test, but some are needed for training; correct the column `split`."
        )


class TestLeaveOneGroupOut:
    def test_each_group_once(self):
        groups = [str(row // 4) for row in range(44)]
        source = recordings("abab" * 11, groups, ["train"] * 44)
        splits = list(leave_one_group_out(source, validation=0.2))
        assert [groups[parts.test[0]] for parts in splits] == [str(group) for group in range(11)]
        for parts in splits:
            assert sorted(np.concatenate(parts).tolist()) == list(range(44))
            assert_groups_apart(parts, groups)
            assert len({groups[row] for row in parts.test}) == 1
            assert len(parts.validation) == 8
        assert all(len(parts.validation) == 0 for parts in leave_one_group_out(source))

    def test_refused(self):
        with pytest.raises(InputError, match="all 4 recordings belong to the group p, but two groups at least are"):
            leave_one_group_out(recordings("abab", ["p"] * 4))
        with pytest.raises(InputError, match="the recordings have no groups; add a column `group`"):
            leave_one_group_out(recordings("abab"))
        with pytest.raises(InputError, match="the class 'c' is in the test part only"):
            list(leave_one_group_out(recordings("ababc", list("ppqqq"))))


class TestAnySplit:
    def test_one_recording(self):
        with pytest.raises(InputError) as caught:
            split(recordings("a"))
        assert str(caught.value) == (
            "there is 1 recording, but training and validation need one each at least; add recordings, or cut a long "
            "one into parts."
        )

    def test_one_class(self):
        with pytest.raises(InputError) as caught:
            split(recordings("aaa"))
        assert str(caught.value) == (
            "all 3 recordings are of the class 'a', but two classes at least are needed; add recordings of another "
            "class."
        )

    def test_no_labels(self):
        with pytest.raises(InputError) as caught:
            split(recordings("aaa").without_labels())
        assert str(caught.value) == (
            "none of the 3 recordings has a label, but training needs labels; write a manifest with the columns path "
            "and label."
        )

    @pytest.mark.parametrize("shares", [(0.5, 0.5), (-0.1, 0), (0, 1.0), (float("nan"), 0)])
    def test_shares(self, shares):
        with pytest.raises(InputError, match=r"`validation` is .* and `test` is .*choose them so that"):
            split(recordings("abab"), validation=shares[0], test=shares[1])

    def test_seed_and_choice(self):
        with pytest.raises(InputError, match="`seed` is -1, but a whole number from 0 is needed"):
            split(recordings("abab"), seed=-1)
        with pytest.raises(InputError, match="`by` is 'random', but one of auto, group, stratified, manifest"):
            split(recordings("abab"), by="random")
