"""The compiled step of Mamba and the product of a few rows, and when they stand back."""

import copy
import os
import subprocess
import sys
from typing import Any, Literal, TypeVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from longstate import InputError, Mamba, ops
from longstate.layers.mamba import MambaState
from longstate.layers.step_branches import step_branches
from longstate.models import Backbone, BackboneConfig, MambaConfig
from longstate.ops import _native

pytestmark = pytest.mark.skipif(_native.library() is None, reason="no compiled kernels on this machine")

Parts = TypeVar("Parts", MambaState, ops.MambaWeights)


def carried(layer: Mamba, batch: int) -> MambaState:
    return MambaState(*(torch.randn_like(part) for part in layer.initial_state(batch)))


def weights_of(layer: Mamba) -> ops.MambaWeights:
    plan = layer.constants().plan
    assert plan is not None
    return plan.weights


def widened(parts: Parts) -> Parts:
    build: Any = type(parts)
    return build(*(part.double() if isinstance(part, Tensor) else part for part in parts))


def assert_close(found, expected) -> None:
    for part, wide in zip(found, expected, strict=True):
        assert part.dtype is torch.float32
        assert part.shape == wide.shape
        if part.numel():
            assert (part - wide).abs().max() <= 2e-6 * wide.abs().max() + 1e-6


@given(
    batch=st.integers(1, 9),
    width=st.sampled_from([1, 7, 33]),
    d_state=st.sampled_from([1, 5, 16]),
    d_conv=st.sampled_from([1, 2, 4]),
    inner_norm=st.sampled_from(["none", "fixed", "weighted"]),
    has_bias=st.booleans(),
    rate=st.sampled_from([1.0, 0.3, "each"]),
    seed=st.integers(0, 99),
)
def test_equals_the_equations_in_double(
    batch: int, width: int, d_state: int, d_conv: int, inner_norm: str, has_bias: bool, rate: float | str, seed: int
) -> None:
    torch.manual_seed(seed)
    layer = Mamba(width, d_state, d_conv=d_conv, inner_norm=inner_norm, bias=has_bias, conv_bias=has_bias)
    scale = torch.rand(batch) + 0.1 if isinstance(rate, str) else rate
    x, state, weights = torch.randn(batch, width), carried(layer, batch), weights_of(layer)
    with torch.no_grad():
        found = ops.mamba_step(x, *state, weights, rate=scale, backend="native")
        wide = scale.double() if isinstance(scale, Tensor) else scale
        expected = ops.mamba_step(x.double(), *widened(state), widened(weights), rate=wide, backend="reference")
    assert_close(found, expected)


@pytest.mark.parametrize("constants", [False, True], ids=["bare", "constants"])
def test_a_layer_steps_as_its_modules_do(constants: bool) -> None:
    torch.manual_seed(0)
    layer = Mamba(40, inner_norm="weighted")
    x, state = torch.randn(3, 40), carried(layer, 3)
    with torch.no_grad():
        known = layer.constants(rate=0.7) if constants else None
        y, new = layer.step(x, state, rate=None if constants else 0.7, constants=known)
    same_y, same = copy.deepcopy(layer).double().step(x.double(), widened(state), rate=0.7)
    assert_close((y, *new), (same_y, *same))


@pytest.mark.parametrize("norm", ["rms", "layer"])
def test_a_stack_steps_as_its_layers_do(norm: Literal["rms", "layer"]) -> None:
    torch.manual_seed(0)
    config = BackboneConfig(d_model=24, n_layers=4, layer=MambaConfig(), norm=norm, branch_scale=0.5)
    backbone = Backbone(config).eval()
    wide, x = copy.deepcopy(backbone).double(), torch.randn(3, 24)
    state = tuple(MambaState(*map(torch.randn_like, part)) for part in backbone.initial_state(3))
    kept = [part.clone() for each in state for part in each]
    with torch.no_grad():
        y, new = step_branches(backbone.layers, x, state, backbone.constants().layers)
        same_y, same = wide.step(x.double(), tuple(map(widened, state)))
        assert_close((backbone.norm(y), *sum(new, ())), (same_y, *sum(same, ())))
        assert all(torch.equal(part, before) for part, before in zip(sum(state, ()), kept, strict=True))
        many = step_branches(backbone.layers, x.repeat(20, 1), backbone.initial_state(60), backbone.constants().layers)[
            0
        ]
        alone = step_branches(backbone.layers, x, backbone.initial_state(3), backbone.constants().layers)[0]
    torch.testing.assert_close(many[:3], alone, rtol=1e-5, atol=1e-5)


def test_a_row_says_the_same_whatever_is_beside_it() -> None:
    torch.manual_seed(0)
    layer = Mamba(33)
    x, state = torch.randn(9, 33), carried(layer, 9)
    with torch.no_grad():
        together = layer.step(x, state)
        for row in (0, 3, 8):
            alone = layer.step(x[row : row + 1], MambaState(*(part[row : row + 1] for part in state)))
            assert torch.equal(together[0][row], alone[0][0])
            assert torch.equal(together[1].ssm[row], alone[1].ssm[0])


def test_stands_back_where_a_gradient_or_another_type_is_asked_for() -> None:
    layer = Mamba(8)
    x, state, weights = torch.randn(2, 8), carried(layer, 2), weights_of(layer)
    assert "no gradient of its own" in str(ops.explain("mamba_step", x, *state, weights, 1.0)[0][1])
    assert layer.step(x, state)[0].requires_grad
    assert layer.step(x, state, constants=layer.constants())[0].requires_grad
    with torch.no_grad():
        assert ops.explain("mamba_step", x, *state, weights, 1.0)[0] == ("native", None)
        for wrong, reason in (
            ((x.double(), *state, weights, 1.0), "contiguous float32"),
            ((x[:1].repeat(17, 1), *carried(layer, 17), weights, 1.0), "16 rows"),
            ((x, state.conv, state.ssm[:1], weights, 1.0), "of the layer's shapes"),
            ((x, *state, weights._replace(D=weights.D[:-1]), 1.0), "shapes that belong together"),
        ):
            assert reason in str(ops.explain("mamba_step", *wrong)[0][1])
        with pytest.raises(
            InputError, match="backend 'native' cannot run this call of mamba_step: is for 1 to 16 rows"
        ):
            ops.mamba_step(x[:1].repeat(17, 1), *carried(layer, 17), weights, backend="native")
        with torch.autocast("cpu", torch.bfloat16):
            assert "autocast" in str(ops.explain("mamba_step", x, *state, weights, 1.0)[0][1])
            assert layer.step(x, state)[0].dtype is torch.bfloat16
        with pytest.raises(InputError, match="tail"):
            layer.step(x, MambaState(state.conv[:, :2], state.ssm))


def test_a_hook_and_a_replaced_projection_are_heard() -> None:
    layer = Mamba(8)
    heard = []
    layer.in_proj.register_forward_hook(lambda *_: heard.append("in_proj"))
    with torch.no_grad():
        layer.step(torch.randn(1, 8), layer.initial_state(1))
    assert heard == ["in_proj"]
    assert layer.constants().plan is None


def test_constants_of_moved_weights_are_not_read_and_copies_have_their_own() -> None:
    torch.manual_seed(0)
    layer = Mamba(8)
    x, state = torch.randn(1, 8), carried(layer, 1)
    with torch.no_grad():
        constants = layer.constants()
        assert constants.plan is not None
        y = layer.step(x, state, constants=constants)[0]
        copied = copy.deepcopy(constants)
        assert copied.plan is not None
        assert copied.plan.weights.into.data_ptr() != constants.plan.weights.into.data_ptr()
        assert torch.equal(layer.step(x, state, constants=copied)[0], y)
        layer.share_memory()
        assert "take new constants" in str(constants.plan.why_not(x, *state, 1.0))
        torch.testing.assert_close(layer.step(x, state, constants=constants)[0], y)


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("batch", [1, 4, 7, 16])
def test_a_linear_map_of_a_few_rows(batch: int, has_bias: bool) -> None:
    torch.manual_seed(0)
    for inputs, outputs in ((1, 1), (37, 13), (256, 1030)):
        x, W = torch.randn(batch, inputs), torch.randn(outputs, inputs)
        b = torch.randn(outputs) if has_bias else None
        y = ops.linear_step(x, W, b, backend="native")
        wide = torch.nn.functional.linear(x.double(), W.double(), None if b is None else b.double())
        assert (y - wide).abs().max() <= 1e-6 * wide.abs().max() + 1e-6
        assert torch.equal(ops.linear_step(x, W, b), y)
    assert ops.linear_step(x, W.requires_grad_()).requires_grad
    assert "weights (outputs, inputs)" in str(ops.explain("linear_step", x[:, 1:].contiguous(), W.detach(), None)[0][1])


@pytest.mark.skipif(_native.instruction_set() == "base", reason="this machine has one variant, which runs above")
@pytest.mark.parametrize("variant", ["avx2", "base"])
def test_every_variant_computes_the_same(variant: str) -> None:
    code = f"""
import torch
from longstate import Mamba, ops
from longstate.ops import _native

assert _native.instruction_set() == {variant!r}, _native.instruction_set()
torch.manual_seed(0)
layer = Mamba(33, inner_norm="weighted")
x, state = torch.randn(5, 33), [torch.randn_like(part) for part in layer.initial_state(5)]
with torch.no_grad():
    weights = layer.constants().plan.weights
    found = ops.mamba_step(x, *state, weights, backend="native")
    wide = type(weights)(*(part.double() if isinstance(part, torch.Tensor) else part for part in weights))
    expected = ops.mamba_step(x.double(), *(part.double() for part in state), wide, backend="reference")
for part, double in zip(found, expected):
    assert (part - double).abs().max() <= 2e-6 * double.abs().max()
"""
    ran = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "LONGSTATE_ISA": variant}, capture_output=True, text=True
    )
    if "AssertionError: base" in ran.stderr:
        pytest.skip(f"this machine cannot run {variant}")
    assert ran.returncode == 0, ran.stderr
