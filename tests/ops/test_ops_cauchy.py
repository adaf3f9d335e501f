"""The published algorithm against the loop, in float64: two roads to one kernel."""

import pytest
import torch

from longstate import InputError, ops, theory

MEASURES = ["legs", "legt", "fourier", "lagt"]


def dplr(measure: str, d_state: int, channels: int = 2) -> tuple[torch.Tensor, ...]:
    form = theory.nplr(measure, d_state)
    # A pole at exactly 0 (fourier) would meet the first root of unity; the layer keeps all decays above 1e-4 too.
    A = torch.complex(form.A.real.clamp(max=-1e-4), form.A.imag).expand(2, -1)
    B = form.B.expand(2, -1)
    P = form.P[:, None].expand(-1, 2, -1)
    C = torch.randn(channels, 2, d_state // 2, dtype=torch.complex128)
    return A, P, B, C, torch.tensor([0.003, 0.2], dtype=torch.float64)


def half_stored(C_real: torch.Tensor) -> torch.Tensor:
    re, im = C_real.chunk(2, dim=-1)
    return torch.complex(re, -im) / 2**0.5


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("length", [1, 2, 3, 64, 101, 400])
def test_cauchy_kernel_is_the_kernel(measure: str, length: int) -> None:
    A, P, B, C, dt = dplr(measure, 16)
    A_bar, B_bar = theory.discretize_dplr(A, P, B, dt, "bilinear")
    C_real = theory.real_vector(C.conj())
    system = ops.LTISystem(A_bar, B_bar, C_real, torch.zeros(2, 2, dtype=torch.float64))
    expected = ops.lti_kernel(system, length, dtype=torch.float64, backend="reference")
    truncated = half_stored(theory.truncate_output(C_real, A_bar, length))
    K = ops.cauchy_kernel(A, P, B, truncated, dt, length)
    assert (K - expected).abs().max() <= 1e-9 * expected.abs().max()


def test_cauchy_product_is_its_sum() -> None:
    v, w = (torch.randn(3, 2, 5, dtype=torch.complex128) for _ in range(2))
    z = torch.randn(7, dtype=torch.complex128)
    fast, slow = ops.cauchy(v, z, w), ops.cauchy(v, z, w, backend="reference")
    assert (fast - slow).abs().max() <= 1e-13 * slow.abs().max()


def test_cauchy_gradient() -> None:
    A, P, B, C, dt = dplr("legt", 8, channels=1)
    inputs = tuple(part.detach().clone().requires_grad_() for part in (A, P, B, C, dt))
    assert torch.autograd.gradcheck(lambda *args: ops.cauchy_kernel(*args, 10), inputs, fast_mode=True)


def test_axes_that_do_not_fit_are_named() -> None:
    A, P, B, C, dt = dplr("legs", 8)
    with pytest.raises(InputError, match=r"P \(2, 4\).*\(rank, H, N/2\).*check which axis is H"):
        ops.cauchy_kernel(A, P[0], B, C, dt, 8)
