"""The compiled step of Mamba and the product of a few rows, and when they stand back."""

from typing import Literal

import pytest
import torch
from compiled_steps import (
    assert_close,
    check_constants,
    check_layer_steps,
    check_rows,
    check_stack,
    check_stands_back,
    check_variant,
    drawn,
    weights_of,
    widened,
)
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from longstate import Mamba, ops
from longstate.layers.step_branches import step_branches
from longstate.models import BackboneConfig, MambaConfig
from longstate.ops import _native

pytestmark = pytest.mark.skipif(_native.library() is None, reason="no compiled kernels on this machine")


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
    x, state, weights = torch.randn(batch, width), drawn(layer.initial_state(batch)), weights_of(layer)
    with torch.no_grad():
        found = ops.mamba_step(x, *state, weights, rate=scale, backend="native")
        wide = scale.double() if isinstance(scale, Tensor) else scale
        expected = ops.mamba_step(x.double(), *widened(state), widened(weights), rate=wide, backend="reference")
    assert_close(found, expected)


@pytest.mark.parametrize("constants", [False, True], ids=["bare", "constants"])
def test_a_layer_steps_as_its_modules_do(constants: bool) -> None:
    torch.manual_seed(0)
    check_layer_steps(Mamba(40, inner_norm="weighted"), known=constants)


@pytest.mark.parametrize("norm", ["rms", "layer"])
def test_a_stack_steps_as_its_layers_do(norm: Literal["rms", "layer"]) -> None:
    torch.manual_seed(0)
    backbone = check_stack(BackboneConfig(d_model=24, n_layers=4, layer=MambaConfig(), norm=norm, branch_scale=0.5))
    x, layers = torch.randn(3, 24), backbone.layers
    with torch.no_grad():
        many = step_branches(layers, x.repeat(20, 1), backbone.initial_state(60), backbone.constants().layers)[0]
        alone = step_branches(layers, x, backbone.initial_state(3), backbone.constants().layers)[0]
    torch.testing.assert_close(many[:3], alone, rtol=1e-5, atol=1e-5)


def test_a_row_says_the_same_whatever_is_beside_it() -> None:
    torch.manual_seed(0)
    check_rows(Mamba(33))


def test_stands_back_where_a_gradient_or_another_type_is_asked_for() -> None:
    layer = Mamba(8)
    check_stands_back("mamba_step", layer, D=weights_of(layer).D[:-1])


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
    check_constants(Mamba(8))


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
    check_variant(variant, "mamba_step", "Mamba(33, inner_norm='weighted'),")
