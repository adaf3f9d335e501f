"""The next token from logits: pure functions of logits and random generators."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from longstate._checks import InputError, check_positive


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a token is chosen: the penalty, then the temperature, then what is kept, then chance.

    Args:
        greedy: Take the most probable token; nothing below but the penalty then counts.
        temperature: Below 1 sharper, above 1 flatter.
        top_k: Keep the k most probable tokens; None for all.
        top_p: Keep the most probable tokens that together have at least this share; None for all.
        min_p: Keep the tokens that have at least this share of the most probable one's probability; None for all.
        repetition_penalty: Makes tokens that were there before less probable, above 1; 1 changes nothing.

    Raises:
        InputError: If a number is out of its range.

    Example:
        >>> from longstate.inference import Sampling
        >>> Sampling(temperature=0.8, top_p=0.9).greedy
        False
    """

    greedy: bool = False
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise InputError(
                f"`temperature` is {self.temperature}, but a positive number is needed; for the most probable token "
                "each time choose greedy."
            )
        if self.top_k is not None:
            check_positive(top_k=self.top_k)
        for name, share in (("top_p", self.top_p), ("min_p", self.min_p)):
            if share is not None and not 0 < share <= 1:
                raise InputError(
                    f"`{name}` is {share}, but a number above 0 and at most 1 is needed; leave it out to keep all "
                    "tokens."
                )
        if not 0 < self.repetition_penalty < float("inf"):
            raise InputError(
                f"`repetition_penalty` is {self.repetition_penalty}, but a positive number is needed; 1.0 changes "
                "nothing."
            )


def choose(logits: Tensor, sampling: Sampling, seen: Tensor | None, generators: Sequence[Generator]) -> Tensor:
    """One token a row.

    Args:
        logits: (batch, vocabulary).
        sampling: How.
        seen: True for the tokens that a row had before (batch, vocabulary); None where there is no penalty.
        generators: One for each row, on the CPU, so that a row's chance does not depend on its neighbours.

    Returns:
        Tokens (batch,) int64.

    Example:
        >>> import torch
        >>> from longstate.inference import Sampling, choose
        >>> choose(torch.tensor([[0.0, 3.0, 1.0]]), Sampling(greedy=True), None, [])
        tensor([1])
    """
    if seen is not None:
        logits = penalise_repetition(logits, seen, sampling.repetition_penalty)
    if sampling.greedy:
        return logits.argmax(-1)
    logits = logits.float() / sampling.temperature
    if sampling.top_k is not None:
        logits = keep_top_k(logits, sampling.top_k)
    if sampling.top_p is not None:
        logits = keep_top_p(logits, sampling.top_p)
    if sampling.min_p is not None:
        logits = keep_min_p(logits, sampling.min_p)
    return draw(logits, generators)


def penalise_repetition(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Tokens that were there before lose: positive logits are divided by the penalty, negative ones multiplied.

    Args:
        logits: (batch, vocabulary).
        seen: True for the tokens of each row that were there (batch, vocabulary).
        penalty: Above 1 against repetition, below 1 for it.

    Source:
        Keskar et al., arXiv 1909.05858, section 4.1.
    """
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """The k largest logits of each row (and what equals the smallest of them); -inf elsewhere.

    Example:
        >>> import torch
        >>> from longstate.inference.sampling import keep_top_k
        >>> keep_top_k(torch.tensor([[1.0, 3.0, 2.0]]), 2)
        tensor([[-inf, 3., 2.]])
    """
    least = logits.topk(min(k, logits.shape[-1]), dim=-1).values[..., -1:]
    return logits.masked_fill(logits < least, -torch.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """The fewest most probable tokens of each row whose probabilities together reach p; -inf elsewhere.

    A token stays if those that are more probable do not reach p without it, so the most probable one always does.

    Source:
        Holtzman et al., arXiv 1904.09751, section 3.1 (nucleus sampling).

    Example:
        >>> import torch
        >>> from longstate.inference.sampling import keep_top_p
        >>> keep_top_p(torch.tensor([[0.2, 0.5, 0.3]]).log(), 0.6).exp()
        tensor([[0.0000, 0.5000, 0.3000]])
    """
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    share = ordered.double().softmax(-1)
    before = share.cumsum(-1) - share
    kept = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, before < p)
    return logits.masked_fill(~kept, -torch.inf)


def keep_min_p(logits: Tensor, p: float) -> Tensor:
    """The tokens of each row whose probability is at least p times that of the most probable; -inf elsewhere.

    Source:
        Nguyen et al., arXiv 2407.01082, section 3.

    Example:
        >>> import torch
        >>> from longstate.inference.sampling import keep_min_p
        >>> keep_min_p(torch.tensor([[0.2, 0.5, 0.3]]).log(), 0.5).exp()
        tensor([[0.0000, 0.5000, 0.3000]])
    """
    share = (logits - logits.amax(-1, keepdim=True)).exp()
    return logits.masked_fill(share < p, -torch.inf)


def draw(logits: Tensor, generators: Sequence[Generator]) -> Tensor:
    """One token a row, each with the probability that softmax gives it: by one uniform number of the row's generator.

    Args:
        logits: (batch, vocabulary); -inf for what never comes.
        generators: One for each row, on the CPU.

    Returns:
        Tokens (batch,) int64, on the device of the logits.
    """
    uniform = torch.stack([torch.rand(1, generator=generator, dtype=torch.float64) for generator in generators])
    # cumsum on the CPU: in float64, and the same for a row alone.
    reached = logits.cpu().double().softmax(-1).cumsum(-1)
    tokens = torch.searchsorted(reached, uniform * reached[:, -1:], right=True)
    return tokens[:, 0].to(logits.device)
