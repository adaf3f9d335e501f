"""Text from a language model, token by token, for prompts of unequal length side by side."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from longstate._checks import InputError, check_ids, check_positive
from longstate.inference.rows import select_rows, side_by_side
from longstate.inference.sampling import Sampling, choose
from longstate.inference.stopping import StopStream
from longstate.models import LanguageModel, Tokenizer

Reason = Literal["length", "end", "stop"]
OnToken = Callable[[int, int | None, str], None]

PREFILL = 1024
"""Tokens of a prompt that are read at once: what bounds the memory."""


class Generation(NamedTuple):
    """What became of a prompt.

    Args:
        ids: The new tokens, without the one that ended the text.
        text: What they say, up to the stop string; None without a tokenizer.
        reason: Why it ended: "length" after `max_new_tokens`, "end" at a token that ends a text, "stop" at a string.
    """

    ids: tuple[int, ...]
    text: str | None
    reason: Reason


def generate(
    model: LanguageModel,
    prompts: Sequence[Sequence[int] | Tensor],
    *,
    max_new_tokens: int = 256,
    sampling: Sampling | None = None,
    seed: int = 0,
    end_ids: Sequence[int] | None = None,
    stop: Sequence[str] = (),
    tokenizer: Tokenizer | None = None,
    on_token: OnToken | None = None,
    prefill: int = PREFILL,
) -> tuple[Generation, ...]:
    """Continue prompts, each by itself.

    Prompts are read in parallel, in pieces of bounded memory; from then on a token costs the same however long the text
    gets (with layers of a fixed state). Rows that are at their end leave the batch.

    Args:
        model: In `eval()` mode, on any device.
        prompts: Ids of tokens, one at least in each.
        max_new_tokens: At most so many for each prompt.
        sampling: How a token is chosen; by its probability if None.
        seed: Of chance; prompt i takes its own numbers from `seed` + i, so that it says the same alone.
        end_ids: Tokens that end a text; those of the model if None.
        stop: Strings that end a text; they are left out of it. They need the tokenizer.
        tokenizer: Of the model, for texts.
        on_token: Is told `(row, token, text)` of every token as it comes; the text may be empty (half a character, or
            what may become a stop string) and comes later. A row that ends with such a rest is told
            `(row, None, rest)`.
        prefill: Tokens of the prompts that are read at once.

    Returns:
        What became of each prompt, in their order.

    Raises:
        InputError: If a prompt is empty, a token is not one of the model's, a number is not usable, there are stop
            strings without a tokenizer, or the model is in training mode.

    Example:
        >>> from longstate.inference import Sampling, generate
        >>> from longstate.models import BackboneConfig, ByteTokenizer, LanguageModel, LanguageModelConfig
        >>> model = LanguageModel(LanguageModelConfig(backbone=BackboneConfig(8, 1))).eval()
        >>> found = generate(model, [b"ab", b"c"], max_new_tokens=3, tokenizer=ByteTokenizer())
        >>> [len(each.ids) for each in found]
        [3, 3]
    """
    check_positive(max_new_tokens=max_new_tokens, prefill=prefill)
    if model.training:
        raise InputError(
            "`model` is in training mode, where dropout makes answers random, but one in eval mode is needed; call "
            "`model.eval()` first."
        )
    if stop and tokenizer is None:
        raise InputError(
            f"`stop` is {list(stop)} without a tokenizer, but strings are found in text only; give the tokenizer, or "
            "stop at tokens with `end_ids`."
        )
    if not all(stop):
        raise InputError("`stop` holds an empty string, but one of a character at least is needed; leave it out.")
    sampling = Sampling() if sampling is None else sampling
    ends = set(model.config.end_ids if end_ids is None else end_ids)
    device = model.embedding.weight.device
    ids, lengths = (part.to(device) for part in side_by_side(prompts))
    check_ids(ids, model.config.vocabulary_size, axes=("batch", "length"), name="prompts")
    rows = [_Row(number, seed, tokenizer, stop, on_token) for number in range(len(ids))]
    going = list(rows)
    with torch.no_grad():
        constants = model.constants()
        logits, state = read_prompts(model, ids, lengths, prefill=prefill)
        seen = _seen(ids, lengths, model.config.vocabulary_size) if sampling.repetition_penalty != 1 else None
        for count in range(1, max_new_tokens + 1):
            tokens = choose(logits, sampling, seen, [row.generator for row in going])
            for row, token in zip(going, tokens.tolist(), strict=True):
                row.take(token, ends, is_last=count == max_new_tokens)
            left = [place for place, row in enumerate(going) if row.reason is None]
            if not left:
                break
            if len(left) < len(going):
                index = torch.tensor(left, device=device)
                going, tokens, state = [going[place] for place in left], tokens[index], select_rows(state, index)
                seen = None if seen is None else seen[index]
            if seen is not None:
                seen = seen.scatter(1, tokens[:, None], True)
            logits, state = model.step(tokens, state, constants=constants)
    return tuple(row.generation() for row in rows)


def read_prompts(
    model: LanguageModel, ids: Tensor, lengths: Tensor, *, state: Any = None, prefill: int = PREFILL
) -> tuple[Tensor, Any]:
    """Logits after the last token of each prompt, and the state there.

    Args:
        model: Any language model.
        ids: Prompts, padded on the right (batch, length).
        lengths: Tokens of each, one at least (batch,).
        state: What was read before; nothing if None.
        prefill: Tokens that are read at once.

    Returns:
        Logits (batch, vocabulary) and the state.

    Example:
        >>> import torch
        >>> from longstate.inference import read_prompts
        >>> from longstate.models import BackboneConfig, LanguageModel, LanguageModelConfig
        >>> model = LanguageModel(LanguageModelConfig(backbone=BackboneConfig(8, 1))).eval()
        >>> read_prompts(model, torch.tensor([[1, 2, 3], [4, 0, 0]]), torch.tensor([3, 1]))[0].shape
        torch.Size([2, 256])
    """
    state = model.initial_state(len(ids)) if state is None else state
    logits = None
    for begin in range(0, ids.shape[1], prefill):
        piece = ids[:, begin : begin + prefill]
        inside = (lengths - begin).clamp(0, piece.shape[1])
        new, state = model.prefill(piece, state, lengths=inside)
        logits = new if logits is None else torch.where((inside > 0)[:, None], new, logits)
    if logits is None:
        raise InputError("the prompts are empty, but one token at least is needed; begin with the end token.")
    return logits, state


class _Row:
    """A prompt on its way."""

    def __init__(
        self, number: int, seed: int, tokenizer: Tokenizer | None, stop: Sequence[str], on_token: OnToken | None
    ) -> None:
        self.number = number
        self.generator = torch.Generator().manual_seed(seed + number)
        self.reason: Reason | None = None
        self._stream = None if tokenizer is None else StopStream(tokenizer.stream(), stop)
        self._on_token = on_token
        self._ids: list[int] = []
        self._pieces: list[str] = []

    def take(self, token: int, ends: set[int], *, is_last: bool) -> None:
        """One more token, and whether it is the last one."""
        if token in ends:
            self.reason = "end"
        else:
            self._ids.append(token)
            text = "" if self._stream is None else self._stream.push(token)
            self._say(token, text)
            if self._stream is not None and self._stream.stopped:
                self.reason = "stop"
                return
            self.reason = "length" if is_last else None
        rest = self._stream.finish() if self._stream is not None and self.reason is not None else ""
        if rest:
            self._say(None, rest)

    def generation(self) -> Generation:
        """What became of it."""
        text = None if self._stream is None else "".join(self._pieces)
        return Generation(tuple(self._ids), text, self.reason or "length")

    def _say(self, token: int | None, text: str) -> None:
        self._pieces.append(text)
        if self._on_token is not None:
            self._on_token(self.number, token, text)


def _seen(ids: Tensor, lengths: Tensor, vocabulary_size: int) -> Tensor:
    """Which tokens each prompt holds (batch, vocabulary)."""
    # A padded place counts for the first token of its row, which is there anyway.
    valid = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
    ids = torch.where(valid, ids, ids[:, :1])
    return torch.zeros(len(ids), vocabulary_size, dtype=torch.bool, device=ids.device).scatter(1, ids, True)
