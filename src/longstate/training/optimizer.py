"""The optimiser: which parameters take which rate, and how the rate moves."""

import math
from typing import Any

import torch
from torch import nn

from longstate._checks import InputError
from longstate.layers.base import GridLayer, OptimizerRule, SequenceLayer

_RUN = OptimizerRule()


def parameter_groups(model: nn.Module, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """The parameters of a model, each in exactly one group for the optimiser.

    A layer says in its class-level `optimizer_rules` which of its own parameters take a smaller rate and which decay:
    lr = min(max_lr, lr). Rules go by name, so a deep copy of the model keeps them.

    Args:
        model: Any module; rules are read from every `SequenceLayer` in it.
        lr: Learning rate of parameters without a rule, and the most that any takes.
        weight_decay: Of parameters whose rule names none.

    Returns:
        Groups with `params`, `param_names`, `lr`, `peak_lr` (the same, for a schedule to read) and `weight_decay`.

    Source:
        Gu et al., arXiv 2111.00396, section 4 and appendix D (A, B and dt learn slowly, without decay).

    Example:
        >>> from longstate import S4D
        >>> from longstate.training import parameter_groups
        >>> [(group["lr"], group["weight_decay"]) for group in parameter_groups(S4D(4), 4e-3, 0.05)]
        [(0.001, 0.0), (0.004, 0.05)]
    """
    rules = {
        parameter: type(module).optimizer_rules[name]
        for module in model.modules()
        if isinstance(module, SequenceLayer | GridLayer) and type(module).optimizer_rules
        for name, parameter in module.named_parameters()
        if name in type(module).optimizer_rules
    }
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        rule = rules.get(parameter, _RUN)
        rate = lr if rule.max_lr is None else min(rule.max_lr, lr)
        decay = weight_decay if rule.weight_decay is None else rule.weight_decay
        group = groups.setdefault((rate, decay), {"params": [], "param_names": []})
        group["params"].append(parameter)
        group["param_names"].append(name)
    return [
        group | {"lr": rate, "peak_lr": rate, "weight_decay": decay} for (rate, decay), group in sorted(groups.items())
    ]


def schedule(step: int, total_steps: int, *, warmup: float, final_lr: float) -> float:
    """The share of its largest rate that a parameter takes at a step: linear warm-up, then half a cosine.

        w = round(warmup T);    (t + 1) / w  for t < w,    f + (1 - f) (1 + cos(pi (t + 1 - w) / (T - w))) / 2  after

    A pure function of the step: nothing of it has to be saved for a run to continue.

    Args:
        step: t, the number of steps done.
        total_steps: T, the steps of the whole run.
        warmup: Share of all steps in which the rate rises.
        final_lr: f, the share left at the last step.

    Returns:
        A factor in [0, 1].

    Raises:
        InputError: If `step` is not one of the run.

    Example:
        >>> from longstate.training import schedule
        >>> [round(schedule(step, 6, warmup=1 / 3, final_lr=0.0), 2) for step in range(6)]
        [0.5, 1.0, 0.85, 0.5, 0.15, 0.0]
    """
    if not 0 <= step < total_steps:
        raise InputError(f"step {step} is asked for, but the run has steps 0 to {total_steps - 1}; train more epochs.")
    rising = round(warmup * total_steps)
    if step < rising:
        return (step + 1) / rising
    done = (step + 1 - rising) / (total_steps - rising)
    return final_lr + (1 - final_lr) * 0.5 * (1 + math.cos(math.pi * done))


def set_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Give every group `factor` times its largest rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor
