"""Mamba-2 against whole blocks of the official code, from its own state dicts."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from longstate import InputError, Mamba2
from longstate.layers.norm import GatedRMSNorm

GOLDENS = Path(__file__).parents[1] / "goldens" / "mamba2.npz"
BLOCKS = {
    "g1": lambda: Mamba2(8, 6, head_dim=4),
    "g2": lambda: Mamba2(8, 6, head_dim=4, n_groups=2),
    "g4_bias_dmlp": lambda: Mamba2(8, 4, head_dim=2, n_groups=4, d_ssm=8, bias=True),
    "no_norm": lambda: Mamba2(8, 4, head_dim=4, n_groups=2, gate="none"),
    "limit": lambda: Mamba2(8, 4, head_dim=4, dt_floor=0.02, dt_ceiling=0.08),
}


def golden(prefix: str) -> dict[str, Tensor]:
    with np.load(GOLDENS) as archive:
        found = {key: torch.from_numpy(archive[key]) for key in archive.files if key.startswith(f"{prefix}/")}
    return {key.removeprefix(f"{prefix}/"): value for key, value in found.items()}


def official(name: str) -> tuple[Mamba2, dict[str, Tensor]]:
    arrays = golden(f"block/{name}")
    weights = {key.removeprefix("state_dict/"): value for key, value in arrays.items() if "state_dict/" in key}
    weights["conv_weight"] = weights.pop("conv1d.weight")[:, 0]
    weights["conv_bias"] = weights.pop("conv1d.bias")
    layer = BLOCKS[name]().double()
    layer.load_state_dict(weights)
    return layer, arrays


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-9) -> bool:
    return bool((found - expected).abs().max() <= tolerance * expected.abs().max())


@pytest.mark.parametrize("name", BLOCKS)
def test_official_block(name: str) -> None:
    layer, arrays = official(name)
    assert close(layer(arrays["u"]), arrays["y"])
    assert close(layer.float()(arrays["u"].float()), arrays["y"], 1e-5)


@pytest.mark.parametrize("name", BLOCKS)
def test_official_prefill_and_steps(name: str) -> None:
    layer, arrays = official(name)
    prefill = arrays["prefill_y"].shape[1]
    y, state = layer.forward_with_state(arrays["u"][:, :prefill], layer.initial_state(2))
    assert close(y, arrays["prefill_y"])
    # The official state holds one input more than a next step can use.
    assert close(state.conv.mT, arrays["prefill_conv_state"][..., 1:])
    assert close(state.ssm, arrays["prefill_ssm_state"])
    outputs = []
    for t in range(prefill, arrays["u"].shape[1]):
        y_t, state = layer.step(arrays["u"][:, t], state)
        outputs.append(y_t)
    # The official step forgets dt_limit, so there is no official step for that case; the whole sequence tells.
    assert close(torch.stack(outputs, 1), arrays.get("step_y", arrays["y"][:, prefill:]))
    if "final_ssm_state" in arrays:
        assert close(state.ssm, arrays["final_ssm_state"])


@pytest.mark.parametrize(
    ("name", "groups", "kind"),
    [("gate_first", 1, "gate_first"), ("gate_first_groups", 3, "gate_first"), ("norm_first_groups", 4, "norm_first")],
)
def test_official_norm(name: str, groups: int, kind: str) -> None:
    case = golden(f"norm/{name}")
    norm = GatedRMSNorm(24, groups, kind=kind).double()
    norm.weight.data.copy_(case["weight"])
    assert close(norm(case["x"], case["z"]), case["y"])


def test_limits_hold_in_every_view() -> None:
    """A smallest step of 5 forgets everything in every view, whatever the input says."""
    layer = Mamba2(8, 4, head_dim=4, dt_floor=5.0, A_min=16.0).double()
    x = torch.randn(1, 20, 8, dtype=torch.float64)
    _, state = layer.forward_with_state(x, layer.initial_state(1))
    alone = layer.initial_state(1)
    for t in range(16, 20):
        _, alone = layer.step(x[:, t], alone)
    assert close(state.ssm, alone.ssm, 1e-12)


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: Mamba2(8, head_dim=5), "d_ssm is 16 with head_dim 5 and n_groups 1, but at most 16 channels"),
        (
            lambda: Mamba2(8, head_dim=4, n_groups=3),
            "groups that divide the heads are needed; choose a smaller",
        ),
        (lambda: Mamba2(8, head_dim=4, d_ssm=32), "d_ssm is 32 .* but at most 16 channels"),
        (lambda: Mamba2(8, head_dim=4, gate="late"), "`gate` is 'late', but one of gate_first, norm_first, none"),
        (lambda: Mamba2(8, head_dim=4, A_min=0.0), "`A_min` is 0.0 and `A_max` 16.0, but 0 < A_min <= A_max is needed"),
        (
            lambda: Mamba2(8, head_dim=4, dt_floor=2.0, dt_ceiling=1.0),
            "`dt_floor` is 2.0 and `dt_ceiling` 1.0, but 0",
        ),
    ],
)
def test_errors(build, text: str) -> None:
    with pytest.raises(InputError, match=text):
        build()
