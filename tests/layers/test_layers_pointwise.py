"""The output stages over many elements: what `ops.gelu_map` does for them, and when the modules do it themselves."""

from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from longstate import S4D, ops
from longstate.layers import Dropout, build_output

MAPPED = ("glu", "linear", "full_glu", "half_glu1", "half_glu2")


def stage(kind: str, **options: float) -> nn.Module:
    return build_output(kind, 32, 32, options.get("dropout", 0.0))


def many(requires_grad: bool = True, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(2, 1100, 32, dtype=dtype, requires_grad=requires_grad)


def plainly(module: nn.Module, kind: str, y: Tensor) -> Tensor:
    """The stage as its equations, without dropout."""
    weight, bias = module.parameters()
    g = F.gelu(y, approximate="none" if kind in ("glu", "linear") else "tanh")
    h = F.linear(g, weight, bias)
    if kind == "linear":
        return h
    if kind in ("glu", "full_glu"):
        return F.glu(h, dim=-1)
    return (g if kind == "half_glu1" else y) * h.sigmoid()


def calls_of_the_operator(module: nn.Module, y: Tensor) -> int:
    with mock.patch.object(ops, "gelu_map", wraps=ops.gelu_map) as operator:
        module(y)
    return operator.call_count


@pytest.mark.parametrize("kind", MAPPED)
def test_many_elements_are_mapped_at_once(kind: str) -> None:
    module, y = stage(kind).double(), many(dtype=torch.float64)
    assert calls_of_the_operator(module, y) == 1
    inputs = (y, *module.parameters())
    found, expected = module(y), plainly(module, kind, y)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    slopes = [torch.autograd.grad(out.sin().sum(), inputs) for out in (found, expected)]
    torch.testing.assert_close(*slopes, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("kind", MAPPED)
def test_few_elements_and_programs_are_not(kind: str) -> None:
    module, y = stage(kind), many(requires_grad=False)
    assert calls_of_the_operator(module, y[:, :1]) == 0
    torch.testing.assert_close(module(y)[:, :1], module(y[:, :1]))
    exported = torch.export.export(module, (y,)).module()
    torch.testing.assert_close(exported(y), module(y))


@pytest.mark.parametrize("kind", MAPPED)
def test_dropout_drops_as_modules_do(kind: str) -> None:
    module, y = stage(kind, dropout=0.5), many()
    assert calls_of_the_operator(module, y) == 0
    torch.manual_seed(1)
    found = module(y)
    torch.manual_seed(1)
    dropped = F.gelu(y, approximate="none" if kind in ("glu", "linear") else "tanh")
    h = F.linear(Dropout(0.5)(dropped), *module.parameters())
    if kind == "linear":
        torch.testing.assert_close(found, h)
    elif kind.endswith("full_glu") or kind == "glu":
        torch.testing.assert_close(found, F.glu(h, dim=-1))
    else:
        assert (found == 0).float().mean() > 0.4 or kind == "half_glu2"
    assert calls_of_the_operator(module.eval(), y) == 1


@pytest.mark.parametrize("kind", MAPPED)
def test_autocast_maps_in_its_type(kind: str) -> None:
    module, y = stage(kind), many()
    with torch.autocast("cpu", torch.bfloat16):
        assert calls_of_the_operator(module, y) == 0
        assert torch.equal(module(y), plainly(module, kind, y))
        assert module(y).dtype is plainly(module, kind, y).dtype


@pytest.mark.parametrize("kind", MAPPED)
def test_half_precision_is_as_before(kind: str) -> None:
    module, y = stage(kind).bfloat16(), many(dtype=torch.bfloat16)
    assert torch.equal(module(y), plainly(module, kind, y))


@pytest.mark.parametrize("kind", MAPPED)
def test_a_map_that_is_more_than_a_linear_is_called(kind: str) -> None:
    y, seen = many(), []
    for hook in ("register_forward_hook", "register_forward_pre_hook"):
        module = stage(kind)
        linear = next(part for part in module.modules() if isinstance(part, nn.Linear))
        getattr(linear, hook)(lambda *_: seen.append(1))
        module(y)
    assert len(seen) == 2
    module = stage(kind)
    linear = next(part for part in module.modules() if isinstance(part, nn.Linear))
    nn.utils.parametrizations.weight_norm(linear)
    assert calls_of_the_operator(module, y) == 0


def test_names_of_parameters_stay() -> None:
    assert list(stage("linear").state_dict()) == ["2.weight", "2.bias"]
    assert list(stage("glu").state_dict()) == list(stage("half_glu1").state_dict()) == ["linear.weight", "linear.bias"]


@pytest.mark.parametrize("kind", MAPPED)
def test_a_long_sequence_is_its_chunks_and_its_steps(kind: str) -> None:
    layer = S4D(32, 4, output=kind).double()
    x = torch.randn(2, 1100, 32, dtype=torch.float64)
    with torch.no_grad():
        whole, state = layer(x), layer.initial_state(2)
        for chunk in (slice(0, 1090), slice(1090, 1098)):
            y, state = layer.forward_with_state(x[:, chunk], state)
            torch.testing.assert_close(y, whole[:, chunk], rtol=1e-10, atol=1e-10)
        y, _ = layer.step(x[:, 1098], state)
    torch.testing.assert_close(y, whole[:, 1098], rtol=1e-10, atol=1e-10)
