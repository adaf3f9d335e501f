"""Blocks of a HiPPO memory: scipy's exponentials and discretisations, whatever the block, the clock and the rule."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import linalg, signal
from torch.testing import assert_close

from longstate._checks import InputError
from longstate.theory import MEMORY_RULES, discretize_dense, hippo, scaled_blocks, sliding_blocks

SCIPY = {"bilinear": "bilinear", "euler": "euler", "backward_euler": "backward_diff"}


def one_step(order: int, k: int, rule: str) -> tuple[np.ndarray, np.ndarray]:
    """A_k and B_k by scipy; zoh is exact from time k-1 to k, and nothing is left of time 0."""
    A, B = (part.numpy() for part in hippo("legs", order))
    if rule != "zoh":
        A_bar, B_bar, *_ = signal.cont2discrete((A, B[:, None], 0 * B[None], [[0.0]]), 1 / k, SCIPY[rule])
        return A_bar, B_bar[:, 0]
    A_bar = linalg.expm(A * np.log(k / (k - 1))) if k > 1 else np.zeros((order, order))
    return A_bar, linalg.solve_triangular(A, (A_bar - np.eye(order)) @ B, lower=True)


def weights_of(order: int, first: int, size: int, rule: str) -> np.ndarray:
    """Weights of [x; inputs] for each element of a block, by multiplying steps."""
    now = np.concatenate([np.eye(order), np.zeros((order, size))], axis=1)
    found = []
    for t in range(size):
        A_bar, B_bar = one_step(order, first + t + 1, rule)
        now = A_bar @ now
        now[:, order + t] = B_bar
        found.append(now)
    return np.stack(found, axis=1)


@pytest.mark.parametrize("rule", MEMORY_RULES)
@given(
    order=st.integers(1, 8),
    size=st.integers(1, 13),
    first=st.lists(st.one_of(st.integers(0, 20), st.integers(0, 10**6)), min_size=1, max_size=3),
)
def test_a_block_is_its_steps(rule: str, order: int, size: int, first: list[int]) -> None:
    enter, weights = scaled_blocks(order, size, rule=rule)(torch.tensor(first))
    assert weights.shape == (len(first), order, size, order + size)
    found = torch.cat([weights[..., :order] @ enter, weights[..., order:]], dim=-1)
    for group, clock in enumerate(first):
        expected = weights_of(order, clock, size, rule)
        assert_close(found[group].numpy(), expected, rtol=0, atol=1e-11 * max(1.0, np.abs(expected).max()))


@pytest.mark.parametrize("rule", [rule for rule in MEMORY_RULES if rule != "euler"])
def test_large_orders_stay_exact(rule: str) -> None:
    enter, weights = scaled_blocks(64, 5, rule=rule)(torch.tensor([0, 3, 1000]))
    for group, clock in enumerate((0, 3, 1000)):
        expected = weights_of(64, clock, 5, rule)
        assert_close((weights[group, ..., :64] @ enter).numpy(), expected[..., :64], rtol=0, atol=1e-11)
        assert_close(weights[group, ..., 64:].numpy(), expected[..., 64:], rtol=0, atol=1e-11)


@pytest.mark.parametrize("rule", [rule for rule in MEMORY_RULES if rule != "euler"])
def test_every_step_contracts(rule: str) -> None:
    enter, weights = scaled_blocks(64, 1, rule=rule)(torch.tensor([0, 1, 5, 100, 10**7]))
    assert (torch.linalg.matrix_norm(weights[:, :, 0, :64] @ enter, 2) <= 1 + 1e-12).all()


def test_the_clock_of_a_long_life() -> None:
    """After 1e9 elements an element still enters with the weight B/k, to the digits that are left."""
    _, weights = scaled_blocks(16, 2)(torch.tensor([10**9]))
    assert_close(weights[0, :, 0, 16] * 1e9, hippo("legs", 16).B, rtol=1e-4, atol=0)


@pytest.mark.parametrize("rule", MEMORY_RULES)
def test_nothing_looks_ahead(rule: str) -> None:
    _, weights = scaled_blocks(6, 9, rule=rule)(torch.tensor([0, 7]))
    ahead = torch.arange(9) > torch.arange(9)[:, None]
    assert torch.equal(weights[..., 6:][..., ahead], torch.zeros(2, 6, 36, dtype=torch.float64))


def test_the_first_element_alone_is_a_constant() -> None:
    enter, weights = scaled_blocks(5, 1)(torch.tensor([0]))
    assert torch.equal(weights[0, :, 0, :5] @ enter, torch.zeros(5, 5, dtype=torch.float64))
    assert_close(weights[0, :, 0, 5], torch.eye(5, dtype=torch.float64)[0], rtol=0, atol=1e-15)


@pytest.mark.parametrize("size", [1, 2, 7, 16])
@pytest.mark.parametrize("measure", ["legt", "lmu", "lagt", "fourier"])
def test_sliding_blocks_are_powers(measure: str, size: int) -> None:
    A_bar, B_bar = discretize_dense(*hippo(measure, 6), 0.1, "zoh")
    enter, weights = sliding_blocks(A_bar, B_bar, size)(torch.tensor([3]))
    assert torch.equal(enter, torch.eye(6, dtype=torch.float64))
    for t in range(size):
        power = torch.linalg.matrix_power(A_bar, t + 1)
        assert_close(weights[0, :, t, :6], power, rtol=0, atol=1e-13)
        for i in range(size):
            entered = torch.linalg.matrix_power(A_bar, t - i) @ B_bar if i <= t else torch.zeros_like(B_bar)
            assert_close(weights[0, :, t, 6 + i], entered, rtol=0, atol=1e-13)


def test_matrices_are_rounded_at_the_end() -> None:
    first = torch.tensor([0, 10**6])
    A_bar, B_bar = discretize_dense(*hippo("legt", 6), 0.1, "zoh")
    for exact, rounded in (
        (scaled_blocks(6, 4)(first), scaled_blocks(6, 4, dtype=torch.float32)(first)),
        (scaled_blocks(6, 4, rule="bilinear")(first), scaled_blocks(6, 4, rule="bilinear", dtype=torch.float32)(first)),
        (sliding_blocks(A_bar, B_bar, 4)(first), sliding_blocks(A_bar, B_bar, 4, dtype=torch.float32)(first)),
    ):
        for one, other in zip(exact, rounded, strict=True):
            assert torch.equal(one.float(), other)


def test_errors_say_what_to_do() -> None:
    with pytest.raises(
        InputError, match=r"`rule` is 'dirac', but one of zoh, bilinear, euler, backward_euler is needed"
    ):
        scaled_blocks(4, 2, rule="dirac")
    with pytest.raises(
        InputError, match=r"`rule` is 'euler' with measure 'legs' of order 9, but beyond order 8 it mul"
    ):
        scaled_blocks(9, 2, rule="euler")
    with pytest.raises(InputError, match="`size` is 0, but a positive integer is needed"):
        scaled_blocks(4, 0)
    with pytest.raises(InputError, match="`size` is 0, but a positive integer is needed"):
        sliding_blocks(torch.eye(2), torch.ones(2), 0)


def test_why_euler_ends_at_order_eight() -> None:
    """What the first elements are multiplied by on the way."""
    _, weights = scaled_blocks(8, 16, rule="euler")(torch.tensor([0]))
    assert 1e3 < weights[..., 8:].abs().max() < 1e4
