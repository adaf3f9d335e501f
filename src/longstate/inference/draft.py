"""Drafts: tokens that somebody guessed, checked in one go, and taken back as far as they were wrong."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from longstate._checks import InputError, check_ids
from longstate.models import LanguageModel


class Verified(NamedTuple):
    """What became of a draft.

    Args:
        accepted: How many of the drafted tokens are what the model would have said (batch,) int64.
        logits: After the accepted ones (batch, vocabulary): the next token comes from here.
        state: After the accepted ones, as if the model had stepped through them alone.
    """

    accepted: Tensor
    logits: Tensor
    state: Any


def verify_draft(model: LanguageModel, state: Any, logits: Tensor, draft: Tensor) -> Verified:
    """Check tokens that a smaller model, or a look into the prompt, guessed: all of them in one chunk.

    A token is accepted if it is the most probable one and all before it were accepted. The state before the draft is
    kept until then; where a token was wrong, the accepted ones are read once more from there, so that what was wrong
    leaves no trace. What comes out is the text of greedy steps, whatever was guessed.

    Args:
        model: In `eval()` mode.
        state: Before the draft.
        logits: Of the token after that state (batch, vocabulary).
        draft: Guessed tokens (batch, guesses).

    Returns:
        The number of accepted tokens of each row, and the logits and the state after them.

    Raises:
        InputError: If the draft is empty, or a token is not one of the model's.

    Source:
        Leviathan et al., arXiv 2211.17192, algorithm 1, for greedy decoding; the state in place of a cache.

    Example:
        >>> import torch
        >>> from longstate.inference import verify_draft
        >>> from longstate.models import BackboneConfig, LanguageModel, LanguageModelConfig
        >>> model = LanguageModel(LanguageModelConfig(backbone=BackboneConfig(8, 1))).eval()
        >>> logits, state = model.step(torch.tensor([65]), model.initial_state(1))
        >>> right = int(logits.argmax())
        >>> verify_draft(model, state, logits, torch.tensor([[right, 256 - right]])).accepted >= 1
        tensor([True])
    """
    check_ids(draft, model.config.vocabulary_size, axes=("batch", "guesses"), name="draft")
    if draft.shape[1] == 0 or len(draft) != len(logits):
        raise InputError(
            f"`draft` has shape {tuple(draft.shape)} beside logits of {len(logits)} rows, but one guess at least is "
            "needed in each row; guess a token, or step."
        )
    with torch.no_grad():
        after, end = model.forward_with_state(draft, state)
        every = torch.cat([logits[:, None], after], dim=1)
        right = every[:, :-1].argmax(-1) == draft
        accepted = right.long().cumprod(1).sum(1)
        longest = int(accepted.max())
        if bool((accepted < draft.shape[1]).any()):
            end = state
            if longest:
                _, end = model.forward_with_state(draft[:, :longest], state, lengths=accepted)
    rows = torch.arange(len(draft), device=draft.device)
    return Verified(accepted, every[rows, accepted], end)
