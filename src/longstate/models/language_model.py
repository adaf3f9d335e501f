"""The language model: tokens in, logits of the next one out, in three exact views."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from longstate._checks import InputError, check_ids, check_lengths, check_positive, check_starts, valid_steps
from longstate.layers import CausalLayer
from longstate.layers.step_branches import linear_step
from longstate.models.backbone import Backbone
from longstate.models.config import BackboneConfig
from longstate.models.layer_config import LSSLConfig, MambaConfig

_STACK = BackboneConfig(d_model=256, n_layers=4, layer=MambaConfig(), norm="rms", dropout=0.0)


@dataclass(frozen=True, kw_only=True)
class LanguageModelConfig:
    """What a language model is.

    Args:
        vocabulary_size: Tokens; ids go from 0 to vocabulary_size - 1.
        backbone: The stack of layers, any schedule of them.
        tie_head: Whether the logits use the embeddings again.
        vocabulary_multiple: The embeddings have rows for the next multiple of this; logits leave the extra ones out.
        tokenizer: "bytes", or the name of a tokenizer's file beside the model; None where only ids are known.
        end_ids: Tokens that end a text.
        embedding_scale: What the embeddings are multiplied by before the first layer.
        logit_scale: What the logits are multiplied by.

    Raises:
        InputError: If a size is not usable.

    Example:
        >>> from longstate.models import LanguageModelConfig
        >>> LanguageModelConfig(vocabulary_size=50_277, vocabulary_multiple=8).rows
        50280
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    kind: Literal["language_model"] = "language_model"
    vocabulary_size: int = 256
    backbone: BackboneConfig = _STACK
    tie_head: bool = True
    vocabulary_multiple: int = 1
    tokenizer: str | None = "bytes"
    end_ids: tuple[int, ...] = ()
    embedding_scale: float = 1.0
    logit_scale: float = 1.0

    def __post_init__(self) -> None:
        check_positive(vocabulary_size=self.vocabulary_size, vocabulary_multiple=self.vocabulary_multiple)
        if self.tokenizer == "bytes" and self.vocabulary_size < 256:
            raise InputError(
                f"`vocabulary_size` is {self.vocabulary_size} with tokenizer 'bytes', but 256 at least are needed; "
                "make it 256, or name a tokenizer's file."
            )
        wrong = [token for token in self.end_ids if not 0 <= token < self.vocabulary_size]
        if wrong:
            raise InputError(
                f"`end_ids` holds the token {wrong[0]}, but tokens from 0 to {self.vocabulary_size - 1} are needed; "
                "leave it out."
            )

    @property
    def rows(self) -> int:
        """Rows of the embeddings."""
        return -(-self.vocabulary_size // self.vocabulary_multiple) * self.vocabulary_multiple


class LanguageModel(CausalLayer[tuple[Any, ...]]):
    """Logits of the next token after every token.

        h = backbone(embedding_scale · E[id_1 .. id_t]),    logits_t = logit_scale · W h_t    (W = E if tied)

    It is a causal layer over ids (batch, length): prefill any chunk with `forward_with_state`, go on by `step`, save,
    select and reorder the rows of its state. What the padding holds is never looked at. `rate` and `starts` reach the
    layers.

    Args:
        config: What the model is.

    Raises:
        InputError: If a size or a name in the configuration is not usable.

    Example:
        >>> import torch
        >>> from longstate.models import BackboneConfig, LanguageModel, LanguageModelConfig, MambaConfig
        >>> backbone = BackboneConfig(d_model=8, n_layers=2, layer=MambaConfig(d_state=4), norm="rms")
        >>> model = LanguageModel(LanguageModelConfig(backbone=backbone)).eval()
        >>> ids = torch.randint(256, (2, 10))
        >>> logits, state = model.forward_with_state(ids, model.initial_state(2))
        >>> logits.shape, model.step(ids[:, 0], state)[0].shape
        (torch.Size([2, 10, 256]), torch.Size([2, 256]))
    """

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        self.config = config
        self.d_model = config.backbone.d_model
        self.embedding = nn.Embedding(config.rows, self.d_model)
        self.backbone = Backbone(config.backbone)
        self.head = None if config.tie_head else nn.Linear(self.d_model, config.rows, bias=False)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self._scale_branches()

    def forward(
        self,
        x: Tensor,
        *,
        lengths: Tensor | None = None,
        rate: float | Tensor | None = None,
        starts: Tensor | None = None,
    ) -> Tensor:
        """Logits (batch, length, vocabulary) after every token of the ids x (batch, length)."""
        h = self.backbone(self._embed(x, lengths, starts), lengths=lengths, rate=rate, starts=starts)
        return self.logits(h)

    def initial_state(self, batch_size: int) -> tuple[Any, ...]:
        """Those of the layers."""
        return self.backbone.initial_state(batch_size)

    def forward_with_state(
        self,
        x: Tensor,
        state: tuple[Any, ...],
        *,
        lengths: Tensor | None = None,
        rate: float | Tensor | None = None,
        starts: Tensor | None = None,
    ) -> tuple[Tensor, tuple[Any, ...]]:
        """Logits after every token of a chunk, and the state after the last valid one."""
        h, state = self.backbone.forward_with_state(
            self._embed(x, lengths, starts), state, lengths=lengths, rate=rate, starts=starts
        )
        return self.logits(h), state

    def prefill(
        self,
        x: Tensor,
        state: tuple[Any, ...],
        *,
        lengths: Tensor | None = None,
        rate: float | None = None,
    ) -> tuple[Tensor, tuple[Any, ...]]:
        """A chunk of which only the next token matters: logits (batch, vocabulary) after the last valid token.

        The head runs once a row instead of once a token. Rows without a valid token get logits without a meaning.
        """
        h, state = self.backbone.forward_with_state(self._embed(x, lengths, None), state, lengths=lengths, rate=rate)
        last = torch.full((len(h),), h.shape[1], device=h.device) if lengths is None else lengths
        index = (last.to(torch.int64) - 1).clamp(min=0)
        return self.logits(h[torch.arange(len(h), device=h.device), index]), state

    def constants(self, *, rate: float | None = None) -> tuple[Any, ...]:
        """Those of the layers."""
        return self.backbone.constants(rate=rate)

    def step(
        self,
        x_t: Tensor,
        state: tuple[Any, ...],
        *,
        rate: float | Tensor | None = None,
        constants: tuple[Any, ...] | None = None,
    ) -> tuple[Tensor, tuple[Any, ...]]:
        """Logits (batch, vocabulary) after one more token of each row, x_t (batch,)."""
        check_ids(x_t, self.config.vocabulary_size, axes=("batch",), name="x_t")
        h, state = self.backbone.step(self._scaled(x_t), state, rate=rate, constants=constants)
        return self.logits(h), state

    def logits(self, h: Tensor) -> Tensor:
        """The head: features (..., d_model) of the backbone to logits (..., vocabulary)."""
        weight = self.embedding.weight if self.head is None else self.head.weight
        h = h.to(weight.dtype)
        logits = linear_step(h, weight) if h.dim() == 2 else F.linear(h, weight)
        logits = (
            logits if self.config.rows == self.config.vocabulary_size else logits[..., : self.config.vocabulary_size]
        )
        return logits if self.config.logit_scale == 1.0 else logits * self.config.logit_scale

    def _embed(self, ids: Tensor, lengths: Tensor | None, starts: Tensor | None) -> Tensor:
        if ids.dim() == 2:
            check_lengths(lengths, ids)
            check_starts(starts, ids)
            if lengths is not None:
                ids = torch.where(valid_steps(lengths, ids.shape[1]), ids, 0)
        check_ids(ids, self.config.vocabulary_size, axes=("batch", "length"), name="x")
        return self._scaled(ids)

    def _scaled(self, ids: Tensor) -> Tensor:
        """The embeddings of tokens."""
        x = self.embedding(ids)
        return x if self.config.embedding_scale == 1.0 else x * self.config.embedding_scale

    def _scale_branches(self) -> None:
        """Divide what every branch adds by the square root of their number, as GPT-2 and Mamba do."""
        scale = 1 / math.sqrt(len(self.backbone.layers))
        with torch.no_grad():
            for name, parameter in self.backbone.named_parameters():
                if name.endswith(("out_proj.weight", "o_proj.weight", "out_proj")):
                    parameter.mul_(scale)


def empty_language_model(config: LanguageModelConfig) -> LanguageModel:
    """A language model whose parameters have shapes and no memory, for whoever assigns them next.

    Drawing the weights of a model of 130 million parameters takes seconds, and reading them from a file none.

    Args:
        config: What the model is.

    Returns:
        The model on the device "meta"; on the CPU, freshly initialised, if one of its layers (LSSL) computes its
        numbers with tests on the way.

    Raises:
        InputError: As `LanguageModel`.

    Example:
        >>> from longstate.models.language_model import LanguageModelConfig, empty_language_model
        >>> empty_language_model(LanguageModelConfig()).embedding.weight.device
        device(type='meta')
    """
    if any(isinstance(layer, LSSLConfig) for layer in config.backbone.schedule):
        return LanguageModel(config)
    with torch.device("meta"):
        return LanguageModel(config)
