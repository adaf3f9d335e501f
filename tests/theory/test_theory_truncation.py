"""The truncated output vector: its definition by a loop, its transform, and the way back."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from longstate._checks import InputError
from longstate.theory import discretize_dplr, nplr, real_form, restore_output, truncate_output


def systems(measure: str = "legs", d_state: int = 8) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """C (2, 3, N), Ā (3, N, N) and B̄ (3, N) for three heads with their own dt."""
    A, P, B, _ = nplr(measure, d_state)
    if measure == "fourier":
        A = A - 1e-4  # its zero frequency is undamped, and what never decays cannot be restored
    A, P, B = A.expand(3, -1), P[:, None].expand(-1, 3, -1), B.expand(3, -1)
    C = torch.randn(2, 3, d_state // 2, generator=torch.Generator().manual_seed(0), dtype=torch.complex128)
    dt = torch.tensor([1e-2, 1e-1, 0.5], dtype=torch.float64)
    return real_form(A, P, B, C).C, *discretize_dplr(A, P, B, dt, "bilinear")


@given(length=st.integers(1, 40))
@settings(max_examples=40)
def test_is_C_minus_its_tail(length: int) -> None:
    C, A_bar, _ = systems()
    tail = C[..., None, :]
    for _ in range(length):
        tail = tail @ A_bar
    assert_close(truncate_output(C, A_bar, length), C - tail[..., 0, :], rtol=0, atol=1e-12)


@pytest.mark.parametrize("length", [7, 16])
def test_transform_is_that_of_the_finite_kernel(length: int) -> None:
    """C̃ (I - ω Ā)⁻¹ B̄ at the roots of unity is the DFT of the first `length` taps of C."""
    C, A_bar, B_bar = systems()
    taps, column = [], B_bar
    for _ in range(length):
        taps.append((C * column).sum(-1))
        column = (A_bar @ column[..., None])[..., 0]
    omega = torch.exp(-2j * torch.pi * torch.arange(length, dtype=torch.float64) / length)
    eye = torch.eye(A_bar.shape[-1], dtype=torch.complex128)
    resolvent = torch.linalg.solve(eye - omega[:, None, None, None] * A_bar, (B_bar + 0j)[..., None])[..., 0]
    transform = torch.einsum("chn,khn->chk", truncate_output(C, A_bar, length) + 0j, resolvent)
    assert_close(transform, torch.fft.fft(torch.stack(taps, -1)), rtol=0, atol=1e-11)


@pytest.mark.parametrize("length", [1, 100, 1024])
@pytest.mark.parametrize("measure", ["legs", "legt", "fourier"])
def test_round_trip(measure: str, length: int) -> None:
    C, A_bar, _ = systems(measure, 16)
    assert_close(restore_output(truncate_output(C, A_bar, length), A_bar, length), C, rtol=1e-9, atol=1e-9)


def test_one_head_without_channels() -> None:
    C, A_bar, _ = systems()
    assert_close(truncate_output(C[1, :1], A_bar[:1], 5), truncate_output(C, A_bar, 5)[1, :1], rtol=0, atol=1e-14)
    assert_close(restore_output(C[1, :1], A_bar[:1], 5), restore_output(C, A_bar, 5)[1, :1], rtol=1e-12, atol=1e-12)


def test_types_are_kept() -> None:
    C, A_bar, _ = (part.float() for part in systems())
    assert truncate_output(C, A_bar, 9).dtype == restore_output(C, A_bar, 9).dtype == torch.float32


def test_gradients() -> None:
    C, A_bar, _ = systems(d_state=4)
    inputs = (C.requires_grad_(), A_bar[..., :, :].requires_grad_())
    assert torch.autograd.gradcheck(lambda C, A_bar: truncate_output(C, A_bar, 6), inputs)
    assert torch.autograd.gradcheck(lambda C, A_bar: restore_output(C, A_bar, 6), inputs)


def test_nothing_left_to_restore() -> None:
    A_bar = torch.stack([0.5 * torch.eye(2), torch.eye(2)])
    with pytest.raises(InputError, match=r"`A_bar` of head 1 has an eigenvalue whose power 3 is 1.*; give the damped"):
        restore_output(torch.ones(4, 2, 2), A_bar, 3)


@pytest.mark.parametrize("function", [truncate_output, restore_output])
def test_arguments(function) -> None:
    with pytest.raises(InputError, match="`length` is 0, but a positive integer is needed"):
        function(torch.ones(1, 2), torch.eye(2)[None], 0)
    for C, A_bar in ((torch.ones(2), torch.eye(2)), (torch.ones(3, 2), torch.eye(2)[None])):
        with pytest.raises(InputError, match=r"`C` has shape .* and `A_bar` .*, but \(\.\.\., H, N\) and \(H, N, N\)"):
            function(C, A_bar, 4)
