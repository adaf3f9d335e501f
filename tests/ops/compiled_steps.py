"""What the tests of the compiled steps of Mamba and Mamba-2 share."""

import copy
import os
import subprocess
import sys
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor

from longstate import InputError, Mamba, Mamba2, ops
from longstate.layers.step_branches import step_branches
from longstate.models import Backbone, BackboneConfig

Parts = TypeVar("Parts", bound=tuple[Any, ...])


def drawn(state: Parts) -> Parts:
    build: Any = type(state)
    return build(*map(torch.randn_like, state))


def widened(parts: Parts) -> Parts:
    build: Any = type(parts)
    return build(*(part.double() if isinstance(part, Tensor) else part for part in parts))


def weights_of(layer: Mamba | Mamba2) -> Any:
    plan = layer.constants().plan
    assert plan is not None
    return plan.weights


def assert_close(found, expected) -> None:
    for part, wide in zip(found, expected, strict=True):
        assert part.dtype is torch.float32
        assert part.shape == wide.shape
        if part.numel():
            assert (part - wide).abs().max() <= 2e-6 * wide.abs().max() + 1e-6


def check_layer_steps(layer: Any, *, known: bool) -> None:
    """As the modules do in double."""
    x, state = torch.randn(3, layer.d_model), drawn(layer.initial_state(3))
    with torch.no_grad():
        constants = layer.constants(rate=0.7) if known else None
        y, new = layer.step(x, state, rate=None if known else 0.7, constants=constants)
    same_y, same = copy.deepcopy(layer).double().step(x.double(), widened(state), rate=0.7)
    assert_close((y, *new), (same_y, *same))


def check_stack(config: BackboneConfig) -> Backbone:
    """All layers in one call do what each does in double, and keep the states that came in."""
    backbone = Backbone(config).eval()
    wide, x = copy.deepcopy(backbone).double(), torch.randn(3, config.d_model)
    state = tuple(map(drawn, backbone.initial_state(3)))
    kept = [part.clone() for each in state for part in each]
    with torch.no_grad():
        y, new = step_branches(backbone.layers, x, state, backbone.constants().layers)
        same_y, same = wide.step(x.double(), tuple(map(widened, state)))
    assert [type(part) for part in new] == [type(part) for part in state]
    assert_close((backbone.norm(y), *sum(new, ())), (same_y, *sum(same, ())))
    assert all(torch.equal(part, before) for part, before in zip(sum(state, ()), kept, strict=True))
    return backbone


def check_rows(layer: Any) -> None:
    """A row says the same whatever is beside it."""
    x, state = torch.randn(9, layer.d_model), drawn(layer.initial_state(9))
    with torch.no_grad():
        together = layer.step(x, state)
        for row in (0, 3, 8):
            alone = layer.step(x[row : row + 1], type(state)(*(part[row : row + 1] for part in state)))
            assert torch.equal(together[0][row], alone[0][0])
            assert torch.equal(together[1].ssm[row], alone[1].ssm[0])


def check_stands_back(name: str, layer: Any, **wrong_weights: Any) -> None:
    """Where a gradient, another type or other shapes are asked for; `wrong_weights` replace one part each."""
    x, state, weights = torch.randn(2, layer.d_model), drawn(layer.initial_state(2)), weights_of(layer)
    many = x[:1].repeat(17, 1), *layer.initial_state(17)
    assert "no gradient of its own" in str(ops.explain(name, x, *state, weights, 1.0)[0][1])
    assert layer.step(x, state)[0].requires_grad
    assert layer.step(x, state, constants=layer.constants())[0].requires_grad
    with torch.no_grad():
        assert ops.explain(name, x, *state, weights, 1.0)[0] == ("native", None)
        mixed = [weights._replace(**{part: value}) for part, value in wrong_weights.items()]
        for wrong, reason in (
            ((x.double(), *state, weights, 1.0), "contiguous float32"),
            ((*many, weights, 1.0), "16 rows"),
            ((x, state.conv, state.ssm[:1], weights, 1.0), "of the layer's shapes"),
            *(((x, *state, one, 1.0), "shapes that belong together") for one in mixed),
        ):
            assert reason in str(ops.explain(name, *wrong)[0][1])
        with pytest.raises(InputError, match=f"backend 'native' cannot run this call of {name}: is for 1 to 16 rows"):
            getattr(ops, name)(*many, weights, backend="native")
        with torch.autocast("cpu", torch.bfloat16):
            assert "autocast" in str(ops.explain(name, x, *state, weights, 1.0)[0][1])
            assert layer.step(x, state)[0].dtype is torch.bfloat16
        with pytest.raises(InputError, match="tail"):
            layer.step(x, state._replace(conv=state.conv[:, :2]))


def check_constants(layer: Any) -> None:
    """Those of moved weights are not read, and copies have their own."""
    x, state = torch.randn(1, layer.d_model), drawn(layer.initial_state(1))
    with torch.no_grad():
        constants = layer.constants()
        y = layer.step(x, state, constants=constants)[0]
        copied = copy.deepcopy(constants)
        assert copied.plan.weights.into.data_ptr() != constants.plan.weights.into.data_ptr()
        assert torch.equal(layer.step(x, state, constants=copied)[0], y)
        layer.share_memory()
        assert "take new constants" in str(constants.plan.why_not(x, *state, 1.0))
        torch.testing.assert_close(layer.step(x, state, constants=constants)[0], y)


def check_variant(variant: str, name: str, layers: str) -> None:
    """A variant of the kernels computes the same, in its own process, for every layer that `layers` makes."""
    code = f"""
import torch
from longstate import Mamba, Mamba2, ops
from longstate.ops import _native

assert _native.instruction_set() == {variant!r}, _native.instruction_set()
torch.manual_seed(0)
for layer in ({layers}):
    x, state = torch.randn(5, 33), [torch.randn_like(part) for part in layer.initial_state(5)]
    with torch.no_grad():
        weights = layer.constants().plan.weights
        found = ops.{name}(x, *state, weights, backend="native")
        wide = type(weights)(*(part.double() if isinstance(part, torch.Tensor) else part for part in weights))
        expected = ops.{name}(x.double(), *(part.double() for part in state), wide, backend="reference")
    for part, double in zip(found, expected):
        assert (part - double).abs().max() <= 2e-6 * double.abs().max()
"""
    ran = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "LONGSTATE_ISA": variant}, capture_output=True, text=True
    )
    if "AssertionError: base" in ran.stderr:
        pytest.skip(f"this machine cannot run {variant}")
    assert ran.returncode == 0, ran.stderr
