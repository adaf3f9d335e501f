"""How well a language model predicts documents."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils import _pytree

from longstate._checks import InputError
from longstate.data import Documents, TokenBatch, TokenStreams
from longstate.data.token_batches import NOT_COUNTED
from longstate.layers.base import recurrent_dtype
from longstate.models import LanguageModel


@dataclass(frozen=True)
class TextEvaluation:
    """How well documents were predicted, every token of them and where they end.

    Args:
        documents: How many.
        tokens: Predictions: every token, and the end of every document.
        bytes: Of the text.
        context: Tokens after which everything was forgotten within a document; None for never.
        loss: Mean of -ln p of what came, in nats.
        bits_per_byte: Sum of -log2 p, divided by the bytes: what an arithmetic coder would need with this model.
        perplexity: exp(loss), of one token.
    """

    documents: int
    tokens: int
    bytes: int
    context: int | None
    loss: float
    bits_per_byte: float
    perplexity: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def evaluate_text(
    model: LanguageModel,
    documents: Documents,
    *,
    batch_size: int = 16,
    sequence_length: int = 1024,
    context: int | None = None,
) -> TextEvaluation:
    """Predict every document from its beginning to its end.

    Args:
        model: On any device; it is used in `eval()` mode.
        documents: In the tokens of the model's tokenizer.
        batch_size: Documents side by side.
        sequence_length: Tokens at once; neither changes the result, only memory and time.
        context: Let the model forget everything after so many tokens, as if the document had begun there; None lets it
            remember all of the document. Attention that never saw more than some tokens in training needs this.

    Raises:
        InputError: If the model has no end token, or a token of the documents is not one of the model's.

    Example:
        >>> import numpy as np
        >>> from longstate.data import Documents, TokenStore
        >>> from longstate.models import BackboneConfig, LanguageModel, LanguageModelConfig
        >>> from longstate.training import evaluate_text
        >>> ends = np.array([30, 50])
        >>> documents = Documents(TokenStore(np.arange(50), ends, ends, (), ""), np.arange(2))
        >>> config = LanguageModelConfig(vocabulary_size=257, end_ids=(256,), backbone=BackboneConfig(4, 1))
        >>> evaluate_text(LanguageModel(config), documents).tokens
        52
    """
    streams = TokenStreams(documents, batch_size, sequence_length, end=end_token(model), context=context)
    was_training, device = model.training, model.embedding.weight.device
    model.eval()
    sums = torch.zeros(2, dtype=torch.float64)
    with torch.no_grad():
        state = None
        for batch in streams:
            loss, state = streamed_loss(model, TokenBatch(*(part.to(device) for part in batch)), state)
            sums += torch.stack([loss.double().cpu(), (batch.targets != NOT_COUNTED).sum()])
    model.train(was_training)
    loss, count = float(sums[0]), int(sums[1])
    return TextEvaluation(
        documents=len(documents),
        tokens=count,
        bytes=documents.bytes,
        context=context,
        loss=loss / count,
        bits_per_byte=loss / math.log(2) / documents.bytes,
        perplexity=perplexity(loss / count),
    )


def streamed_loss(model: LanguageModel, batch: TokenBatch, state: Any) -> tuple[Tensor, Any]:
    """The loss of a piece of streams, and what is remembered after it.

    Args:
        model: The model.
        batch: A piece; it may have fewer rows than the one before.
        state: After the piece before; None at the beginning.

    Returns:
        The sum over all tokens that count, in nats, and the state of every row.
    """
    if state is None:
        state = model.initial_state(len(batch.ids))
    state = _pytree.tree_map(lambda leaf: leaf[: len(batch.ids)], state)
    logits, state = model.forward_with_state(batch.ids, state, starts=starts_of(batch))
    return token_loss(logits, batch.targets), state


def token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """The sum of -ln p of the targets that count, in nats.

    Args:
        logits: (batch, length, vocabulary).
        targets: (batch, length), -1 where nothing counts.
    """
    return F.cross_entropy(
        logits.flatten(0, 1).to(recurrent_dtype(logits.dtype)),
        targets.flatten(),
        ignore_index=NOT_COUNTED,
        reduction="sum",
    )


def starts_of(batch: TokenBatch) -> Tensor | None:
    """Where documents begin in a batch; None if none does, since layers are faster without."""
    return batch.starts if bool(batch.starts.any()) else None


def end_token(model: LanguageModel) -> int:
    """The token that stands between documents: the first of the model's `end_ids`."""
    if not model.config.end_ids:
        raise InputError(
            "the model has no end token, but one is needed between documents; give its configuration one more token "
            "and name that in `end_ids`."
        )
    return model.config.end_ids[0]


def perplexity(loss: float) -> float:
    """exp(loss), infinite where that is too large for a number."""
    return math.exp(loss) if loss < 700 else math.inf
