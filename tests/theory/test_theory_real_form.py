"""The real form: the same system, the same norm, over real numbers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from longstate.theory import hippo, nplr, real_form, real_vector


def draw(*shape: int, seed: int, dtype: torch.dtype = torch.complex128) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@given(lead=st.sampled_from([(), (3,), (2, 3)]), half=st.integers(1, 6), rank=st.integers(0, 2))
@settings(max_examples=40)
def test_is_the_conjugate_symmetric_system(lead: tuple[int, ...], half: int, rank: int) -> None:
    """A_r acts on r as diag(Λ) - P P* acts on the full state [x, conj x], and y is 2 Re(C x)."""
    A, B, C, x = (draw(*lead, half, seed=seed) for seed in range(4))
    P = draw(rank, *lead, half, seed=4)
    system = real_form(A, P, B, C)
    projections = 2 * (P.conj() * x).sum(-1, keepdim=True).real
    derivative = A * x - (P * projections).sum(0)
    r = real_vector(x)
    assert_close((system.A @ r[..., None])[..., 0], real_vector(derivative), rtol=0, atol=1e-12)
    assert_close(system.B, real_vector(B), rtol=0, atol=0)
    assert_close((system.C * r).sum(-1), 2 * (C * x).sum(-1).real, rtol=0, atol=1e-12)
    assert_close(r.norm(dim=-1), torch.cat([x, x.conj()], dim=-1).norm(dim=-1), rtol=1e-14, atol=0)


@pytest.mark.parametrize("measure", ["legs", "legt", "lagt", "fourier"])
def test_is_hippo_in_another_orthonormal_basis(measure: str) -> None:
    system = hippo(measure, 16)
    A, P, B, V = nplr(measure, 16)
    form = real_form(A, P, B, B)
    basis = real_vector(V.conj())
    assert_close(basis @ basis.mT, torch.eye(16, dtype=torch.float64), rtol=0, atol=1e-12)
    assert_close(basis @ form.A @ basis.mT, system.A, rtol=0, atol=1e-12)
    assert_close(basis @ form.B, system.B, rtol=0, atol=1e-12)


@pytest.mark.parametrize("measure", ["legs", "legt", "lagt", "fourier"])
def test_symmetric_part_is_negative_semidefinite(measure: str) -> None:
    A, P, B, _ = nplr(measure, 32)
    form = real_form(A, P, B, B).A
    assert torch.linalg.eigvalsh(form + form.mT).max() < 1e-12


def test_channels_lead_only_C() -> None:
    system = real_form(draw(3, 2, seed=0), draw(1, 3, 2, seed=1), draw(3, 2, seed=2), draw(5, 3, 2, seed=3))
    assert [tuple(part.shape) for part in system] == [(3, 4, 4), (3, 4), (5, 3, 4)]


@pytest.mark.parametrize(("given_type", "kept"), [(torch.complex64, torch.float32), (torch.complex128, torch.float64)])
def test_type_is_kept(given_type: torch.dtype, kept: torch.dtype) -> None:
    A, B, C = (draw(3, 2, seed=seed, dtype=given_type) for seed in range(3))
    assert {part.dtype for part in real_form(A, A[None], B, C)} == {kept}


def test_gradients() -> None:
    inputs = [draw(2, 3, seed=0), draw(2, 2, 3, seed=1), draw(2, 3, seed=2), draw(4, 2, 3, seed=3)]
    assert torch.autograd.gradcheck(real_form, [part.requires_grad_() for part in inputs])
