"""H3 against the official code, against plain loops, and what it promises beyond the laws."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from longstate import InputError, ops
from longstate.layers import H3, S4D, SLOW
from longstate.layers.h3 import H3State

GOLDENS = Path(__file__).parents[1] / "goldens"
CASES = {
    "hd1_bilinear_stream": {},
    "hd1_zoh_inv": {"rule": "zoh", "init": "inv"},
    "hd1_short_L_lt_N": {},
    "hd4_bilinear": {"head_dim": 4},
    "hd1_nssm2_tied": {"n_ssm": 2},
    "hd1_lmax_truncated": {},
}
STREAMS = ("hd1_bilinear_stream", "hd1_zoh_inv", "hd1_short_L_lt_N", "hd1_nssm2_tied")


def golden(name: str) -> dict[str, Tensor]:
    with np.load(GOLDENS / "h3.npz") as archive:
        keys = [key for key in archive.files if key.startswith(f"{name}/")]
        return {key.removeprefix(f"{name}/"): torch.from_numpy(archive[key]) for key in keys}


def official(arrays: dict[str, Tensor], **options: object) -> H3:
    """The layer of a case with its published parameters."""
    weights = {key.removeprefix("state_dict/"): value for key, value in arrays.items() if key.startswith("state_dict/")}
    d_model, d_state = weights["ssm_k_kernel.kernel.B"].shape
    layer = H3(d_model, d_state, **options).double()
    loaded = {
        "in_proj.weight": torch.cat([weights.pop(f"{part}_proj.weight") for part in "qkv"]),
        "in_proj.bias": torch.cat([weights.pop(f"{part}_proj.bias") for part in "qkv"]),
        "shift_B": weights.pop("ssm_k_kernel.kernel.B"),
        "shift_C": weights.pop("ssm_k_kernel.kernel.C")[0],
        "shift_D": weights.pop("ssm_k_D"),
        "diagonal.log_dt": weights.pop("kernel.kernel.log_dt"),
        "diagonal.A_real": weights.pop("kernel.kernel.inv_A_real"),
        "diagonal.A_imag": weights.pop("kernel.kernel.A_imag"),
        "diagonal.B": weights.pop("kernel.kernel.B"),
        "diagonal.C": weights.pop("kernel.kernel.C"),
        "diagonal.D": weights.pop("D")[None],
        "out_proj.weight": weights.pop("output_linear.weight"),
        "out_proj.bias": weights.pop("output_linear.bias"),
    }
    assert not weights
    layer.load_state_dict(loaded)
    return layer


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-9) -> bool:
    return found.shape == expected.shape and bool((found - expected).abs().max() <= tolerance * expected.abs().max())


def register(layer: H3, tail: Tensor) -> Tensor:
    """The published shift register, s_n = sum_j B_{n-j} k_{t-j}, but for its last place, which no output reaches."""
    newest_first = tail.flip(1)
    places = [sum(layer.shift_B[:, n - j] * newest_first[:, j] for j in range(n + 1)) for n in range(tail.shape[1])]
    return torch.stack(places, dim=-1)


@pytest.mark.parametrize("name", [name for name in CASES if name != "hd1_lmax_truncated"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_outputs_of_the_official_code(name: str, dtype: torch.dtype, tolerance: float) -> None:
    arrays = golden(name)
    layer = official(arrays, **CASES[name]).to(dtype)
    assert close(layer(arrays["u"].to(dtype)).double(), arrays["y"], tolerance)


@pytest.mark.parametrize("name", list(CASES))
def test_kernels_of_the_official_code(name: str) -> None:
    arrays = golden(name)
    layer = official(arrays, **CASES[name])
    length = arrays["kernel_diag"].shape[-1]
    diagonal = ops.lti_kernel(layer.diagonal.system(), length, dtype=torch.float64)[0]
    assert close(diagonal, arrays["kernel_diag"])
    shift = layer.shift_filter()[0].clone()
    shift[:, 0] -= layer.shift_D
    taps = min(layer.d_state, length)
    assert close(shift[:, :taps], arrays["kernel_shift"][:, :taps])
    assert not arrays["kernel_shift"][:, layer.d_state :].any()


@pytest.mark.parametrize("name", STREAMS)
def test_prefill_and_steps_of_the_official_code(name: str) -> None:
    arrays = golden(name)
    layer, u = official(arrays, **CASES[name]), arrays["u"]
    cut = arrays["prefill_y"].shape[1]
    y, state = layer.forward_with_state(u[:, :cut], layer.initial_state(len(u)))
    assert close(y, arrays["prefill_y"])
    states = [("prefill", state)]
    constants = layer.constants()
    for t in range(cut, u.shape[1]):
        y_t, state = layer.step(u[:, t], state, constants=constants)
        assert close(y_t, arrays["step_y"][:, t - cut])
    states.append(("final", state))
    for when, state in states:
        assert close(register(layer, state.tail), arrays[f"{when}_state_k"][..., :-1])
        assert close(state.x[:, 0, 0], torch.view_as_real(arrays[f"{when}_state"]))


def test_truncation_at_l_max_is_the_only_difference_of_the_case_that_has_it() -> None:
    arrays = golden("hd1_lmax_truncated")
    layer, u = official(arrays), arrays["u"]
    assert not close(layer(u), arrays["y"], 1e-3)
    q, k, v = layer.in_proj(u).chunk(3, dim=-1)
    k = ops.long_conv(k, layer.shift_filter()).squeeze(2)
    truncated = ops.lti_kernel(layer.diagonal.system(), 32, dtype=torch.float64)
    y = ops.long_conv(k * v, truncated).squeeze(2) + layer.diagonal.D * k * v
    assert close(layer.out_proj(q * y), arrays["y"])


@pytest.mark.parametrize("head_dim", [1, 2, 3])
def test_it_is_its_equation(head_dim: int) -> None:
    layer = H3(6, 4, head_dim=head_dim).double()
    torch.nn.init.normal_(layer.shift_B)
    x = torch.randn(2, 9, 6, dtype=torch.float64)
    heads = 6 // head_dim
    A, B, C, D = layer.diagonal.system()
    with torch.no_grad():
        for row in range(2):
            q, k, v = layer.in_proj(x[row]).chunk(3, dim=-1)
            places = torch.zeros(6, 4, dtype=torch.float64)
            h = torch.zeros(heads, head_dim, head_dim, 2, dtype=torch.complex128)
            for t in range(9):
                places = torch.cat([torch.zeros(6, 1), places[:, :-1]], dim=1) + layer.shift_B * k[t, :, None]
                shifted = (layer.shift_C * places).sum(-1) + layer.shift_D * k[t]
                y = torch.zeros(head_dim, heads, dtype=torch.float64)
                for head in range(heads):
                    features = slice(head * head_dim, (head + 1) * head_dim)
                    product = torch.outer(shifted[features], v[t, features])
                    h[head] = A[head] * h[head] + B[head] * product[..., None]
                    read = (C[0, head] * h[head]).sum(-1).real + D[0, head] * product
                    y[:, head] = q[t, features] @ read
                assert close(layer.out_proj(y.flatten()), layer(x)[row, t])


def test_the_order_of_features_is_a_permutation_of_the_output_map() -> None:
    layer = H3(6, 4, head_dim=3).double()
    x = torch.randn(1, 9, 6, dtype=torch.float64)
    expected = layer(x)
    captured = []
    layer.out_proj.register_forward_pre_hook(lambda _, given: captured.append(given[0]))
    layer(x)
    in_order_of_inputs = captured[0].unflatten(-1, (3, 2)).mT.flatten(-2)
    columns = torch.arange(6).reshape(3, 2).T.flatten()
    moved = torch.nn.functional.linear(in_order_of_inputs, layer.out_proj.weight[:, columns], layer.out_proj.bias)
    assert close(moved, expected)


@pytest.mark.parametrize("head_dim", [1, 2])
def test_rate_changes_the_diagonal_systems_alone(head_dim: int) -> None:
    layer = H3(4, 8, head_dim=head_dim).double()
    x = torch.randn(2, 30, 4, dtype=torch.float64)
    slower = copy.deepcopy(layer)
    slower.diagonal.log_dt.data += torch.tensor(2.0).log()
    assert close(layer(x, rate=2.0), slower(x), 1e-6)
    assert not close(layer(x, rate=2.0), layer(x), 1e-3)


def test_intervals_are_those_of_the_diagonal_systems() -> None:
    layer = H3(4, 8, rule="zoh").double()
    x, rate = torch.randn(2, 30, 4, dtype=torch.float64), 2 * torch.rand(2, 30, dtype=torch.float64)
    q, k, v = layer.in_proj(x).chunk(3, dim=-1)
    k = ops.long_conv(k, layer.shift_filter()).squeeze(2)
    assert close(layer(x, rate=rate), layer.out_proj(q * layer.diagonal(k * v, rate=rate)))


def test_a_stream_of_heads_shorter_than_the_shift() -> None:
    layer = H3(4, 32, head_dim=2).double()
    x = torch.randn(2, 50, 4, dtype=torch.float64)
    state, parts = layer.initial_state(2), []
    for chunk in x.split([3, 1, 31, 15], dim=1):
        y, state = layer.forward_with_state(chunk, state)
        parts.append(y)
    assert close(torch.cat(parts, dim=1), layer(x))
    assert isinstance(state, H3State)
    assert state.x.shape == (2, 2, 2, 2, 16, 2)


def test_starting_values() -> None:
    layer = H3(500, 16)
    assert torch.equal(layer.shift_B, torch.eye(16)[:1].expand(500, -1))
    assert 0.24 < layer.shift_C.max() <= 0.25
    assert close(layer.shift_filter()[0, :, 1:], layer.shift_C[:, 1:])


def test_optimiser_rules() -> None:
    assert H3.optimizer_rules == {"shift_B": SLOW}
    assert isinstance(H3(4, 8).diagonal, S4D)


def _constants_beside_intervals() -> None:
    layer = H3(4, 8)
    layer.step(torch.zeros(2, 4), layer.initial_state(2), rate=torch.ones(2), constants=layer.constants())


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: H3(4, 8, head_dim=3), "`head_dim` is 3, but a divisor of d_model=4 is needed; 1 always is"),
        (lambda: H3(4, 0), "`d_state` is 0, but a positive integer"),
        (lambda: H3(4, 7), "`d_state` is 7, but"),
        (lambda: H3(4, 8, rule="dss"), "`rule` is 'dss', but one of zoh"),
        (lambda: H3(4, 8, head_dim=2, n_ssm=4), "`n_ssm` is 4, but a divisor"),
        (lambda: H3(4, 8)(torch.zeros(2, 4, 9)), r"`x` has shape \(2, 4, 9\), but \(batch, length, 4\) is needed"),
        (lambda: H3(4, 8)(torch.zeros(2, 9, 4), lengths=torch.tensor([1, 10])), "row 1 has 10"),
        (lambda: H3(4, 8)(torch.zeros(2, 9, 4), rate=0.0), "`rate` is 0.0, but a positive number is needed"),
        (lambda: H3(4, 8)(torch.zeros(2, 9, 4), rate=torch.ones(2, 8)), r"but floating numbers of shape \(2, 9\)"),
        (_constants_beside_intervals, "beside `constants`, but constants already hold one rate"),
        (lambda: H3(4, 8).step(torch.zeros(2, 1, 4), H3(4, 8).initial_state(2)), "without a time axis"),
    ],
)
def test_errors_say_what_to_do(build, text: str) -> None:
    with pytest.raises(InputError, match=text):
        build()
