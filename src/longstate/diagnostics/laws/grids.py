"""The laws of layers over grids: those of every layer that need neither an order nor a state."""

from collections.abc import Sequence

import torch
from torch import Tensor

from longstate._checks import InputError
from longstate.diagnostics.laws.dtypes import check_dtype_and_device
from longstate.diagnostics.laws.gradients import check_gradients
from longstate.diagnostics.laws.programs import check_compile, check_copies, check_export
from longstate.diagnostics.laws.purity import check_purity
from longstate.diagnostics.laws.rows import check_rows_do_not_interact
from longstate.diagnostics.laws.trial import Measurement, Trial, copied, floating_dtype
from longstate.layers.base import GridLayer

SIZES = (5, 4, 3)
"""Positions along the first axes of a grid: unlike each other, so that a layer that mixes its axes up shows."""


def check_grid_layer(
    layer: GridLayer, *, grid: Sequence[int] | None = None, programs: bool = True
) -> list[Measurement]:
    """Check a layer over grids against every law that applies to it, as `check_layer` does for sequences.

    Args:
        layer: What is examined; it is left as it is. Keep it small: derivatives are compared with finite differences.
        grid: Positions along each axis; small unlike numbers by default.
        programs: Also export and compile the layer, which takes seconds and resets the caches of `torch.compile`.

    Returns:
        For each law what was measured: (law, difference, tolerance), differences relative to the largest value.

    Raises:
        LawViolation: A law is broken; the message names it, the difference and the tolerance.
        InputError: `grid` has not the axes of the layer.

    Example:
        >>> from longstate import S4ND, diagnostics
        >>> report = diagnostics.laws.check_grid_layer(S4ND(d_model=3, d_state=4), programs=False)
        >>> all(found.difference <= found.tolerance for found in report)
        True
    """
    grid = _checked(layer, grid)

    def make_input(batch: int, length: int) -> Tensor:
        return torch.randn(batch, *grid, layer.d_model, dtype=torch.float64)

    found: list[Measurement] = []
    for subject in (layer,) if floating_dtype(layer) is torch.float64 else (layer, copied(layer).double()):
        found.append(check_rows_do_not_interact(subject, make_input=make_input))
        if _takes_rate(subject, make_input(1, 1)):
            found.append(check_axis_rates(subject, grid=grid))
    found += [
        check_purity(layer, make_input=make_input),
        check_gradients(layer, make_input=make_input),
        check_dtype_and_device(layer, make_input=make_input),
        check_copies(layer, make_input=make_input),
    ]
    if programs:
        found.append(check_export(layer, make_input=make_input))
        found.append(check_compile(layer, make_input=make_input))
    return found


def check_axis_rates(layer: GridLayer, *, grid: Sequence[int] | None = None) -> Measurement:
    """Law of `rate` over grids: 1.0 is the same as None, and a number the same as that number for each axis.

    Args:
        layer: What is examined; it is copied first.
        grid: Positions along each axis; small unlike numbers by default.

    Returns:
        The largest difference found and the tolerance.

    Raises:
        LawViolation: The forms of `rate` differ, or it is taken and changes nothing.
        InputError: The layer has no scale and refuses `rate`.

    Example:
        >>> from longstate import S4ND, diagnostics
        >>> diagnostics.laws.check_axis_rates(S4ND(d_model=3, d_state=4), grid=(3, 4)).law
        'rate of axes'
    """
    grid = _checked(layer, grid)
    trial = Trial("rate of axes", layer, lambda batch, _: torch.randn(batch, *grid, layer.d_model, dtype=torch.float64))
    with torch.no_grad():
        x = trial.draw(2, 1)
        plain, doubled = trial.layer.forward(x), trial.layer.forward(x, rate=2.0)
        trial.compare("rate=1.0 and no rate differ", [(trial.layer.forward(x, rate=1.0), plain)])
        each = trial.layer.forward(x, rate=(2.0,) * layer.dim)
        trial.compare("rate=2.0 and 2.0 for each axis differ", [(each, doubled)])
        if torch.equal(plain, doubled):
            raise trial.refuse("rate=2.0 changes nothing")
    return trial.result()


def _checked(layer: GridLayer, grid: Sequence[int] | None) -> tuple[int, ...]:
    grid = SIZES[: layer.dim] if grid is None else tuple(grid)
    if len(grid) != layer.dim:
        raise InputError(
            f"`grid` is {grid}, but one size for each of the {layer.dim} axes of the layer is needed; leave it out for "
            "small ones."
        )
    return grid


def _takes_rate(layer: GridLayer, x: Tensor) -> bool:
    """False if the layer refuses `rate` with its sentence."""
    try:
        with torch.no_grad():
            layer.forward(x.to(next(layer.parameters())), rate=2.0)
    except InputError:
        return False
    return True
