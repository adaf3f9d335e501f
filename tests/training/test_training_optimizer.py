import copy
from collections.abc import Mapping
from itertools import pairwise
from typing import ClassVar

import pytest
import torch
from torch import nn

from longstate._checks import InputError
from longstate.layers.base import SLOW, OptimizerRule, SequenceLayer
from longstate.models import BackboneConfig, ClassifierConfig, S4Config, S4DConfig, build
from longstate.training import parameter_groups, schedule
from longstate.training.optimizer import set_rates


def small(layer: S4Config | S4DConfig) -> nn.Module:
    return build(ClassifierConfig(d_input=1, classes=("a", "b"), backbone=BackboneConfig(4, 2, layer)))


def by_name(model: nn.Module, lr: float = 4e-3) -> dict[str, tuple[float, float]]:
    groups = parameter_groups(model, lr, 0.05)
    return {name: (group["lr"], group["weight_decay"]) for group in groups for name in group["param_names"]}


@pytest.mark.parametrize("layer", [S4DConfig(d_state=4), S4Config(d_state=4)], ids=["s4d", "s4"])
def test_every_parameter_is_in_exactly_one_group(layer: S4Config | S4DConfig) -> None:
    model = small(layer)
    groups = parameter_groups(model, 4e-3, 0.05)
    grouped = [parameter for group in groups for parameter in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == set(model.parameters())
    assert {name for group in groups for name in group["param_names"]} == dict(model.named_parameters()).keys()


@pytest.mark.parametrize("layer", [S4DConfig(d_state=4), S4Config(d_state=4)], ids=["s4d", "s4"])
def test_a_b_and_dt_learn_slowly_and_do_not_decay(layer: S4Config | S4DConfig) -> None:
    for name, setting in by_name(small(layer)).items():
        slow = name.rsplit(".", 1)[-1] in {"log_dt", "A_real", "A_imag", "P", "B"}
        assert setting == ((1e-3, 0.0) if slow else (4e-3, 0.05)), name


def test_a_deep_copy_keeps_the_rules() -> None:
    model = small(S4DConfig(d_state=4))
    assert by_name(copy.deepcopy(model)) == by_name(model)
    assert (1e-3, 0.0) in by_name(copy.deepcopy(model)).values()


def test_no_parameter_is_faster_than_the_run() -> None:
    assert {rate for rate, _ in by_name(small(S4DConfig(d_state=4)), lr=1e-4).values()} == {1e-4}


class Ruled(SequenceLayer):
    """A layer with one rule that keeps the run's decay and one that sets its own."""

    optimizer_rules: ClassVar[Mapping[str, OptimizerRule]] = {
        "slow": OptimizerRule(max_lr=1e-3),
        "decays": OptimizerRule(weight_decay=0.5),
        "tied": SLOW,
    }

    def __init__(self, tied: nn.Parameter) -> None:
        super().__init__()
        self.slow, self.decays = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
        self.tied = tied

    def forward(self, x, *, lengths=None, rate=None, starts=None):
        return x


def test_what_a_rule_leaves_open_is_the_runs_and_a_shared_parameter_counts_once() -> None:
    tied = nn.Parameter(torch.ones(1))
    groups = by_name(nn.ModuleList([Ruled(tied), Ruled(tied)]))
    assert groups["0.slow"] == (1e-3, 0.05)
    assert groups["1.decays"] == (4e-3, 0.5)
    assert groups["0.tied"] == (1e-3, 0.0)
    assert "1.tied" not in groups


def test_the_schedule_rises_falls_and_ends_at_its_floor() -> None:
    factors = [schedule(step, 100, warmup=0.1, final_lr=0.05) for step in range(100)]
    assert factors[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert max(factors) == factors[9] == 1.0
    assert all(a > b for a, b in pairwise(factors[9:]))
    assert factors[54] == pytest.approx(0.525)
    assert factors[-1] == pytest.approx(0.05)


@pytest.mark.parametrize(("warmup", "first", "last"), [(0.0, 0.75, 0.0), (1.0, 0.5, 1.0)])
def test_the_schedule_at_the_ends_of_warmup(warmup: float, first: float, last: float) -> None:
    total = 3 if warmup == 0 else 2
    assert schedule(0, total, warmup=warmup, final_lr=0.0) == pytest.approx(first)
    assert schedule(total - 1, total, warmup=warmup, final_lr=0.0) == pytest.approx(last)


def test_a_step_outside_the_run_is_refused() -> None:
    with pytest.raises(InputError, match="step 5 is asked for, but the run has steps 0 to 4"):
        schedule(5, 5, warmup=0.1, final_lr=0.0)


def test_every_group_moves_in_proportion() -> None:
    optimizer = torch.optim.AdamW(parameter_groups(small(S4DConfig(d_state=4)), 4e-3, 0.05))
    set_rates(optimizer, 0.5)
    set_rates(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25 * 1e-3, 0.25 * 4e-3]
