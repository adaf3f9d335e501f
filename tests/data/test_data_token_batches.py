"""Rows of a stream of documents: everything is predicted once, nothing leaks, and the place decides the batch."""

from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longstate._checks import InputError
from longstate.data import Documents, TokenBatch, TokenRows, TokenStore, TokenStreams

END = 1000
SIZES = [7, 1, 12, 30, 2, 5]


def documents(sizes: list[int]) -> Documents:
    """Documents whose tokens are all different, so that a token says where it comes from."""
    ends = np.cumsum(sizes)
    return Documents(TokenStore(np.arange(ends[-1], dtype=np.uint16), ends, ends, (), ""), np.arange(len(sizes)))


def rows(sizes: list[int] = SIZES, batch: int = 3, length: int = 8, **options) -> TokenRows:
    return TokenRows(documents(sizes), batch, length, end=END, **options)


def predicted(batches: Iterable[TokenBatch]) -> list[tuple[int, int]]:
    """Every pair of a token and what comes after it that counts, sorted."""
    return sorted(
        (token, target)
        for batch in batches
        for token, target in zip(batch.ids.flatten().tolist(), batch.targets.flatten().tolist(), strict=True)
        if target >= 0
    )


def pairs(sizes: list[int]) -> list[tuple[int, int]]:
    """What every document asks of a model: its first token after an end, its others, and its end."""
    borders = np.cumsum([0, *sizes])
    texts = [[END, *range(begin, end), END] for begin, end in pairwise(borders)]
    return sorted((one, other) for text in texts for one, other in pairwise(text))


@given(
    sizes=st.lists(st.integers(1, 20), min_size=1, max_size=6),
    batch=st.integers(1, 5),
    length=st.integers(1, 30),
    carry=st.booleans(),
)
def test_an_epoch_predicts_everything_once(sizes: list[int], batch: int, length: int, carry: bool) -> None:
    loader = rows(sizes, batch, length, carry_state=carry)
    for epoch in (0, 1):
        found = list(loader.epoch(epoch))
        assert len(found) == len(loader)
        assert predicted(found) == pairs(sizes)
        for each in found:
            assert torch.equal(each.starts, each.ids == END)


@given(
    sizes=st.lists(st.integers(1, 20), min_size=1, max_size=6),
    batch=st.integers(1, 5),
    length=st.integers(1, 30),
    context=st.none() | st.integers(1, 9),
)
def test_evaluation_reads_whole_documents_once(sizes: list[int], batch: int, length: int, context: int | None) -> None:
    streams = TokenStreams(documents(sizes), batch, length, end=END, context=context)
    found = list(streams)
    assert len(found) == len(streams)
    assert predicted(found) == pairs(sizes)
    for row in range(len(found[0].ids)):  # the pieces of a row are whole documents one after the other
        pieces = [each for each in found if len(each.ids) > row]
        ids, targets, starts = (torch.cat([each[part][row] for each in pieces]) for part in range(3))
        begun, since = torch.where(ids == END)[0].tolist(), 0
        for place in range(int((targets >= 0).sum())):
            since = 0 if place in begun else since + 1
            assert bool(starts[place]) == (since == 0 if context is None else since % context == 0)
        assert (targets[: int((targets >= 0).sum())] >= 0).all()


def test_the_rows_of_evaluation_leave_at_their_end() -> None:
    counts = [len(batch.ids) for batch in TokenStreams(documents([40, 9, 3]), 3, 5, end=END)]
    assert counts == [3, 2, 1, 1, 1, 1, 1, 1, 1]


def test_a_batch_is_a_function_of_seed_epoch_and_index() -> None:
    for carry in (False, True):
        loader = rows(carry_state=carry)
        whole = list(loader.epoch(4))
        for first in range(len(whole) + 1):
            rest = list(rows(carry_state=carry).epoch(4, first))
            assert len(rest) == len(whole) - first
            assert all(map(torch.equal, one, other) for one, other in zip(rest, whole[first:], strict=True))
        for other in (rows(carry_state=carry, seed=1).epoch(4), loader.epoch(5)):
            assert not torch.equal(next(other).ids, whole[0].ids)


def test_carried_rows_go_on_where_they_ended() -> None:
    batches = list(rows(carry_state=True).epoch(0))
    for before, after in pairwise(batches):
        counts = before.targets[:, -1] >= 0
        assert torch.equal(before.targets[counts, -1], after.ids[counts, 0])


def test_rows_are_shuffled_and_cut_elsewhere_in_every_epoch() -> None:
    firsts = [tuple(batch.ids[:, 0].tolist()) for epoch in range(6) for batch in rows([200]).epoch(epoch)]
    assert len(set(firsts)) == len(firsts)
    in_row = [torch.cat([batch.ids[:, 0] for batch in rows([200]).epoch(epoch)]).tolist() for epoch in range(6)]
    assert all(row != sorted(row) for row in in_row)


@pytest.mark.parametrize("carry", [False, True])
def test_processes_share_the_batches_of_one(carry: bool) -> None:
    one = list(rows([90, 80], 4, 10, carry_state=carry).epoch(2))
    two = [list(rows([90, 80], 2, 10, carry_state=carry, rank=rank, world_size=2).epoch(2)) for rank in (0, 1)]
    assert len(one) == len(two[0]) == len(two[1])
    for whole, first, second in zip(one[:-1], *(part[:-1] for part in two), strict=True):
        assert torch.equal(whole.ids[0::2], first.ids)
        assert torch.equal(whole.targets[1::2], second.targets)


def test_processes_evaluate_every_document_once_in_equally_many_batches() -> None:
    for sizes in (SIZES, [4]):
        parts = [list(TokenStreams(documents(sizes), 2, 6, end=END, rank=rank, world_size=3)) for rank in range(3)]
        assert len({len(part) for part in parts}) == 1
        assert sorted(pair for part in parts for pair in predicted(part)) == pairs(sizes)


def test_nothing_to_read_and_sizes_that_are_none_are_refused() -> None:
    nothing = documents(SIZES).select(np.arange(0))
    with pytest.raises(InputError, match="there are no documents, but one at least is needed; look at the split"):
        TokenRows(nothing, 2, 8, end=END)
    with pytest.raises(InputError, match="there are no documents"):
        TokenStreams(nothing, 2, 8, end=END)
    with pytest.raises(InputError, match="`sequence_length` is 0, but a positive integer is needed"):
        rows(length=0)
    with pytest.raises(InputError, match="`context` is -1, but a positive integer is needed"):
        TokenStreams(documents(SIZES), 2, 8, end=END, context=-1)
