"""Reading images in four directions, against the official numbers, the loops and the symmetries of a square."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from longstate import InputError, ops

GOLDENS = Path(__file__).parents[1] / "goldens" / "vmamba.npz"
SIZES = st.tuples(st.integers(1, 5), st.integers(1, 5))


def golden(name: str) -> dict[str, Tensor]:
    with np.load(GOLDENS) as archive:
        prefix = f"index/{name}/"
        return {
            key.removeprefix(prefix): torch.from_numpy(archive[key]) for key in archive.files if key.startswith(prefix)
        }


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("name", ["3x4", "5x5", "1x6"])
def test_official_orders(name: str, backend: str) -> None:
    arrays = golden(name)
    height, width = arrays["scan_x"].shape[2:]
    image = torch.arange(height * width).reshape(1, height, width, 1)
    assert torch.equal(ops.cross_scan(image, backend=backend)[0, :, :, 0].T, arrays["scan_index"])
    found = ops.cross_scan(arrays["scan_x"].permute(0, 2, 3, 1), backend=backend)
    assert torch.equal(found.permute(0, 2, 3, 1), arrays["scan_xs"])
    sequences = arrays["merge_ys"].flatten(3).permute(0, 3, 1, 2)
    merged = ops.cross_merge(sequences, height, width, backend=backend)
    assert torch.allclose(merged.flatten(1, 2).mT, arrays["merge_y"], rtol=0, atol=1e-14)


@given(size=SIZES)
def test_fast_is_the_loop_in_value_and_gradient(size: tuple[int, int]) -> None:
    height, width = size
    x = torch.randn(2, height, width, 3, dtype=torch.float64, requires_grad=True)
    sequences = torch.randn(2, height * width, 4, 3, dtype=torch.float64, requires_grad=True)
    weight_s, weight_x = torch.randn_like(sequences), torch.randn_like(x)
    results = []
    for backend in ("torch", "reference"):
        scanned = ops.cross_scan(x, backend=backend)
        merged = ops.cross_merge(sequences, height, width, backend=backend)
        total = (scanned * weight_s).sum() + (merged * weight_x).sum()
        results.append((scanned, merged, *torch.autograd.grad(total, (x, sequences))))
    for fast, slow in zip(*results, strict=True):
        assert torch.allclose(fast, slow, rtol=0, atol=1e-13)


@given(size=SIZES)
def test_merging_is_the_adjoint_of_scanning(size: tuple[int, int]) -> None:
    height, width = size
    x = torch.randn(2, height, width, 3, dtype=torch.float64)
    sequences = torch.randn(2, height * width, 4, 3, dtype=torch.float64)
    there = (ops.cross_scan(x) * sequences).sum()
    back = (x * ops.cross_merge(sequences, height, width)).sum()
    assert torch.allclose(there, back, rtol=1e-12, atol=1e-12)


def test_a_quarter_turn_maps_the_directions_onto_each_other() -> None:
    """Turned to the left, the columns of an image from its right side on are its rows from the top on."""
    x = torch.randn(1, 3, 5, 2)
    straight, turned = ops.cross_scan(x), ops.cross_scan(x.rot90(1, (1, 2)))
    assert torch.equal(turned[:, :, 0], ops.cross_scan(x.flip(2))[:, :, 1])
    assert torch.equal(turned[:, :, 2], ops.cross_scan(x.flip(2))[:, :, 3])
    assert torch.equal(ops.cross_scan(x.rot90(2, (1, 2))), straight[:, :, [2, 3, 0, 1]])


def test_an_empty_image_is_an_empty_sequence() -> None:
    x = torch.zeros(2, 0, 3, 4)
    for backend in ("torch", "reference"):
        assert ops.cross_scan(x, backend=backend).shape == (2, 0, 4, 4)
        assert ops.cross_merge(torch.zeros(2, 0, 4, 4), 0, 3, backend=backend).shape == x.shape


def test_auto_takes_torch() -> None:
    assert ops.explain("cross_scan", torch.zeros(1, 2, 3, 4)) == [("torch", None), ("reference", None)]
    assert ops.explain("cross_merge", torch.zeros(1, 6, 4, 4), 2, 3) == [("torch", None), ("reference", None)]


def test_errors() -> None:
    with pytest.raises(
        InputError, match=r"`x` has shape \(2, 3, 4\), but \(batch, height, width, channels\) is needed"
    ):
        ops.cross_scan(torch.zeros(2, 3, 4))
    with pytest.raises(
        InputError, match=r"`sequences` has shape \(1, 6, 4, 2\), but \(batch, 8, 4, channels\) is needed for .* 2 x 4"
    ):
        ops.cross_merge(torch.zeros(1, 6, 4, 2), 2, 4)
