"""A linear map to two halves: the values and derivatives of the map, without putting gradients together."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from longstate import Mamba
from longstate.layers.halves import linear_halves


class Calls(TorchDispatchMode):
    """The names of the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(5,), (2, 5), (2, 0)])
def test_values_and_gradients_are_those_of_the_map(bias: bool, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(3, 8, bias=bias, dtype=torch.float64)
    x = torch.randn(*shape, 3, dtype=torch.float64, requires_grad=True)
    given = [x, *linear.parameters()]
    found, expected = linear_halves(linear, x), linear(x).chunk(2, dim=-1)
    ways = [torch.randn_like(half) for half in expected]
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, given, ways), torch.autograd.grad(expected, given, ways))
    torch.autograd.gradcheck(lambda x, *_: linear_halves(linear, x), given)
    torch.autograd.gradgradcheck(lambda x, *_: linear_halves(linear, x), given)


def test_only_what_is_asked_for_is_computed() -> None:
    torch.manual_seed(0)
    linear, x = nn.Linear(3, 8), torch.randn(2, 5, 3)
    first, _ = linear_halves(linear, x)
    first.sum().backward()
    expected = torch.zeros(8, 3)
    expected[:4] = x.sum((0, 1))
    torch.testing.assert_close(linear.weight.grad, expected)
    linear.requires_grad_(False)
    assert not any(half.requires_grad for half in linear_halves(linear, x))


def test_gradients_are_not_put_together() -> None:
    linear, x = nn.Linear(3, 8, bias=False), torch.randn(2, 5, 3, requires_grad=True)
    names = []
    for halves in (linear_halves(linear, x), linear(x).chunk(2, dim=-1)):
        with Calls() as calls:
            torch.autograd.backward(halves, [torch.ones(2, 5, 4)] * 2)
        names.append(calls.names)
    assert ["cat" in calls for calls in names] == [False, True]
    layer, y = Mamba(8), torch.ones(1, 5, 8)
    with Calls() as calls:
        layer(y).sum().backward()
    assert calls.names.count("cat") == 1  # of steps and vectors, which are narrow


def test_a_module_that_somebody_listens_to_is_called() -> None:
    linear, x, seen = nn.Linear(3, 8), torch.randn(2, 5, 3, requires_grad=True), []
    linear.register_full_backward_hook(lambda *_: seen.append("backward"))
    linear_halves(linear, x)[0].sum().backward()
    linear.register_forward_hook(lambda *_: seen.append("forward"))
    linear_halves(linear, x)
    assert seen == ["backward", "forward"]
    assert linear_halves(nn.Sequential(linear), x)[1].shape == (2, 5, 4)


def test_under_autocast_products_are_in_its_type() -> None:
    linear, x = nn.Linear(3, 8), torch.randn(2, 5, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        halves = linear_halves(linear, x)
    assert {half.dtype for half in halves} == {torch.bfloat16}
