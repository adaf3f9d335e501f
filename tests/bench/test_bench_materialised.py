"""The published forms against our layers and the official kernels: what we compare with is right."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from longstate import S4, S4D
from longstate.bench.materialised import MaterialisedS4, MaterialisedS4D, vandermonde_kernel

GOLDENS = Path(__file__).parents[1] / "goldens" / "s4_official.npz"


@pytest.mark.parametrize("case", ["s4d_lin_zoh", "s4d_inv_zoh", "s4d_legs_zoh"])
def test_the_vandermonde_kernel_is_the_official_one(case: str) -> None:
    with np.load(GOLDENS) as file:
        A, B, C, dt, K = (torch.from_numpy(file[f"kernel/{case}/{name}"]) for name in ("A", "B", "C", "dt", "K"))
    found = vandermonde_kernel(A, B, C, dt[:, 0], K.shape[-1])
    assert (found - K).abs().max() <= 2e-5 * K.abs().max()


@pytest.mark.parametrize("length", [1, 2, 50, 101])
def test_materialised_layers_are_ours(length: int) -> None:
    x = torch.randn(2, length, 6)
    diagonal, dense = S4D(6, 16), S4(6, 16)
    assert_close(MaterialisedS4D(diagonal)(x), diagonal(x), rtol=0, atol=2e-5)
    assert_close(MaterialisedS4(dense, length)(x), dense(x), rtol=0, atol=2e-4)


def test_gradients_of_the_parameters_they_share_are_equal() -> None:
    x, layer = torch.randn(2, 40, 6), S4D(6, 16)
    other = MaterialisedS4D(layer)
    layer(x).square().sum().backward()
    other(x).square().sum().backward()
    for name in ("log_dt", "A_real", "A_imag", "B", "C"):
        mine, its = getattr(layer, name).grad, getattr(other, name).grad
        its = its.view_as(mine)
        assert (mine - its).abs().max() <= 1e-4 * mine.abs().max(), name
