"""Left padding moved to the right: every token kept, in order, and nothing else."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longstate import InputError
from longstate.inference import align


@given(
    st.lists(st.tuples(st.integers(0, 4), st.lists(st.integers(1, 99), max_size=6)), min_size=1, max_size=5), st.data()
)
def test_tokens_come_first_and_zeros_after(rows: list[tuple[int, list[int]]], data: st.DataObject) -> None:
    length = max(before + len(tokens) for before, tokens in rows) + data.draw(st.integers(0, 3))
    ids, mask = torch.full((len(rows), length), -7), torch.zeros(len(rows), length, dtype=torch.int64)
    for row, (before, tokens) in enumerate(rows):
        ids[row, before : before + len(tokens)] = torch.tensor(tokens, dtype=torch.int64)
        mask[row, before : before + len(tokens)] = 1
    kept = ids.clone(), mask.clone()
    for given_mask in (mask, mask.bool(), mask.float()):
        aligned, lengths = align(ids, given_mask)
        assert lengths.tolist() == [len(tokens) for _, tokens in rows]
        assert aligned.tolist() == [tokens + [0] * (length - len(tokens)) for _, tokens in rows]
    assert torch.equal(ids, kept[0])
    assert torch.equal(mask, kept[1])


def test_what_is_aligned_stays() -> None:
    ids = torch.tensor([[1, 2, 0], [3, 0, 0]])
    assert torch.equal(align(ids, torch.tensor([[1, 1, 0], [1, 0, 0]]))[0], ids)


@pytest.mark.parametrize(
    ("ids", "mask", "message"),
    [
        (torch.ones(3), torch.ones(3), r"`ids` has shape \(3,\) and `mask` \(3,\), but both must be \(batch, length\)"),
        (torch.ones(1, 3), torch.ones(1, 4), r"`ids` has shape \(1, 3\) and `mask` \(1, 4\), but both"),
        (
            torch.ones(1, 3),
            torch.tensor([[0.0, 0.5, 1.0]]),
            "`mask` holds 0.5, but 1 at tokens and 0 at padding are need",
        ),
        (
            torch.ones(2, 3),
            torch.tensor([[1, 1, 1], [1, 0, 1]]),
            "`mask` has padding between the tokens of row 1, but it",
        ),
    ],
)
def test_errors(ids: torch.Tensor, mask: torch.Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        align(ids, mask)
