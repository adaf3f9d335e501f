"""Tables that read both ways: which tensor of theirs lies where in which of ours."""

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from longstate._checks import InputError
from longstate.pretrained.checkpoint import Checkpoint

Index: TypeAlias = tuple[int | slice, ...]
_WEIGHTS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


class Piece(NamedTuple):
    """One row of a table: numbers that stand in a tensor of theirs and in one of ours.

    Rows of one tensor of theirs follow each other.

    Args:
        theirs: The name there.
        ours: The name here.
        at: Which part of ours it is; all of it if empty.
        there: Which part of theirs it is, by slices with both ends; all of it if empty.
        conv: Whether theirs is the weight of a depthwise Conv1d, with an axis of 1 in the middle.
        factor: What theirs is multiplied by, where their program multiplies what a map takes or gives.
    """

    theirs: str
    ours: str
    at: Index = ()
    there: tuple[slice, ...] = ()
    conv: bool = False
    factor: float = 1.0


def gather(
    checkpoint: Checkpoint, pieces: Iterable[Piece], wanted: Mapping[str, Tensor], dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
    """Take the tensors that a table names, under our names.

    A tensor that is the whole of ours is not copied: it stays mapped to its file.

    Args:
        checkpoint: Where they are.
        pieces: The table.
        wanted: Tensors of our shapes by our names; their values are not looked at.
        dtype: Type they get before they are multiplied by a factor; that of the checkpoint if None.

    Returns:
        Tensors by our names.

    Raises:
        InputError: If one is missing, of another shape, or of a type that is no weight's; nothing is returned then.

    Example:
        >>> import torch
        >>> from pathlib import Path
        >>> from longstate.pretrained.checkpoint import Checkpoint, Stored
        >>> from longstate.pretrained.pieces import Piece, gather
        >>> file = Checkpoint(Path("x.pt"), {"k": Stored((1,), lambda: torch.ones(1))})
        >>> gather(file, [Piece("k", "kv", (slice(0, 1),))], {"kv": torch.empty(1)})
        {'kv': tensor([1.])}
    """
    result: dict[str, Tensor] = {}
    for theirs, rows in groupby(pieces, key=lambda piece: piece.theirs):
        group = list(rows)
        shape = _shape(group, wanted)
        if checkpoint.shape(theirs) != shape:
            raise InputError(
                f"`{checkpoint.path}` has {theirs} of shape {checkpoint.shape(theirs)}, but its configuration means "
                f"{shape}; use the configuration that was saved with these weights."
            )
        found = checkpoint.take(theirs, becomes=", ".join(dict.fromkeys(piece.ours for piece in group)))
        if found.dtype not in _WEIGHTS:
            raise InputError(
                f"`{checkpoint.path}` has {theirs} as {found.dtype}, but weights in float64, float32, float16 or "
                "bfloat16 are needed; take a checkpoint that was not quantised."
            )
        found = found if dtype is None else found.to(dtype)
        for piece in group:
            part = found[piece.there] if piece.there else found
            part = part if piece.factor == 1.0 else part * piece.factor
            _put(result, piece, part.squeeze(1) if piece.conv else part, wanted, checkpoint)
    return result


def scatter(tensors: Mapping[str, Tensor], pieces: Iterable[Piece]) -> dict[str, Tensor]:
    """Our tensors under the names and shapes of a table: `gather` backwards, bit by bit.

    Args:
        tensors: By our names.
        pieces: The table, without factors: no division gives the bits back.

    Returns:
        Tensors by their names, of the types that ours have.

    Example:
        >>> import torch
        >>> from longstate.pretrained.pieces import Piece, scatter
        >>> scatter({"conv_weight": torch.ones(3, 4)}, [Piece("conv1d.weight", "conv_weight", conv=True)])[
        ...     "conv1d.weight"
        ... ].shape
        torch.Size([3, 1, 4])
    """
    result: dict[str, Tensor] = {}
    for theirs, rows in groupby(pieces, key=lambda piece: piece.theirs):
        group = list(rows)
        for piece in group:
            part = _part(piece, tensors)
            if not piece.there:
                result[theirs] = part.contiguous()
                continue
            whole = result.setdefault(theirs, part.new_empty(_shape(group, tensors)))
            whole[piece.there] = part
    return result


def _put(
    result: dict[str, Tensor], piece: Piece, part: Tensor, wanted: Mapping[str, Tensor], checkpoint: Checkpoint
) -> None:
    if not piece.at:
        result[piece.ours] = part.contiguous()
        return
    if piece.ours not in result:
        result[piece.ours] = torch.empty(wanted[piece.ours].shape, dtype=part.dtype)
    whole = result[piece.ours]
    if whole.dtype is not part.dtype:
        raise InputError(
            f"`{checkpoint.path}` has {piece.theirs} as {part.dtype} beside parts of the same map as {whole.dtype}, "
            "but one type is needed for all of them; convert the checkpoint to one type first."
        )
    whole[piece.at] = part


def _part(piece: Piece, tensors: Mapping[str, Tensor]) -> Tensor:
    part = tensors[piece.ours][piece.at] if piece.at else tensors[piece.ours]
    return part.unsqueeze(1) if piece.conv else part


def _shape(group: list[Piece], ours: Mapping[str, Tensor]) -> tuple[int, ...]:
    """The shape of a tensor of theirs, of which a group of pieces is made."""
    shape = list(_part(group[0], ours).shape)
    for piece in group:
        for axis, part in enumerate(piece.there):
            shape[axis] = max(shape[axis], part.stop if part.stop is not None else 0)
    return tuple(shape)
