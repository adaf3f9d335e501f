"""A step of a stack of branches, in which Mamba or Mamba-2 layers that follow each other are one compiled call."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from longstate import ops
from longstate.layers.mamba import Mamba
from longstate.layers.mamba2 import Mamba2
from longstate.layers.norm import RMSNorm
from longstate.layers.residual import Residual

linear_step = ops.linear_step
"""A linear map of one element, for models, whose head is the largest product of a step."""


def step_branches(
    layers: Iterable[nn.Module], x_t: Tensor, state: tuple[Any, ...], constants: tuple[Any, ...]
) -> tuple[Tensor, tuple[Any, ...]]:
    """The steps of residual layers after each other: the same numbers, to rounding.

    Args:
        layers: The stack.
        x_t: One element (batch, d_model).
        state: Of the layers.
        constants: Of the layers.

    Returns:
        Output (batch, d_model), and the new states.
    """
    new: list[Any] = []
    run: list[ops.StepBranch] = []
    first = 0
    entries: list[tuple[Any, Any, Any]] = list(zip(layers, state, constants, strict=True))
    for place, (layer, before, constant) in enumerate(entries):
        branch = _branch(layer, before, constant)
        if branch is not None and (not run or branch.plan.kernel == run[0].plan.kernel):
            run.append(branch)
            continue
        x_t, after = _step_run(x_t, run, entries[first:place])
        new, run, first = [*new, *after], [], place
        if branch is not None:
            run = [branch]
            continue
        x_t, last = layer.step(x_t, before, constants=constant)
        new, first = [*new, last], place + 1
    x_t, after = _step_run(x_t, run, entries[first:])
    return x_t, (*new, *after)


def _branch(layer: nn.Module, state: Any, constant: Any) -> ops.StepBranch | None:
    """Mamba or Mamba-2 behind an RMS norm and nothing else, or None."""
    if not isinstance(layer, Residual) or type(layer.layer) not in (Mamba, Mamba2) or constant.plan is None:
        return None
    norm = layer.norm
    if type(norm) is not RMSNorm or norm._forward_hooks or norm._forward_pre_hooks:
        return None
    if layer.training and layer.dropout.p:
        return None
    return ops.StepBranch(constant.plan, state.conv, state.ssm, constant.rate, norm.weight, norm.eps, layer.scale)


def _step_run(x_t: Tensor, run: list[ops.StepBranch], entries: list[Any]) -> tuple[Tensor, list[Any]]:
    """Branches that follow each other: in one call, or else one by one."""
    found = ops.branches_at_once(x_t, run) if run else None
    if found is not None:
        return found[0], [type(entry[1])(*parts) for entry, parts in zip(entries, found[1], strict=True)]
    new = []
    for layer, before, constant in entries:
        x_t, after = layer.step(x_t, before, constants=constant)
        new.append(after)
    return x_t, new
