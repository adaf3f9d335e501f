"""Mamba and Vim's bidirectional block against whole blocks of the official code, from its own state dicts."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from longstate import BidirectionalMamba, InputError, Mamba
from longstate.layers.selective_branch import SelectiveBranch

GOLDENS = Path(__file__).parents[1] / "goldens"
BLOCKS = {
    "default": lambda: Mamba(8, 8),
    "bias_rank3_noconvbias": lambda: Mamba(8, 5, dt_rank=3, conv_bias=False, bias=True),
    "prefill_shorter_than_conv": lambda: Mamba(8, 4),
}


def golden(family: str, name: str) -> dict[str, Tensor]:
    with np.load(GOLDENS / f"{family}.npz") as archive:
        prefix = f"block/{name}/"
        return {
            key.removeprefix(prefix): torch.from_numpy(archive[key]) for key in archive.files if key.startswith(prefix)
        }


def load_branch(branch: SelectiveBranch, weights: dict[str, Tensor], suffix: str = "") -> None:
    """`suffix` is that of Vim's second direction, whose A has another spelling."""
    with torch.no_grad():
        branch.conv_weight.copy_(weights[f"conv1d{suffix}.weight"][:, 0])
        if branch.conv_bias is not None:
            branch.conv_bias.copy_(weights[f"conv1d{suffix}.bias"])
        branch.x_proj.weight.copy_(weights[f"x_proj{suffix}.weight"])
        branch.dt_proj.weight.copy_(weights[f"dt_proj{suffix}.weight"])
        branch.dt_bias.copy_(weights[f"dt_proj{suffix}.bias"])
        branch.A_log.copy_(weights["A_b_log" if suffix else "A_log"])
        branch.D.copy_(weights[f"D{suffix}"])


def load_projections(layer: Mamba | BidirectionalMamba, weights: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name in ("in_proj", "out_proj"):
            projection = getattr(layer, name)
            projection.weight.copy_(weights[f"{name}.weight"])
            if projection.bias is not None:
                projection.bias.copy_(weights[f"{name}.bias"])


def official(name: str) -> tuple[Mamba, dict[str, Tensor]]:
    arrays = golden("mamba1", name)
    layer = BLOCKS[name]().double()
    weights = {key.removeprefix("state_dict/"): value for key, value in arrays.items() if "state_dict/" in key}
    load_branch(layer.branch, weights)
    load_projections(layer, weights)
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
    for moment in ("prefill", "final"):
        # The official state holds one input more than a next step can use.
        assert close(state.conv.mT, arrays[f"{moment}_conv_state"][..., 1:])
        assert close(state.ssm, arrays[f"{moment}_ssm_state"])
        if moment == "final":
            break
        for t in range(arrays["step_y"].shape[1]):
            y_t, state = layer.step(arrays["u"][:, prefill + t], state)
            assert close(y_t, arrays["step_y"][:, t])


@pytest.mark.parametrize(("name", "d_state", "rank", "halve"), [("v2_divide", 8, 1, True), ("v2", 4, 2, False)])
def test_official_vim_block(name: str, d_state: int, rank: int, halve: bool) -> None:
    arrays = golden("vim", name)
    weights = {key.removeprefix("state_dict/"): value for key, value in arrays.items() if "state_dict/" in key}
    layer = BidirectionalMamba(8, d_state, dt_rank=rank, halve=halve).double()
    load_projections(layer, weights)
    load_branch(layer.forward_branch, weights)
    load_branch(layer.backward_branch, weights, "_b")
    assert close(layer(arrays["u"]), arrays["y"])


def test_initial_parameters_are_the_papers() -> None:
    layer = Mamba(64, dt_min=1e-3, dt_max=1e-1)
    branch = layer.branch
    assert torch.allclose(branch.A_log.exp(), torch.arange(1.0, 17).expand(128, 16))
    dt = F.softplus(branch.dt_bias)
    assert 1e-3 <= dt.min() < 3e-3
    assert 3e-2 < dt.max() <= 1e-1 * (1 + 1e-5)
    assert branch.dt_proj.weight.shape == (128, 4)
    assert branch.dt_proj.weight.abs().max() <= 0.5


def test_the_rate_multiplies_the_step() -> None:
    layer = Mamba(4, 3).double()
    layer.branch.dt_proj.weight.data.zero_()
    doubled = Mamba(4, 3).double()
    doubled.load_state_dict(layer.state_dict())
    dt = 2 * F.softplus(layer.branch.dt_bias)
    doubled.branch.dt_bias.data.copy_(dt + torch.log(-torch.expm1(-dt)))
    x = torch.randn(2, 9, 4, dtype=torch.float64)
    assert close(layer(x, rate=2.0), doubled(x), 1e-12)


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: Mamba(8, 0), "`d_state` is 0, but a positive integer is needed"),
        (lambda: Mamba(8, inner_norm="layer"), "`inner_norm` is 'layer', but one of none, fixed, weighted is needed"),
        (lambda: Mamba(8, dt_min=0.1, dt_max=0.01), "`dt_min` is 0.1 and `dt_max` 0.01, but 0 < dt_min <= dt_max"),
        (
            lambda: BidirectionalMamba(8)(torch.zeros(1, 3, 8), rate=torch.ones(1, 3)),
            r"`rate` is a tensor of shape \(1, 3\), but BidirectionalMamba takes one number",
        ),
    ],
)
def test_errors(build, text: str) -> None:
    with pytest.raises(InputError, match=text):
        build()
