"""Systems of many heads: mixtures share them evenly, and every member is what `diagonal` and `nplr` say."""

import pytest
import torch

from longstate._checks import InputError
from longstate.theory import INITS, MIXTURES, NPLR_MEASURES, diagonal, diagonal_heads, diagonal_input, dplr_heads, nplr


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("init", INITS)
def test_one_init_for_all_heads(init: str) -> None:
    A, B = diagonal_heads(init, 3, 8, generator=seeded(0))
    assert A.shape == B.shape == ((3, 8) if init == "real" else (3, 4))
    expected = diagonal_input("legs" if init == "legs" else "constant", 8, real=init == "real")
    assert torch.equal(B, expected.expand_as(B))
    if init == "random":
        assert len(A.imag.unique()) == A.numel()
    else:
        assert torch.equal(A, diagonal(init, 8).expand_as(A))


def test_diagonal_mixture() -> None:
    A, B = diagonal_heads("diag", 6, 8, b_init="alternating")
    assert torch.equal(A[:3], diagonal("inv", 8).expand(3, 4))
    assert torch.equal(A[3:], diagonal("lin", 8).expand(3, 4))
    assert torch.equal(B, diagonal_input("alternating", 8).expand(6, 4))


def test_random_parts_are_drawn_for_each_head() -> None:
    first, again = (
        diagonal_heads("diag", 4, 8, b_init="random", real_random=True, generator=seeded(1)) for _ in range(2)
    )
    assert torch.equal(first.A, again.A)
    assert torch.equal(first.B, again.B)
    assert len(first.A.real.unique()) == 16
    assert len(first.B.real.unique()) == 16
    assert torch.equal(first.A.imag, diagonal_heads("diag", 4, 8).A.imag)


@pytest.mark.parametrize("measure", NPLR_MEASURES)
def test_one_measure_for_all_heads(measure: str) -> None:
    form, heads = nplr(measure, 8), dplr_heads(measure, 3, 8)
    assert torch.equal(heads.A, form.A.expand(3, 4))
    assert torch.equal(heads.P, form.P[:, None].expand(-1, 3, 4))
    assert torch.equal(heads.B, form.B.expand(3, 4))


def test_mixtures_of_measures() -> None:
    assert dict(MIXTURES) == {
        "hippo": ("legs", "fourier"),
        "diag": ("inv", "lin"),
        "all": ("legs", "fourier", "inv", "lin"),
    }
    legs, fourier = nplr("legs", 8, b_clip=1.0), nplr("fourier", 8, b_clip=1.0)
    A, P, B = dplr_heads("all", 8, 8, b_clip=1.0)
    for heads, form in ((slice(0, 2), legs), (slice(2, 4), fourier)):
        assert torch.equal(A[heads], form.A.expand(2, 4))
        assert torch.equal(P[:, heads], form.P[:, None].expand(1, 2, 4))
        assert torch.equal(B[heads], form.B.expand(2, 4))
    assert torch.equal(A[4:6], diagonal("inv", 8).conj().expand(2, 4))
    assert torch.equal(A[6:], diagonal("lin", 8).conj().expand(2, 4))
    assert torch.equal(P[:, 4:], torch.zeros(1, 4, 4, dtype=P.dtype))
    assert torch.equal(B[4:], torch.ones(4, 4, dtype=B.dtype))
    half = dplr_heads("hippo", 4, 8, b_clip=1.0)
    for whole, part in zip((A, P, B), half, strict=True):
        assert torch.equal(part, whole[..., :4, :])
    assert dplr_heads("diag", 2, 8).P.shape == (0, 2, 4)


def test_heads_are_shared_evenly() -> None:
    with pytest.raises(
        InputError, match=r"init 'diag' shares the heads among inv, lin, but 5 is no multiple of 2; use 6 he"
    ):
        diagonal_heads("diag", 5, 8)
    with pytest.raises(
        InputError, match=r"init 'all' shares the heads among .*, but 1 is no multiple of 4; use 4 heads"
    ):
        dplr_heads("all", 1, 8)


def test_unknown_names() -> None:
    with pytest.raises(InputError, match=r"`init` is 'hippo', but one of lin, inv, .*, real, diag is needed"):
        diagonal_heads("hippo", 2, 8)
    with pytest.raises(InputError, match=r"`init` is 'lin', but one of legs, .*, foud, hippo, diag, all is needed"):
        dplr_heads("lin", 2, 8)
    with pytest.raises(InputError, match="`b_init` is 'legs' with init 'lin', but only init 'legs' has its modes"):
        diagonal_heads("lin", 2, 8, b_init="legs")
