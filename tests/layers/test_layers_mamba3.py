"""Mamba-3 against whole blocks of the official code, from its own state dicts."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from longstate import InputError, Mamba3
from longstate.layers.turns import rotate_pairs, running_turns

GOLDENS = Path(__file__).parents[1] / "goldens" / "mamba3.npz"
BLOCKS = {
    "siso": lambda: Mamba3(8, 8, head_dim=4),
    "siso_outproj_norm_full_rope": lambda: Mamba3(8, 8, head_dim=4, rope_fraction=1.0, output_norm=True),
    "mimo": lambda: Mamba3(8, 8, head_dim=4, rank=2, pairs="halves"),
    "mimo_outproj_norm": lambda: Mamba3(8, 8, head_dim=4, rank=2, pairs="halves", output_norm=True),
}
NAMES = {
    "B_norm.weight": "B_norm.weight",
    "C_norm.weight": "C_norm.weight",
    "mimo_x": "rank_in",
    "mimo_z": "rank_gate",
    "mimo_o": "rank_out",
    "norm.weight": "norm_weight",
}


def golden(prefix: str) -> dict[str, Tensor]:
    with np.load(GOLDENS) as archive:
        found = {key: torch.from_numpy(archive[key]) for key in archive.files if key.startswith(f"{prefix}/")}
    return {key.removeprefix(f"{prefix}/"): value for key, value in found.items()}


def official(name: str) -> tuple[Mamba3, dict[str, Tensor]]:
    arrays = golden(f"block/{name}")
    layer = BLOCKS[name]().double()
    own = layer.state_dict()
    weights = {key.removeprefix("state_dict/"): value for key, value in arrays.items() if "state_dict/" in key}
    weights = {NAMES.get(key, key): value for key, value in weights.items()}
    layer.load_state_dict({key: value.reshape(own[key].shape) for key, value in weights.items()})
    return layer, arrays


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-9) -> bool:
    return bool((found - expected).abs().max() <= tolerance * expected.abs().max())


@pytest.mark.parametrize("name", BLOCKS)
def test_official_block(name: str) -> None:
    layer, arrays = official(name)
    assert close(layer(arrays["u"]), arrays["y"])
    assert close(layer.float()(arrays["u"].float()), arrays["y"], 1e-5)


@pytest.mark.parametrize("name", BLOCKS)
def test_official_states(name: str) -> None:
    layer, arrays = official(name)
    states = {"prefill": 11, "final": arrays["u"].shape[1]}
    for moment, length in states.items():
        _, state = layer.forward_with_state(arrays["u"][:, :length], layer.initial_state(2))
        for part in (torch.cos, torch.sin):
            assert close(part(2 * math.pi * state.turns), part(arrays[f"{moment}/angle"]))
        assert close(state.ssm, arrays[f"{moment}/ssm"])
        assert close(state.k, arrays[f"{moment}/k"].transpose(1, 2))
        assert close(state.x, arrays[f"{moment}/v"])


def test_turns_keep_their_digits() -> None:
    """After 65,000 steps the carried angle is true to 1e-9 of a turn."""
    turn = torch.rand(1, 65_536, dtype=torch.float64) * 0.01
    state = torch.zeros(1, dtype=torch.float64)
    for t in range(65_536):
        state = state + turn[:, t]
        state = state - state.floor()
    whole = running_turns(turn, torch.zeros(1, dtype=torch.float64), None)[:, -1]
    difference = (whole - state).abs()
    assert torch.minimum(difference, 1 - difference).max() < 1e-9


@pytest.mark.parametrize("pairs", ["adjacent", "halves"])
def test_a_rotation_keeps_lengths_and_leaves_the_rest_alone(pairs: str) -> None:
    x = torch.randn(2, 3, 1, 8, dtype=torch.float64)
    turned = rotate_pairs(x, torch.rand(2, 3, 2, dtype=torch.float64), pairs)
    assert torch.allclose(turned.norm(dim=-1), x.norm(dim=-1))
    still = [4, 5, 6, 7] if pairs == "adjacent" else [2, 3, 6, 7]
    assert torch.equal(turned[..., still], x[..., still])
    assert not torch.allclose(turned[..., 0], x[..., 0])


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: Mamba3(8, 4, head_dim=5), "`head_dim` is 5 and `n_groups` 1, but a divisor of the 16 inner channels"),
        (lambda: Mamba3(8, 5, head_dim=4), "`d_state` is 5 and `rope_fraction` 0.5, but an even size and a share from"),
        (lambda: Mamba3(8, 4, head_dim=4, pairs="all"), "`pairs` is 'all', but one of adjacent, halves is needed"),
        (lambda: Mamba3(8, 4, head_dim=4, A_activation="exp"), "`A_activation` is 'exp', but one of linear_recip"),
        (lambda: Mamba3(8, 4, head_dim=4, rank=0), "`rank` is 0, but a positive integer is needed"),
    ],
)
def test_errors(build, text: str) -> None:
    with pytest.raises(InputError, match=text):
        build()
