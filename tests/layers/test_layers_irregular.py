"""S4D on irregular samples beyond the laws: programs, types, and what is refused."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from longstate import S4, S4D, InputError
from longstate.layers import LTIState


class Views(torch.nn.Module):
    def __init__(self, layer: S4D) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, rate: Tensor, state: LTIState, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y, after = self.layer.forward_with_state(x, state, lengths=lengths, rate=rate)
        y_t, after_step = self.layer.step(x[:, 0], after, rate=rate[:, 0])
        return y, y_t, after_step.x


@pytest.mark.parametrize("rule", ["zoh", "bilinear"])
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch about its own tracing
def test_it_becomes_a_program(rule: str) -> None:
    torch.compiler.reset()
    layer = S4D(3, 4, rule=rule).double()
    x, rate = torch.randn(2, 9, 3).double(), torch.rand(2, 9).double()
    arguments = x, rate, layer.initial_state(2), torch.tensor([9, 4])
    module = Views(layer)
    expected = module(*arguments)
    exported = torch.export.export(module, arguments).module()(*arguments)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")(*arguments)
    for found in (exported, compiled):
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    slopes = [
        torch.autograd.grad(torch.stack([y.square().sum() for y in outputs]).sum(), list(layer.parameters()))
        for outputs in (expected, compiled)
    ]
    for a, b in zip(*slopes, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    torch.compiler.reset()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_types_are_those_of_the_input_and_the_state(dtype: torch.dtype) -> None:
    layer = S4D(3, 4).to(dtype)
    for rate_dtype in (torch.float16, torch.float32, torch.float64):
        y, after = layer.forward_with_state(
            torch.randn(2, 5, 3, dtype=dtype), layer.initial_state(2), rate=torch.ones(2, 5, dtype=rate_dtype)
        )
        assert y.dtype is after.x.dtype is dtype


def test_time_can_be_learned() -> None:
    """Intervals have gradients: those that made a target are found again."""
    layer = S4D(2, 8, init="real", dt_min=0.05, output="none").double()
    x = torch.randn(1, 12, 2).double()
    truth = 0.5 + torch.rand(1, 12).double()
    target = layer(x, rate=truth).detach()
    log_rate = torch.zeros(1, 12, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_rate], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = (layer(x, rate=log_rate.exp()) - target).square().sum()
        value.backward()
        return value

    before = float(loss().detach())
    optimizer.step(loss)
    assert float(loss().detach()) <= 1e-6 * before


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda s, x: s(x, rate=torch.ones(2, 8)), r"of shape \(2, 8\), but floating numbers of shape \(2, 9\) are"),
        (lambda s, x: s(x, rate=torch.ones(2, 9).long()), "`rate` is torch.int64 of shape .* but floating numbers"),
        (lambda s, x: s(x, rate=torch.tensor(2.0)), r"of shape \(\), but floating numbers of shape \(2, 9\)"),
        (lambda s, x: s(x, rate=-torch.ones(2, 9)), "`rate` holds -1.0, but an interval is at least 0; sort the elem"),
        (lambda s, x: s(x, rate=torch.full((2, 9), torch.nan)), "`rate` holds nan, but an interval is at least 0"),
        (lambda s, x: s(x, rate=torch.full((2, 9), torch.inf)), "`rate` holds inf, but an interval is finite; sort"),
        (
            lambda s, x: s.step(x[:, 0], s.initial_state(2), rate=torch.ones(2), constants=s.constants()),
            r"`rate` is a tensor of shape \(2,\) beside `constants`, but constants already .* leave `constants` out",
        ),
        (
            lambda s, x: s.step(x[:, 0], s.initial_state(2), rate=torch.ones(2, 9)),
            r"of shape \(2, 9\), but floating numbers of shape \(2,\) are needed",
        ),
        (lambda s, x: s.constants(rate=torch.ones(2)), r"`rate` is a tensor of shape \(2,\), but S4D .* one number"),
        (
            lambda s, x: S4(4, 8)(x, rate=torch.ones(2, 9)),
            "S4 is time invariant and takes one number; pass a float, resample .*, or take S4D, whose steps may vary",
        ),
    ],
)
def test_errors_say_what_to_do(call: Callable[[S4D, Tensor], object], text: str) -> None:
    with pytest.raises(InputError, match=text):
        call(S4D(4, 8), torch.zeros(2, 9, 4))
