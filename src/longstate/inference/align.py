"""Padding that others put on the left, moved to the right, where longstate has it."""

import torch
from torch import Tensor

from longstate._checks import InputError


def align(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Prompts with padding on either side, or both, as right-padded rows and their lengths.

    Args:
        ids: Tokens (batch, length), as a tokenizer gives a batch.
        mask: 1 or True at tokens, 0 or False at padding (batch, length); the `attention_mask` of transformers.

    Returns:
        Tokens (batch, length) with those of each row at its beginning and 0 after them, and the number of tokens of
        each row (batch,).

    Raises:
        InputError: If the shapes differ, the mask holds something else, or padding lies between tokens.

    Example:
        >>> import torch
        >>> from longstate.inference import align
        >>> align(torch.tensor([[9, 9, 5, 6], [1, 2, 3, 4]]), torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]]))
        (tensor([[5, 6, 0, 0],
                [1, 2, 3, 4]]), tensor([2, 4]))
    """
    if ids.dim() != 2 or mask.shape != ids.shape:
        raise InputError(
            f"`ids` has shape {tuple(ids.shape)} and `mask` {tuple(mask.shape)}, but both must be (batch, length); "
            "pass what one call of the tokenizer gave."
        )
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise InputError(
            f"`mask` holds {mask[(mask != 0) & (mask != 1)][0].item()}, but 1 at tokens and 0 at padding are needed; "
            "pass the attention mask of the tokenizer."
        )
    valid = mask.bool()
    # A row may begin to be valid once: on its first element, or after padding.
    begins = valid[:, :1].sum(1) + (valid[:, 1:] & ~valid[:, :-1]).sum(1)
    if bool((begins > 1).any()):
        raise InputError(
            f"`mask` has padding between the tokens of row {int((begins > 1).nonzero()[0])}, but it may only stand "
            "before or after them; remove it there."
        )
    lengths = valid.sum(1)
    first = torch.where(lengths > 0, valid.to(torch.uint8).argmax(1) if ids.shape[1] else lengths, 0)
    place = torch.arange(ids.shape[1], device=ids.device)
    source = (first[:, None] + place).clamp(max=max(ids.shape[1] - 1, 0))
    return torch.where(place < lengths[:, None], ids.gather(1, source), 0), lengths
