"""The module: torch's dropout in meaning, under torch's generator, whoever draws the numbers."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from longstate.layers import Dropout
from longstate.ops import _native

LARGE, SMALL = (300, 100), (30, 10)


@pytest.mark.parametrize("shape", [LARGE, SMALL])
def test_torchs_generator_decides(shape: tuple[int, int]) -> None:
    dropout, x = Dropout(0.3), torch.randn(shape)
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append((dropout(x), dropout(x)))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    assert not torch.equal(found[0][0], found[0][1])
    assert not torch.equal(found[0][0], found[2][0])


@pytest.mark.parametrize("shape", [LARGE, SMALL])
def test_in_eval_mode_and_without_a_share_nothing_is_dropped(shape: tuple[int, int]) -> None:
    x = torch.randn(shape)
    state = torch.random.get_rng_state()
    assert torch.equal(Dropout(0.3).eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_kernel_is_taken_where_it_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    dropout = Dropout(0.5)
    calls = []
    monkeypatch.setattr(nn.Dropout, "forward", lambda self, x: calls.append(x.shape) or x)
    dropout(torch.randn(LARGE))
    assert bool(calls) is not _native.is_built()
    calls.clear()
    dropout(torch.randn(SMALL))
    dropout(torch.randn(LARGE, dtype=torch.float64))
    torch.vmap(dropout, randomness="different")(torch.randn(2, *LARGE))
    assert len(calls) == 3


def test_a_checkpoint_draws_the_same_again() -> None:
    net = nn.Sequential(nn.Linear(100, 100), Dropout(0.5), nn.Linear(100, 100))
    x = torch.randn(LARGE, requires_grad=True)
    slopes = []
    for run in (net, lambda x: checkpoint(net, x, use_reentrant=False)):
        torch.manual_seed(5)
        slopes.append(torch.autograd.grad(run(x).square().sum(), x)[0])
    torch.testing.assert_close(*slopes)


def test_a_compiled_program_has_torchs_dropout() -> None:
    compiled = torch.compile(Dropout(0.5), backend="eager", fullgraph=True)
    share = (compiled(torch.ones(LARGE)) == 0).float().mean()
    assert abs(float(share) - 0.5) < 0.05
