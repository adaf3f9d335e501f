"""The complex exponential in real arithmetic against torch's own and against its series."""

import pytest
import torch

from longstate.theory import exponential


@pytest.mark.parametrize("dtype", [torch.complex128, torch.complex64, torch.float64])
def test_it_is_the_exponential(dtype: torch.dtype) -> None:
    scale = torch.logspace(-12, 1, 400, dtype=torch.float64)
    z = scale * torch.randn(50, 400, dtype=torch.complex128 if dtype.is_complex else torch.float64)
    z = torch.cat([z, torch.zeros_like(z[:1])]).to(dtype)
    power, growth = exponential(z)
    exact = z.to(torch.complex128)
    assert power.dtype is growth.dtype is dtype
    eps = torch.finfo(dtype).eps
    assert ((power - torch.exp(exact)).abs() <= 8 * eps * torch.exp(exact).abs()).all()
    assert ((growth - torch.expm1(exact)).abs() <= 8 * eps * torch.expm1(exact).abs()).all()
    assert power[-1].eq(1).all()
    assert growth[-1].eq(0).all()


def test_nothing_is_lost_near_zero() -> None:
    z = torch.polar(torch.logspace(-30, -4, 200), 3 * torch.randn(200))
    exact = z.to(torch.complex128)
    series = exact * (1 + exact / 2 * (1 + exact / 3))
    assert ((exponential(z)[1] - series).abs() <= 4 * torch.finfo(torch.float32).eps * series.abs()).all()


def test_derivatives() -> None:
    z = torch.tensor([0j, 1e-9 + 1e-9j, -0.5 + 3j, -20 - 1j], dtype=torch.complex128, requires_grad=True)
    assert torch.autograd.gradcheck(exponential, (z,))
    assert torch.autograd.gradgradcheck(exponential, (z,))
    x = torch.tensor([0.0, -1.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(exponential, (x,))


@pytest.mark.parametrize("dtype", [torch.complex128, torch.float64])
def test_a_factor_is_a_product(dtype: torch.dtype) -> None:
    z, factor = torch.randn(3, 4, dtype=dtype), torch.rand(2, 5, 1, 1, dtype=torch.float64)
    for found, expected in zip(exponential(z, factor), exponential(factor * z), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-14)
    assert torch.autograd.gradcheck(exponential, (z.requires_grad_(), factor.requires_grad_()))
