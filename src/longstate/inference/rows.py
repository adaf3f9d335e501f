"""Rows of a state, and prompts side by side."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree

from longstate._checks import InputError


def select_rows(state: Any, index: Tensor) -> Any:
    """Some rows of a state in some order: those that go on, or the beams that survive, a row as often as wanted.

    Args:
        state: Of any causal layer or model.
        index: Row numbers (rows,) int64.

    Returns:
        A new state.

    Example:
        >>> import torch
        >>> from longstate import S4D
        >>> from longstate.inference import select_rows
        >>> select_rows(S4D(4, d_state=8).initial_state(2), torch.tensor([1, 1, 0])).x.shape[0]
        3
    """
    return _pytree.tree_map(lambda leaf: leaf.index_select(0, index.to(leaf.device)), state)


def side_by_side(prompts: Sequence[Sequence[int] | Tensor]) -> tuple[Tensor, Tensor]:
    """Prompts of unequal length as rows of one tensor, padded on the right with 0.

    Args:
        prompts: Ids of tokens, one at least in each.

    Returns:
        Ids (batch, length) and lengths (batch,), both int64.

    Raises:
        InputError: If there is no prompt, or an empty one.

    Example:
        >>> from longstate.inference import side_by_side
        >>> [part.tolist() for part in side_by_side([[5, 6], [7]])]
        [[[5, 6], [7, 0]], [2, 1]]
    """
    rows = [torch.as_tensor(list(prompt), dtype=torch.int64) for prompt in prompts]
    if not rows:
        raise InputError("there is no prompt, but one at least is needed; give a list of lists of ids.")
    empty = next((row for row, ids in enumerate(rows) if not len(ids)), None)
    if empty is not None:
        raise InputError(
            f"prompt {empty} is empty, but the first token has to come from something; begin it with the token that "
            "stands between documents (`model.config.end_ids`)."
        )
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), torch.tensor([len(ids) for ids in rows])
