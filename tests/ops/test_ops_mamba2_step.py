"""The compiled step of Mamba-2, and when it stands back."""

import copy
from typing import Any, Literal

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
from torch import Tensor, nn

from longstate import Mamba2, ops
from longstate.models import BackboneConfig, LanguageModel, LanguageModelConfig, Mamba2Config, MambaConfig
from longstate.ops import _native

pytestmark = pytest.mark.skipif(_native.library() is None, reason="no compiled kernels on this machine")


def made(width: int, **options: Any) -> Mamba2:
    """A layer whose skips and norm are not ones."""
    layer = Mamba2(width, **options)
    nn.init.normal_(layer.D)
    if layer.norm.weight is not None:
        nn.init.normal_(layer.norm.weight)
    return layer


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
    check_layer_steps(made(40, d_state=12, head_dim=8, n_groups=2), known=constants)


@pytest.mark.parametrize("norm", ["rms", "layer"])
@pytest.mark.parametrize("mixed", [False, True])
def test_a_stack_steps_as_its_layers_do(norm: Literal["rms", "layer"], mixed: bool) -> None:
    torch.manual_seed(0)
    layer = Mamba2Config(d_state=8, head_dim=8)
    pattern = (layer, layer, MambaConfig(), layer) if mixed else (layer,) * 4
    check_stack(BackboneConfig(d_model=24, n_layers=1, pattern=pattern, norm=norm, branch_scale=0.5))


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
    check_rows(made(32, d_state=20, head_dim=16))


def test_stands_back_where_a_gradient_or_another_type_is_asked_for() -> None:
    layer = Mamba2(8, 4, head_dim=4)
    check_stands_back("mamba2_step", layer, D=weights_of(layer).D[:-1], groups=3, norm_y=None)


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
    check_constants(Mamba2(8, 4, head_dim=4))


@pytest.mark.skipif(_native.instruction_set() == "base", reason="this machine has one variant, which runs above")
@pytest.mark.parametrize("variant", ["avx2", "base"])
def test_every_variant_computes_the_same(variant: str) -> None:
    options = "d_inner=66, head_dim=11, n_groups=2"
    gates = ("gate_first", "norm_first", "none")
    check_variant(variant, "mamba2_step", ", ".join(f"Mamba2(33, 21, {options}, gate={gate!r})" for gate in gates))
