"""Residual blocks around time-invariant systems in one call of the kernel, and when it stands back."""

import copy
import os
import pickle
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from systems import KINDS, random_system
from torch.nn import functional as F

from longstate import InputError, ops
from longstate.ops import _native
from longstate.ops.lti_stack import LTIBlock, LTIStack, Norm, lti_stack

pytestmark = pytest.mark.skipif(_native.library() is None, reason="no compiled kernels on this machine")


def draw_norm(kind: str, features: int) -> Norm:
    weight, bias = torch.randn(features), torch.randn(features)
    return {"none": Norm("none"), "layer": Norm("layer", 1e-4, weight, bias), "rms": Norm("rms", 1e-5, weight)}[kind]


def draw_block(kind: str, norm: str, activation: str, output: str, features: int, channels: int) -> LTIBlock:
    channels = 1 if output == "none" else channels
    system = ops.lti_constants(random_system(kind, features, 4, channels), torch.float32)
    block = LTIBlock(draw_norm(norm, features), system, activation, scale=0.7)
    if output == "none":
        return block
    rows = 2 * features if output == "glu" else features
    weight, bias = torch.randn(rows, channels * features), torch.randn(rows) if output == "glu" else None
    return block._replace(weight=weight, bias=bias, gated=output == "glu")


def draw(batch: int = 2, features: int = 5, **options: str) -> tuple[torch.Tensor, list[torch.Tensor], LTIStack]:
    given = {"kind": "complex", "norm": "layer", "activation": "gelu", "output": "glu"} | options
    blocks = [draw_block(**given, features=features, channels=2) for _ in range(2)]
    states = [torch.randn(batch, *block.system.B.shape) for block in blocks]
    return torch.randn(batch, features), states, LTIStack(blocks, draw_norm(given["norm"], features))


def wide(part):
    if isinstance(part, torch.Tensor):
        return part.double()
    if isinstance(part, LTIStack):
        return LTIStack([wide(block) for block in part.blocks], wide(part.norm))
    return type(part)(*map(wide, part)) if isinstance(part, tuple) else part


@given(
    kind=st.sampled_from(KINDS),
    norm=st.sampled_from(["none", "layer", "rms"]),
    activation=st.sampled_from(["none", "gelu", "gelu_tanh"]),
    output=st.sampled_from(["none", "linear", "glu"]),
    batch=st.integers(1, 3),
    features=st.sampled_from([1, 7, 33]),
    seed=st.integers(0, 99),
)
def test_equals_the_equation(
    kind: str, norm: str, activation: str, output: str, batch: int, features: int, seed: int
) -> None:
    torch.manual_seed(seed)
    x, states, stack = draw(batch, features, kind=kind, norm=norm, activation=activation, output=output)
    with torch.no_grad():
        y, new = lti_stack(x, states, stack, backend="native")
    expected_y, expected = lti_stack(x.double(), [part.double() for part in states], wide(stack), backend="reference")
    # A norm of one feature divides what rounding left of it by the root of eps.
    slack = 2e-3 if norm == "layer" and features == 1 else 2e-5
    assert (y - expected_y).abs().max() <= slack * (expected_y.abs().max() + 1)
    for found, wanted in zip(new, expected, strict=True):
        assert (found - wanted).abs().max() <= slack * (wanted.abs().max() + 1)


@pytest.mark.parametrize(("activation", "approximate"), [("gelu", "none"), ("gelu_tanh", "tanh")])
def test_gelu_is_exact_to_rounding(activation: str, approximate: str) -> None:
    x = torch.linspace(-9, 9, 36001)
    one, zero, tiny = torch.ones(x.numel(), 1), torch.zeros(x.numel(), 1), 2.0**-40
    system = ops.StepConstants(A=zero, B=zero, C=zero[None], D=one.mT / tiny)
    stack = LTIStack([LTIBlock(Norm("none"), system, activation)], Norm("none"))
    with torch.no_grad():
        y, _ = lti_stack(tiny * x[None], [zero[None]], stack, backend="native")
    expected = F.gelu(x.double(), approximate=approximate)
    assert ((y[0] - expected).abs() <= 2e-7 * expected.abs().clamp(min=1)).all()
    assert ((F.gelu(x, approximate=approximate) - expected).abs().max()) > 1e-8  # what float32 does


def test_many_rows_in_the_thread_pool() -> None:
    x, states, stack = draw(64, 40)
    with torch.no_grad():
        y, new = lti_stack(x, states, stack, backend="native")
        same_y, same = lti_stack(x, states, stack, backend="reference")
    torch.testing.assert_close(y, same_y, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(new, same, rtol=1e-4, atol=1e-4)


def test_numbers_may_change_where_they_are() -> None:
    x, states, stack = draw()
    weight = stack.blocks[0].weight
    assert weight is not None
    with torch.no_grad():
        before, _ = lti_stack(x, states, stack, backend="native")
        weight.mul_(2.0)
        after, _ = lti_stack(x, states, stack, backend="native")
        assert not torch.allclose(before, after)
        torch.testing.assert_close(after, lti_stack(x, states, stack, backend="reference")[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda stack: pickle.loads(pickle.dumps(stack))])
def test_a_copy_has_memory_of_its_own(copied) -> None:
    x, states, stack = draw()
    twin = copied(stack)
    assert set(twin.pointers).isdisjoint(stack.pointers)
    with torch.no_grad():
        expected, _ = lti_stack(x, states, stack, backend="native")
        for weight in stack.weights:
            weight.fill_(torch.nan)
        assert torch.equal(lti_stack(x, states, twin, backend="native")[0], expected)


def reason(x: torch.Tensor, states: list[torch.Tensor], stack: LTIStack) -> str:
    return str(ops.explain("lti_stack", x, states, stack)[0][1])


def test_stands_back_where_the_kernel_would_be_wrong() -> None:
    x, states, stack = draw()
    assert "no_grad or inference_mode" in reason(x, states, stack)
    with pytest.raises(InputError, match="cannot run this call of lti_stack: needs no_grad or inference_mode"):
        lti_stack(x, states, stack, backend="native")
    with torch.no_grad():
        assert reason(x, states, stack) == "None"
        assert "contiguous float32" in reason(x.double(), states, stack)
        assert "contiguous float32" in reason(x, [part.transpose(1, 2) for part in states], stack)
        assert "one state of its shape" in reason(x, [part[:1] for part in states], stack)
        assert "one state of its shape" in reason(x[:, :4].contiguous(), states, stack)
        assert "one state of its shape" in reason(x, states[:1], stack)
        with torch.autocast("cpu"):
            assert "autocast asks for another type" in reason(x, states, stack)
        assert "where they were" in reason(x, states, wide(stack))
        weight = stack.blocks[1].weight
        assert weight is not None
        weight.data = weight.data.clone()
        assert "where they were" in reason(x, states, stack)
        mapped = torch.vmap(lambda x: lti_stack(x, states, stack)[0])(torch.stack([x, 2 * x]))
        torch.testing.assert_close(mapped[0], lti_stack(x, states, stack)[0], rtol=1e-5, atol=1e-5)
        x, states, stack = draw(1 << 20, 2, kind="real", output="none")
        assert "1048576 rows with a matrix of 8 numbers are PyTorch's" in reason(x, states, stack)


@pytest.mark.parametrize("isa", ["base", "avx2"])
def test_every_variant(isa: str) -> None:
    code = """
import torch
from test_ops_lti_stack import draw, lti_stack
from longstate.ops import _native
for features in (3, 40):
    torch.manual_seed(0)
    x, states, stack = draw(3, features)
    with torch.no_grad():
        y, new = lti_stack(x, states, stack, backend="native")
        same_y, same = lti_stack(x, states, stack, backend="reference")
    torch.testing.assert_close(y, same_y, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(new, same, rtol=1e-4, atol=1e-4)
print(_native.instruction_set())
"""
    environment = {**os.environ, "LONGSTATE_ISA": isa}
    environment["PYTHONPATH"] = os.pathsep.join([os.path.dirname(__file__), environment.get("PYTHONPATH", "")])
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() in (isa, "base")
