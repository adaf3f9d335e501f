"""The loader: what an epoch holds, resuming anywhere, several processes, crops; and collation."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longstate._checks import InputError
from longstate.data import Batch, Loader, collate, from_arrays


def recordings(count, *, task="classification"):
    """Recording r has r % 5 + 1 steps; its values say which recording and which step they are."""
    rows = [np.stack([np.full(row % 5 + 1, row), np.arange(row % 5 + 1)], axis=1) for row in range(count)]
    labels = {
        "classification": [str(row % 2) for row in range(count)],
        "regression": [row / 2 for row in range(count)],
        "tagging": [[str((row + step) % 3) for step in range(len(x))] for row, x in enumerate(rows)],
    }
    return from_arrays(rows, labels[task], task=task)


def ids(batch):
    return batch.x[:, 0, 0].int().tolist()


def same(first, second):
    """Whether two lists of batches are equal to the bit."""
    return len(first) == len(second) and all(
        all(torch.equal(a, b) for a, b in zip(one, two, strict=True)) for one, two in zip(first, second, strict=True)
    )


def epochs(loader, count):
    return [batch for _ in range(count) for batch in loader]


class TestCollate:
    def test_padding_and_types(self):
        batch = collate(recordings(5), [4, 0])
        assert isinstance(batch, Batch)
        assert (batch.x.shape, batch.x.dtype) == ((2, 5, 2), torch.float32)
        assert batch.x[0, :, 1].tolist() == [0, 1, 2, 3, 4]
        assert batch.x[1, 1:].abs().sum() == 0
        assert (batch.lengths.tolist(), batch.lengths.dtype) == ([5, 1], torch.int64)
        assert (batch.y.tolist(), batch.y.dtype) == ([0, 0], torch.int64)

    def test_tags_and_targets(self):
        batch = collate(recordings(5, task="tagging"), [1, 2])
        assert (batch.y.tolist(), batch.y.dtype) == ([[1, 2, -1], [2, 0, 1]], torch.int64)
        batch = collate(recordings(5, task="regression"), [3, 1])
        assert (batch.y.tolist(), batch.y.dtype) == ([[1.5], [0.5]], torch.float32)
        source = from_arrays([np.zeros(1), np.zeros(2)], [[4.0], [5.0, np.nan]], task="step_regression")
        batch = collate(source, [0, 1])
        assert (batch.y.shape, batch.y.dtype) == ((2, 2, 1), torch.float32)
        assert batch.y.nan_to_num(-1)[..., 0].tolist() == [[4, -1], [5, -1]]

    def test_windows(self):
        batch = collate(recordings(5, task="tagging"), [4, 3], starts=[2, 3], crop=2)
        assert batch.x[..., 1].tolist() == [[2, 3], [3, 0]]
        assert batch.lengths.tolist() == [2, 1]
        assert batch.y.tolist() == [[0, 1], [0, -1]]

    def test_the_recordings_are_not_shared_and_may_be_read_only(self):
        row = np.ones((2, 1), np.float32)
        row.setflags(write=False)
        batch = collate(from_arrays([row], ["a"]), [0])
        batch.x.zero_()
        assert row.sum() == 2

    def test_no_rows(self):
        with pytest.raises(InputError, match="a batch of no rows was asked for, but one row at least is needed"):
            collate(recordings(2), [])


SIZES = {"count": st.integers(1, 12), "batch_size": st.integers(1, 5), "seed": st.integers(0, 3)}


class TestEpochs:
    @given(**SIZES, shuffle=st.booleans())
    def test_every_recording_once(self, count, batch_size, seed, shuffle):
        loader = Loader(recordings(count), batch_size, seed=seed, shuffle=shuffle)
        for _ in range(3):
            batches = list(loader)
            assert len(batches) == len(loader)
            rows = [row for batch in batches for row in ids(batch)]
            assert sorted(rows) == list(range(count))
            assert shuffle or rows == list(range(count))
            assert all(len(batch.y) == batch_size for batch in batches[:-1])

    def test_orders_differ_between_epochs_and_seeds(self):
        loader = Loader(recordings(12), 12)
        orders = [ids(batch) for batch in epochs(loader, 3)] + [
            ids(batch) for batch in Loader(recordings(12), 12, seed=1)
        ]
        assert len({tuple(order) for order in orders}) == 4

    def test_drop_last(self):
        loader = Loader(recordings(11), 4, drop_last=True)
        assert [len(batch.y) for batch in loader] == [4, 4]
        assert len(loader) == 2

    def test_an_abandoned_pass_is_not_continued(self):
        """A look at the first batch (or Lightning's check before training) takes nothing from a later pass."""
        loader = Loader(recordings(5), 2, shuffle=False)
        assert ids(next(iter(loader))) == [0, 1]
        assert [row for batch in loader for row in ids(batch)] == [0, 1, 2, 3, 4]
        assert loader.state_dict() == {"epoch": 1, "index": 3}

    def test_two_passes_at_once_do_not_disturb_each_other(self):
        loader = Loader(recordings(6), 2, seed=5)
        first = iter(loader)
        start = [next(first)]
        other = list(loader)
        expected = epochs(Loader(recordings(6), 2, seed=5), 2)
        assert same(start + list(first), expected[:3])
        assert same(other, expected[3:])


class TestResume:
    @settings(max_examples=60)
    @given(
        **SIZES,
        cut=st.integers(0, 40),
        crop=st.sampled_from([None, 2]),
        shuffle=st.booleans(),
        world_size=st.integers(1, 3),
        task=st.sampled_from(["classification", "tagging"]),
    )
    def test_anywhere(self, count, batch_size, seed, cut, crop, shuffle, world_size, task):
        """A run stopped after `cut` batches, its iterator left hanging, goes on exactly as if it had not stopped."""

        def build():
            source = recordings(count, task=task)
            rank = world_size - 1
            options = {"seed": seed, "crop": crop, "shuffle": shuffle, "rank": rank, "world_size": world_size}
            return Loader(source, batch_size, **options)

        whole = epochs(build(), 5)
        cut = min(cut, len(whole))
        stopped = build()
        passes = itertools.chain.from_iterable(itertools.repeat(stopped))
        before = list(itertools.islice(passes, cut))
        resumed = build()
        resumed.load_state_dict(stopped.state_dict())
        after = list(itertools.islice(itertools.chain.from_iterable(itertools.repeat(resumed)), len(whole) - cut))
        assert same(before + after, whole)
        assert resumed.state_dict() == {"epoch": 4, "index": len(resumed)}

    @pytest.mark.parametrize("exhausted", [False, True])
    def test_at_the_end_of_an_epoch(self, exhausted):
        """Lightning saves before it asks for the batch that is not there; others save after."""
        whole = epochs(Loader(recordings(6), 2), 2)
        stopped = Loader(recordings(6), 2)
        batches = iter(stopped)
        for _ in range(3):
            next(batches)
        assert not exhausted or next(batches, None) is None
        assert stopped.state_dict() == {"epoch": 0, "index": 3}
        resumed = Loader(recordings(6), 2)
        resumed.load_state_dict(stopped.state_dict())
        assert same(list(resumed), whole[3:])

    def test_the_first_pass_after_loading_is_short_and_the_next_is_whole(self):
        loader = Loader(recordings(6), 2)
        loader.load_state_dict({"epoch": 7, "index": 2})
        assert [len(list(loader)) for _ in range(3)] == [1, 3, 3]
        assert loader.state_dict() == {"epoch": 9, "index": 3}

    def test_an_abandoned_rest_is_not_continued(self):
        loader = Loader(recordings(6), 2)
        loader.load_state_dict({"epoch": 7, "index": 1})
        next(iter(loader))
        assert len(list(loader)) == 3
        assert loader.state_dict() == {"epoch": 8, "index": 3}

    def test_an_iterator_that_is_never_used_changes_nothing(self):
        loader = Loader(recordings(6), 2)
        loader.load_state_dict({"epoch": 1, "index": 1})
        iter(loader)
        assert loader.state_dict() == {"epoch": 1, "index": 1}
        assert len(list(loader)) == 2

    def test_an_epoch_that_is_told(self):
        """Lightning tells it before every pass; only a loader without a state of its own listens."""
        loader = Loader(recordings(6), 2)
        whole = epochs(Loader(recordings(6), 2), 3)
        loader.sampler.set_epoch(1)
        assert same(list(loader), whole[3:6])
        loader.set_epoch(0)
        assert same(list(loader), whole[6:])
        loaded = Loader(recordings(6), 2)
        loaded.load_state_dict({"epoch": 1, "index": 1})
        loaded.set_epoch(2)
        assert same(epochs(loaded, 2), whole[4:])

    def test_loading_back_into_a_loader_that_has_moved_on(self):
        loader = Loader(recordings(6), 2, crop=1)
        first = epochs(loader, 2)
        loader.load_state_dict({"epoch": 0, "index": 1})
        assert same(epochs(loader, 2), first[1:])

    @pytest.mark.parametrize(
        "state", [{}, {"epoch": 0}, {"epoch": 0, "index": 4}, {"epoch": -1, "index": 0}, {"epoch": 0, "index": 1.5}]
    )
    def test_refused(self, state):
        with pytest.raises(InputError) as caught:
            Loader(recordings(6), 2).load_state_dict(state)
        assert str(caught.value) == (
            f"the state {state} does not fit a loader of 3 batches an epoch, but an epoch and a place in it are "
            "needed; use the recordings, batch size and number of processes of the saved run."
        )


class TestProcesses:
    @given(**SIZES, world_size=st.integers(2, 4), crop=st.sampled_from([None, 2]), shuffle=st.booleans())
    def test_together_they_see_what_one_process_sees(self, count, batch_size, seed, world_size, crop, shuffle):
        source = recordings(count)
        options = {"seed": seed, "crop": crop, "shuffle": shuffle}
        ranks = [
            epochs(Loader(source, batch_size, rank=rank, world_size=world_size, **options), 2)
            for rank in range(world_size)
        ]
        alone = epochs(Loader(source, batch_size * world_size, **options), 2)
        assert len({len(batches) for batches in ranks}) == 1
        assert len(ranks[0]) == len(alone)
        for step, whole in enumerate(alone):
            parts = [batches[step] for batches in ranks]
            assert len({len(part.y) for part in parts}) == 1
            merged = [row for rows in zip(*map(ids, parts), strict=True) for row in rows]
            assert merged[: len(whole.y)] == ids(whole)
            assert len(merged) - len(whole.y) < world_size, "no more is taken again than needed"
        per_epoch = [row for batches in ranks for batch in batches[: len(batches) // 2] for row in ids(batch)]
        assert set(per_epoch) == set(range(count)), "none is left out"

    def test_fewer_recordings_than_processes(self):
        batches = [list(Loader(recordings(2), 3, shuffle=False, rank=rank, world_size=5)) for rank in range(5)]
        assert [ids(batch) for (batch,) in batches] == [[0], [1], [0], [1], [0]]


class TestCrops:
    def test_windows_within_each_recording(self):
        starts = set()
        for batch in epochs(Loader(recordings(5), 2, crop=3), 30):
            for x, length, row in zip(batch.x, batch.lengths, ids(batch), strict=True):
                first = int(x[0, 1])
                assert length == min(row + 1, 3)
                assert x[:length, 1].tolist() == list(range(first, first + length))
                assert first + length <= row + 1
                starts.add((row, first))
        assert starts == {(0, 0), (1, 0), (2, 0), (3, 0), (3, 1), (4, 0), (4, 1), (4, 2)}

    def test_labels_go_with_their_steps(self):
        for batch in epochs(Loader(recordings(5, task="tagging"), 2, crop=2), 5):
            expected = (batch.x[..., 0] + batch.x[..., 1]).long() % 3
            valid = torch.arange(batch.x.shape[1]) < batch.lengths[:, None]
            assert torch.equal(batch.y, torch.where(valid, expected, -1))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"batch_size": 0}, "`batch_size` is 0, but a positive integer is needed"),
        ({"crop": 0}, "`crop` is 0, but a positive integer is needed"),
        ({"rank": 2, "world_size": 2}, "`rank` is 2, but a number from 0 to 1 is needed for `world_size` 2"),
        (
            {"batch_size": 7, "drop_last": True},
            "`drop_last` leaves nothing of 6 recordings in batches of 7, but one",
        ),
        ({"seed": -1}, "`seed` is -1, but a whole number from 0 is needed; choose another seed"),
    ],
)
def test_refused(options, sentence):
    with pytest.raises(InputError, match=sentence):
        list(Loader(recordings(6), **{"batch_size": 2, **options}))


def test_nothing_to_load():
    with pytest.raises(InputError, match="there are no recordings to load, but one at least is needed"):
        Loader(recordings(6).select([]), 2)
