"""Filters written by a network: the fast path against the equation tap by tap."""

import pytest
import torch
from torch import Tensor

from longstate import InputError, ops


def network(taps: int = 9, emb: int = 3, width: int = 4, layers: int = 2, features: int = 5) -> dict[str, object]:
    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64)

    return {
        "z": draw(taps, emb),
        "t": torch.linspace(0, 1, taps, dtype=torch.float64),
        "first": (draw(width, emb), draw(width)),
        "inner": (draw(layers, width, width), draw(layers, width)),
        "last": draw(features, width),
        "frequency": draw(width),
        "decay": draw(features).abs(),
        "shift": 0.1,
    }


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_it_is_its_equation(layers: int) -> None:
    given = network(layers=layers)
    found, expected = (ops.implicit_filter(**given, backend=backend) for backend in ("torch", "reference"))
    assert found.shape == (5, 9)
    assert (found - expected).abs().max() <= 1e-12 * expected.abs().max()


def test_gradients() -> None:
    given = network(taps=4, width=3, features=2)
    leaves = [given["z"], *given["first"], *given["inner"], given["last"], given["frequency"], given["decay"]]
    leaves = [leaf.requires_grad_() for leaf in leaves]

    def run(z, W0, b0, W, b, last, frequency, decay) -> Tensor:
        return ops.implicit_filter(z, given["t"], (W0, b0), (W, b), last, frequency, decay, 0.1)

    assert torch.autograd.gradcheck(run, leaves, fast_mode=True)


def test_it_ignores_autocast_and_half_precision() -> None:
    given = network()
    single = {
        name: tuple(p.float() for p in part) if isinstance(part, tuple) else part.float() if name != "shift" else part
        for name, part in given.items()
    }
    plain = ops.implicit_filter(**single)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ops.implicit_filter(**single), plain)
    half = {**single, "z": single["z"].bfloat16()}
    assert ops.implicit_filter(**half).dtype is torch.float32


def test_errors_say_what_to_do() -> None:
    with pytest.raises(InputError, match=r"last \(4, 5\), .* \(H, width\), .* check which axis is the width"):
        ops.implicit_filter(**{**network(), "last": torch.zeros(4, 5)})
