"""Hyena against the official code, against plain loops, and what it promises beyond the laws."""

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from longstate import InputError
from longstate.layers import SLOW, Hyena
from longstate.training import parameter_groups

GOLDENS = Path(__file__).parents[1] / "goldens"
CASES = {
    "order2": {"filter_length": 64, "order": 2, "emb_dim": 3},
    "order2_w10_short_L": {"filter_length": 64, "order": 2, "emb_dim": 5, "frequency": 10.0},
    "order3": {"filter_length": 64, "order": 3, "emb_dim": 5},
    "order3_shift": {"filter_length": 80, "order": 3, "emb_dim": 9, "shift": 0.05, "num_inner_mlps": 1},
}


def golden(name: str) -> dict[str, Tensor]:
    with np.load(GOLDENS / "hyena.npz") as archive:
        keys = [key for key in archive.files if key.startswith(f"{name}/")]
        return {key.removeprefix(f"{name}/"): torch.from_numpy(archive[key]) for key in keys}


def official(arrays: dict[str, Tensor], **options: object) -> Hyena:
    """The layer of a case with its published parameters."""
    weights = {key.removeprefix("state_dict/"): value for key, value in arrays.items() if key.startswith("state_dict/")}
    weights = {key.removeprefix("filter_fn."): value for key, value in weights.items()}
    width, d_model = weights["implicit_filter.0.bias"].shape[0], weights["out_proj.bias"].shape[0]
    layer = Hyena(d_model, filter_order=width, **options).double()
    network = "implicit_filter"
    inner = [f"{network}.{2 * index}" for index in range(1, layer.filter_inner.shape[0] + 1)]
    frequencies = [weights.pop(f"{network}.{index}.freq") for index in range(1, 2 * len(inner) + 2, 2)]
    assert all(torch.equal(one, frequencies[0]) for one in frequencies)
    t = weights.pop("pos_emb.t").flatten()
    assert close(torch.linspace(0, 1, len(t), dtype=torch.float64), t, 1e-15)
    loaded = {
        "in_proj.weight": weights.pop("in_proj.weight"),
        "in_proj.bias": weights.pop("in_proj.bias"),
        "out_proj.weight": weights.pop("out_proj.weight"),
        "out_proj.bias": weights.pop("out_proj.bias"),
        "short_weight": weights.pop("short_filter.weight").squeeze(1),
        "short_bias": weights.pop("short_filter.bias"),
        "z": weights.pop("pos_emb.z")[0],
        "frequency": frequencies[0][0],
        "filter_first": weights.pop(f"{network}.0.weight"),
        "filter_first_bias": weights.pop(f"{network}.0.bias"),
        "filter_inner": torch.stack([weights.pop(f"{name}.weight") for name in inner]),
        "filter_inner_bias": torch.stack([weights.pop(f"{name}.bias") for name in inner]),
        "filter_last": weights.pop(f"{network}.{2 * len(inner) + 2}.weight"),
        "bias": weights.pop("bias").reshape(layer.order - 1, d_model),
        "deltas": weights.pop("modulation.deltas").flatten(),
    }
    assert not weights
    layer.load_state_dict(loaded)
    return layer


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-9) -> bool:
    return found.shape == expected.shape and bool((found - expected).abs().max() <= tolerance * expected.abs().max())


@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_outputs_of_the_official_code(name: str, dtype: torch.dtype, tolerance: float) -> None:
    arrays = golden(name)
    layer, u = official(arrays, **CASES[name]).to(dtype), arrays["u"].to(dtype)
    assert close(layer(u).double(), arrays["y"], tolerance)
    assert close(layer.forward_with_state(u, layer.initial_state(len(u)))[0].double(), arrays["y"], tolerance)


@pytest.mark.parametrize("name", list(CASES))
def test_filters_of_the_official_code(name: str) -> None:
    arrays = golden(name)
    layer = official(arrays, **CASES[name])
    expected = arrays["filter"].T
    found = layer.filters(expected.shape[-1]).flatten(0, 1)
    assert close(found[:, 1:], expected[:, 1:])
    assert close(found[:, 0] - layer.bias.flatten(), expected[:, 0])


@pytest.mark.parametrize("name", list(CASES))
def test_starting_positions_and_decays_are_the_official_ones(name: str) -> None:
    arrays = golden(name)
    layer = Hyena(arrays["y"].shape[-1], **CASES[name])
    assert close(layer.z.double(), arrays["state_dict/filter_fn.pos_emb.z"][0], 1e-6)
    assert close(layer.deltas.double(), arrays["state_dict/filter_fn.modulation.deltas"].flatten(), 1e-6)


@pytest.mark.parametrize("order", [2, 3, 4])
def test_it_is_its_equation(order: int) -> None:
    layer = Hyena(3, filter_length=6, order=order, filter_order=5).double()
    x = torch.randn(2, 10, 3, dtype=torch.float64)
    filters = layer.filters()
    with torch.no_grad():
        inner = torch.nn.functional.pad(layer.in_proj(x), (0, 0, 2, 0))
        mixed = torch.stack([(inner[:, t : t + 3] * layer.short_weight.T).sum(1) for t in range(10)], dim=1)
        *gates, v = (mixed + layer.short_bias).chunk(order + 1, dim=-1)
        for index in range(order - 1):
            gated = v * gates[order - 1 - index]
            reached = [
                [(filters[index, :, t - s], gated[:, s]) for s in range(max(t - 5, 0), t + 1)] for t in range(10)
            ]
            v = torch.stack([sum(tap * past for tap, past in pairs) for pairs in reached], dim=1)
        assert close(layer(x), layer.out_proj(v * gates[0]))


def test_no_memory_beyond_the_filters_in_any_view() -> None:
    layer = Hyena(2, filter_length=5, filter_order=4).double()
    x = torch.randn(1, 40, 2, dtype=torch.float64)
    moved = x.clone()
    moved[:, :20] += 1.0
    reach = 20 + 5 - 1 + 2
    assert close(layer(moved)[:, reach:], layer(x)[:, reach:], 1e-11)
    assert not close(layer(moved)[:, :reach], layer(x)[:, :reach], 1e-6)
    states = [layer.forward_with_state(part[:, :reach], layer.initial_state(1))[1] for part in (x, moved)]
    after = [layer.step(x[:, reach], state)[0] for state in states]
    assert close(after[1], after[0], 1e-11)


def test_a_prefix_does_not_depend_on_what_follows() -> None:
    layer = Hyena(4, filter_length=128).double()
    x = torch.randn(1, 300, 4, dtype=torch.float64)
    for cut in (7, 128, 200):
        assert close(layer(x[:, :cut]), layer(x)[:, :cut], 1e-11)


def test_decays_reach_the_target_where_they_say() -> None:
    layer = Hyena(8, filter_length=101, fast_decay=0.5, slow_decay=2.0, target=1e-3)
    decay = torch.exp(-torch.linspace(0, 1, 101)[:, None] * layer.deltas.abs())
    assert decay[50, -1] == pytest.approx(1e-3, rel=1e-5)
    assert decay[-1, 0] == pytest.approx(math.sqrt(1e-3), rel=1e-5)


def test_kernels_are_float32_under_autocast_and_in_bfloat16() -> None:
    layer = Hyena(4, filter_length=50)
    exact = layer.filters()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer.filters(), exact)
    assert copy.deepcopy(layer).bfloat16().filters().dtype is torch.float32


def test_optimiser_rules() -> None:
    layer = copy.deepcopy(Hyena(4, filter_length=8))
    groups = parameter_groups(layer, 4e-3, 0.1)
    rates = {name: (group["lr"], group["weight_decay"]) for group in groups for name in group["param_names"]}
    assert rates.pop("z") == (1e-5, 0.0)
    slow = {name for name, rule in rates.items() if rule == (SLOW.max_lr, 0.0)}
    assert slow == {name for name, _ in layer.named_parameters() if name.startswith(("filter_", "frequency"))}
    assert {rule for name, rule in rates.items() if name not in slow} == {(4e-3, 0.1)}
    assert "deltas" in dict(layer.named_buffers())


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: Hyena(4, filter_length=0), "`filter_length` is 0, but a positive integer"),
        (lambda: Hyena(4, order=1), "`order` is 1, but at least 2 is needed"),
        (lambda: Hyena(4, emb_dim=4), "`emb_dim` is 4, but an odd number from 3 upwards is needed"),
        (lambda: Hyena(4, emb_dim=1), "`emb_dim` is 1, but an odd number"),
        (lambda: Hyena(4, target=1.0), "`target` is 1.0, .* but 0 < target < 1"),
        (lambda: Hyena(4, fast_decay=0.0), "the published values are 0.01, 0.3 and 1.5"),
        (lambda: Hyena(4)(torch.zeros(2, 9, 4), rate=2.0), "`rate` is 2.0, but Hyena counts elements"),
        (lambda: Hyena(4)(torch.zeros(2, 9, 4), rate=torch.ones(2, 9)), r"a tensor of shape \(2, 9\), but Hyena"),
        (lambda: Hyena(4).constants(rate=1.0), "has no time scale, so None is needed; resample the sequence"),
        (lambda: Hyena(4)(torch.zeros(2, 4, 9)), r"`x` has shape \(2, 4, 9\), but \(batch, length, 4\) is needed"),
        (lambda: Hyena(4)(torch.zeros(2, 9, 4), lengths=torch.ones(2)), "one integer for each of the 2 rows"),
    ],
)
def test_errors_say_what_to_do(build, text: str) -> None:
    with pytest.raises(InputError, match=text):
        build()
