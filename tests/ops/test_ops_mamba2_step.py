"""The compiled step of Mamba-2, and when it stands back."""

import copy
import os
import subprocess
import sys
from typing import Any, Literal, TypeVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from longstate import InputError, Mamba2, ops
from longstate.layers.mamba2 import Mamba2State
from longstate.layers.step_branches import step_branches
from longstate.models import Backbone, BackboneConfig, LanguageModel, LanguageModelConfig, Mamba2Config, MambaConfig
from longstate.ops import _native

pytestmark = pytest.mark.skipif(_native.library() is None, reason="no compiled kernels on this machine")

Parts = TypeVar("Parts", bound=tuple[Any, ...])


def made(width: int, **options: Any) -> Mamba2:
    """A layer whose skips and norm are not ones."""
    layer = Mamba2(width, **options)
    nn.init.normal_(layer.D)
    if layer.norm.weight is not None:
        nn.init.normal_(layer.norm.weight)
    return layer


def drawn(state: Parts) -> Parts:
    build: Any = type(state)
    return build(*map(torch.randn_like, state))


def weights_of(layer: Mamba2) -> ops.Mamba2Weights:
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
    heads=st.sampled_from([(1, 1, 1), (3, 2, 1), (4, 5, 2), (6, 7, 3)]),
    d_conv=st.sampled_from([1, 2, 4]),
    limits=st.sampled_from([(0.0, None), (0.01, 0.05)]),
    D_per_channel=st.booleans(),
    gate=st.sampled_from(["gate_first", "norm_first", "none"]),
    has_bias=st.booleans(),
    rate=st.sampled_from([1.0, 0.3, "each"]),
    seed=st.integers(0, 99),
)
def test_equals_the_equations_in_double(
    batch: int,
    width: int,
    d_state: int,
    heads: tuple[int, int, int],
    d_conv: int,
    limits: tuple[float, float | None],
    D_per_channel: bool,
    gate: str,
    has_bias: bool,
    rate: float | str,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    count, head_dim, groups = heads
    sizes = {"d_inner": count * head_dim, "head_dim": head_dim, "n_groups": groups, "d_conv": d_conv}
    steps = {"dt_floor": limits[0], "dt_ceiling": limits[1], "D_per_channel": D_per_channel, "gate": gate}
    layer = made(width, d_state=d_state, **sizes, **steps, bias=has_bias, conv_bias=has_bias)
    scale = torch.rand(batch) + 0.1 if isinstance(rate, str) else rate
    x, state, weights = torch.randn(batch, width), drawn(layer.initial_state(batch)), weights_of(layer)
    with torch.no_grad():
        found = ops.mamba2_step(x, *state, weights, rate=scale, backend="native")
        wide = scale.double() if isinstance(scale, Tensor) else scale
        expected = ops.mamba2_step(x.double(), *widened(state), widened(weights), rate=wide, backend="reference")
        y, new = copy.deepcopy(layer).double().step(x.double(), widened(state), rate=wide)
    assert_close(found, expected)
    for part, same in zip((y, *new), expected, strict=True):
        torch.testing.assert_close(part, same)


@pytest.mark.parametrize("constants", [False, True], ids=["bare", "constants"])
def test_a_layer_steps_as_its_modules_do(constants: bool) -> None:
    torch.manual_seed(0)
    layer = made(40, d_state=12, head_dim=8, n_groups=2)
    x, state = torch.randn(3, 40), drawn(layer.initial_state(3))
    with torch.no_grad():
        known = layer.constants(rate=0.7) if constants else None
        y, new = layer.step(x, state, rate=None if constants else 0.7, constants=known)
    same_y, same = copy.deepcopy(layer).double().step(x.double(), widened(state), rate=0.7)
    assert_close((y, *new), (same_y, *same))


@pytest.mark.parametrize("norm", ["rms", "layer"])
@pytest.mark.parametrize("mixed", [False, True])
def test_a_stack_steps_as_its_layers_do(norm: Literal["rms", "layer"], mixed: bool) -> None:
    torch.manual_seed(0)
    layer = Mamba2Config(d_state=8, head_dim=8)
    pattern = (layer, layer, MambaConfig(), layer) if mixed else (layer,) * 4
    backbone = Backbone(BackboneConfig(d_model=24, n_layers=1, pattern=pattern, norm=norm, branch_scale=0.5)).eval()
    wide, x = copy.deepcopy(backbone).double(), torch.randn(3, 24)
    state = tuple(map(drawn, backbone.initial_state(3)))
    kept = [part.clone() for each in state for part in each]
    with torch.no_grad():
        y, new = step_branches(backbone.layers, x, state, backbone.constants().layers)
        same_y, same = wide.step(x.double(), tuple(map(widened, state)))
    assert [type(part) for part in new] == [type(part) for part in state]
    assert_close((backbone.norm(y), *sum(new, ())), (same_y, *sum(same, ())))
    assert all(torch.equal(part, before) for part, before in zip(sum(state, ()), kept, strict=True))


def test_a_language_model_calls_the_library_twice_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for all layers, once for the head."""
    backbone = BackboneConfig(d_model=16, n_layers=3, layer=Mamba2Config(d_state=8, head_dim=8), norm="rms")
    model = LanguageModel(LanguageModelConfig(vocabulary_size=256, backbone=backbone)).eval()
    called, run = [], _native.run
    monkeypatch.setattr(_native, "run", lambda kernel, *arguments: (called.append(kernel), run(kernel, *arguments)))
    with torch.inference_mode():
        model.step(torch.tensor([3]), model.initial_state(1), constants=model.constants())
    assert called == ["longstate_mamba2_steps", "longstate_linear_step"]


def test_a_row_says_the_same_whatever_is_beside_it() -> None:
    torch.manual_seed(0)
    layer = made(32, d_state=20, head_dim=16)
    x, state = torch.randn(9, 32), drawn(layer.initial_state(9))
    with torch.no_grad():
        together = layer.step(x, state)
        for row in (0, 3, 8):
            alone = layer.step(x[row : row + 1], Mamba2State(*(part[row : row + 1] for part in state)))
            assert torch.equal(together[0][row], alone[0][0])
            assert torch.equal(together[1].ssm[row], alone[1].ssm[0])


def test_stands_back_where_a_gradient_or_another_type_is_asked_for() -> None:
    layer = Mamba2(8, 4, head_dim=4)
    x, state, weights = torch.randn(2, 8), layer.initial_state(2), weights_of(layer)
    assert "no gradient of its own" in str(ops.explain("mamba2_step", x, *state, weights, 1.0)[0][1])
    assert layer.step(x, state)[0].requires_grad
    assert layer.step(x, state, constants=layer.constants())[0].requires_grad
    with torch.no_grad():
        assert ops.explain("mamba2_step", x, *state, weights, 1.0)[0] == ("native", None)
        for wrong, reason in (
            ((x.double(), *state, weights, 1.0), "contiguous float32"),
            ((x[:1].repeat(17, 1), *layer.initial_state(17), weights, 1.0), "16 rows"),
            ((x, state.conv, state.ssm[:1], weights, 1.0), "of the layer's shapes"),
            ((x, *state, weights._replace(D=weights.D[:-1]), 1.0), "shapes that belong together"),
            ((x, *state, weights._replace(groups=3), 1.0), "shapes that belong together"),
            ((x, *state, weights._replace(norm_y=None), 1.0), "shapes that belong together"),
        ):
            assert reason in str(ops.explain("mamba2_step", *wrong)[0][1])
        with pytest.raises(
            InputError, match="backend 'native' cannot run this call of mamba2_step: is for 1 to 16 rows"
        ):
            ops.mamba2_step(x[:1].repeat(17, 1), *layer.initial_state(17), weights, backend="native")
        with torch.autocast("cpu", torch.bfloat16):
            assert "autocast" in str(ops.explain("mamba2_step", x, *state, weights, 1.0)[0][1])
            assert layer.step(x, state)[0].dtype is torch.bfloat16
        with pytest.raises(InputError, match="tail"):
            layer.step(x, Mamba2State(state.conv[:, :2], state.ssm))


def test_has_no_plan_where_a_layer_is_more_than_its_weights() -> None:
    assert Mamba2(8, 4, head_dim=4, d_ssm=8).constants().plan is None
    assert Mamba2(8, 4, head_dim=4).double().constants().plan is None
    heard = []
    for name in ("in_proj", "out_proj", "norm"):
        layer = Mamba2(8, 4, head_dim=4)
        layer.get_submodule(name).register_forward_hook(lambda *_: heard.append("called"))
        with torch.no_grad():
            layer.step(torch.randn(1, 8), layer.initial_state(1), constants=layer.constants())
        assert layer.constants().plan is None
    assert len(heard) == 3


def test_constants_of_moved_weights_are_not_read_and_copies_have_their_own() -> None:
    torch.manual_seed(0)
    layer = Mamba2(8, 4, head_dim=4)
    x, state = torch.randn(1, 8), drawn(layer.initial_state(1))
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


@pytest.mark.skipif(_native.instruction_set() == "base", reason="this machine has one variant, which runs above")
@pytest.mark.parametrize("variant", ["avx2", "base"])
def test_every_variant_computes_the_same(variant: str) -> None:
    code = f"""
import torch
from longstate import Mamba2, ops
from longstate.ops import _native

assert _native.instruction_set() == {variant!r}, _native.instruction_set()
torch.manual_seed(0)
for gate in ("gate_first", "norm_first", "none"):
    layer = Mamba2(33, 21, d_inner=66, head_dim=11, n_groups=2, gate=gate)
    x, state = torch.randn(5, 33), [torch.randn_like(part) for part in layer.initial_state(5)]
    with torch.no_grad():
        weights = layer.constants().plan.weights
        found = ops.mamba2_step(x, *state, weights, backend="native")
        wide = type(weights)(*(part.double() if isinstance(part, torch.Tensor) else part for part in weights))
        expected = ops.mamba2_step(x.double(), *(part.double() for part in state), wide, backend="reference")
    for part, double in zip(found, expected):
        assert (part - double).abs().max() <= 2e-6 * double.abs().max()
"""
    ran = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "LONGSTATE_ISA": variant}, capture_output=True, text=True
    )
    if "AssertionError: base" in ran.stderr:
        pytest.skip(f"this machine cannot run {variant}")
    assert ran.returncode == 0, ran.stderr
