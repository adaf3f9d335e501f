"""Tables of names: which tensor of theirs is which of ours, and what is done to it on the way."""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from longstate._checks import InputError
from longstate.pretrained.checkpoint import Checkpoint


def unchanged(x: Tensor) -> Tensor:
    """What most tensors need."""
    return x


def negated(x: Tensor) -> Tensor:
    """For the other of two conjugate halves."""
    return -x


class Rename(NamedTuple):
    """One row of a table: the name there, the name here, and the way from one to the other."""

    theirs: str
    ours: str
    change: Callable[[Tensor], Tensor] = unchanged


def translate(
    checkpoint: Checkpoint, renames: Iterable[Rename], wanted: Mapping[str, Tensor], *, prefix: str = "", ours: str = ""
) -> dict[str, Tensor]:
    """Take the tensors that a table names, under our names.

    Args:
        checkpoint: Where they are.
        renames: The table.
        wanted: Tensors (or parameters) of the shapes that must come out, by our names.
        prefix: Stands before every name of theirs.
        ours: Stands before every name of ours in the report.

    Returns:
        New tensors of the checkpoint's types, by our names: those of the table.

    Raises:
        InputError: If one is missing, of another shape, of a type that is not floating, or not finite.

    Example:
        >>> import torch
        >>> from pathlib import Path
        >>> from longstate.pretrained.checkpoint import Checkpoint, Stored
        >>> from longstate.pretrained.renames import Rename, negated, translate
        >>> file = Checkpoint(Path("x.pt"), {"a.w_imag": Stored((2,), lambda: torch.tensor([-1.0, -2.0]))})
        >>> translate(file, [Rename("w_imag", "A_imag", negated)], {"A_imag": torch.zeros(2)}, prefix="a.")
        {'A_imag': tensor([1., 2.])}
    """
    result = {}
    for row in renames:
        name = prefix + row.theirs
        shape = checkpoint.shape(name)
        found = row.change(checkpoint.take(name, becomes=ours + row.ours))
        expected = wanted[row.ours].shape
        if found.shape != expected:
            raise InputError(
                f"`{checkpoint.path}` has {name} of shape {shape}, which does not become {row.ours} of shape "
                f"{tuple(expected)}, but all tensors of one layer must agree; copy the whole file again."
            )
        if not found.is_floating_point() or not bool(torch.isfinite(found).all()):
            raise InputError(
                f"`{checkpoint.path}` has {name} as {found.dtype} with values that are not finite numbers, but weights "
                "are needed; take an earlier checkpoint of that training."
            )
        result[row.ours] = found.clone()
    return result
