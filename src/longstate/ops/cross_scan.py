"""Four ways to read an image as a sequence, and the way back: what stands around the scans of VMamba."""

import torch
from torch import Tensor

from longstate._checks import InputError
from longstate.ops import _dispatch

DIRECTIONS = 4
"""Rows from the first pixel, columns from the first pixel, rows from the last, columns from the last."""


def cross_scan(x: Tensor, *, backend: str = "auto") -> Tensor:
    """The pixels of an image in four orders.

        s_0 = x row by row,    s_1 = x column by column,    s_2 = s_0 backwards,    s_3 = s_1 backwards

    Args:
        x: Images (batch, height, width, channels), of any size.
        backend: "torch", "reference" (a loop over pixels), or "auto".

    Returns:
        Sequences (batch, height * width, 4, channels).

    Raises:
        InputError: If `x` has not four axes.

    Source:
        Liu et al.: VMamba, arXiv 2401.10166, section 4.2 (`CrossScan` of its code).

    Example:
        >>> import torch
        >>> from longstate import ops
        >>> ops.cross_scan(torch.arange(6).reshape(1, 2, 3, 1))[0, :, :, 0].T
        tensor([[0, 1, 2, 3, 4, 5],
                [0, 3, 1, 4, 2, 5],
                [5, 4, 3, 2, 1, 0],
                [5, 2, 4, 1, 3, 0]])
    """
    if x.dim() != 4:
        raise InputError(
            f"`x` has shape {tuple(x.shape)}, but (batch, height, width, channels) is needed; put the channels last."
        )
    return _dispatch.run("cross_scan", backend, x.device, x)


def cross_merge(sequences: Tensor, height: int, width: int, *, backend: str = "auto") -> Tensor:
    """What four sequences say of every pixel, added up: the adjoint of `cross_scan`.

        y[i, j] = s_0[i W + j] + s_1[j H + i] + s_2[L - 1 - (i W + j)] + s_3[L - 1 - (j H + i)],    L = H W

    Args:
        sequences: (batch, height * width, 4, channels), in the orders of `cross_scan`.
        height: H of the images.
        width: W of the images.
        backend: "torch", "reference" (a loop over pixels), or "auto".

    Returns:
        Images (batch, height, width, channels).

    Raises:
        InputError: If the sequences do not belong to images of that size.

    Source:
        As of `cross_scan` (`CrossMerge`).

    Example:
        >>> import torch
        >>> from longstate import ops
        >>> x = torch.arange(6.0).reshape(1, 2, 3, 1)
        >>> torch.equal(ops.cross_merge(ops.cross_scan(x), 2, 3), 4 * x)
        True
    """
    if sequences.dim() != 4 or sequences.shape[1] != height * width or sequences.shape[2] != DIRECTIONS:
        raise InputError(
            f"`sequences` has shape {tuple(sequences.shape)}, but (batch, {height * width}, {DIRECTIONS}, channels) is "
            f"needed for images of {height} x {width}; give the height and the width that were scanned."
        )
    return _dispatch.run("cross_merge", backend, sequences.device, sequences, height, width)


def cross_scan_reference(x: Tensor) -> Tensor:
    """The four orders as a loop over their steps."""
    steps = [
        torch.stack([x[:, row, column] for row, column in pixels], dim=1)
        for pixels in zip(*_orders(x.shape[1], x.shape[2]), strict=True)
    ]
    return torch.stack(steps, dim=1) if steps else x.new_empty(x.shape[0], 0, DIRECTIONS, x.shape[3])


def cross_merge_reference(sequences: Tensor, height: int, width: int) -> Tensor:
    """The sum as a loop over the steps of the four orders."""
    batch, _, _, channels = sequences.shape
    y = sequences.new_zeros(batch, height, width, channels)
    for direction, order in enumerate(_orders(height, width)):
        for step, (row, column) in enumerate(order):
            moved = torch.zeros_like(y)
            moved[:, row, column] = sequences[:, step, direction]
            y = y + moved
    return y


def _orders(height: int, width: int) -> list[list[tuple[int, int]]]:
    """The pixels (row, column) in the order that each direction visits them."""
    rows = [(row, column) for row in range(height) for column in range(width)]
    columns = [(row, column) for column in range(width) for row in range(height)]
    return [rows, columns, rows[::-1], columns[::-1]]


def _cross_scan_torch(x: Tensor) -> Tensor:
    ahead = torch.stack([x.flatten(1, 2), x.transpose(1, 2).flatten(1, 2)], dim=2)
    return torch.cat([ahead, ahead.flip(1)], dim=2)


def _cross_merge_torch(sequences: Tensor, height: int, width: int) -> Tensor:
    ahead = sequences[:, :, :2] + sequences[:, :, 2:].flip(1)
    rows = ahead[:, :, 0].unflatten(1, (height, width))
    return rows + ahead[:, :, 1].unflatten(1, (width, height)).transpose(1, 2)


_dispatch.register(
    "cross_scan",
    _dispatch.Backend("torch", _cross_scan_torch, _dispatch.always),
    _dispatch.Backend("reference", cross_scan_reference, _dispatch.always),
)
_dispatch.register(
    "cross_merge",
    _dispatch.Backend("torch", _cross_merge_torch, _dispatch.always),
    _dispatch.Backend("reference", cross_merge_reference, _dispatch.always),
)
