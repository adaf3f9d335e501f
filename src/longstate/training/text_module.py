"""One training step and one validation step over documents, for Lightning to repeat."""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils import _pytree

from longstate.data import Documents, TokenBatch, TokenRows, TokenStreams
from longstate.data.token_batches import NOT_COUNTED
from longstate.models import LanguageModel
from longstate.training.config import TextTrainingConfig
from longstate.training.evaluate_text import end_token, perplexity, starts_of, streamed_loss, token_loss
from longstate.training.loaders import TrainingRows
from longstate.training.run_module import Measures, RunModule, wide_sums
from longstate.training.standing import Standing


class TextModule(RunModule):
    """A language model; see `RunModule`.

    Validation is as training: with carried state over whole documents, else with a state that begins anew after every
    `sequence_length` tokens.
    """

    sample: ClassVar[str] = "tokens"
    measures: ClassVar[tuple[str, ...]] = ("loss", "bits_per_byte", "perplexity")

    model: LanguageModel
    config: TextTrainingConfig

    def __init__(
        self,
        model: LanguageModel,
        train: Documents,
        validation: Documents | None,
        config: TextTrainingConfig,
        standing: Standing,
    ) -> None:
        super().__init__(model, config, standing, validates=validation is not None, headline="loss")
        self.documents = {"train": train, "val": validation}
        self._streamed: Any = None

    def setup(self, stage: str) -> None:
        """Share the documents among the processes, as soon as their number is known."""
        config, train, validation = self.config, self.documents["train"], self.documents["val"]
        rank, processes = self.trainer.global_rank, self.trainer.world_size
        end, batch_size = end_token(self.model), config.batch_size // processes
        self.rows = TokenRows(
            train,
            batch_size,
            config.sequence_length,
            end=end,
            seed=config.seed,
            carry_state=config.carry_state,
            rank=rank,
            world_size=processes,
        )
        self.batches_per_epoch = len(self.rows)
        self.streams = (
            None
            if validation is None
            else TokenStreams(
                validation,
                batch_size,
                config.sequence_length,
                end=end,
                context=None if config.carry_state else config.sequence_length,
                rank=rank,
                world_size=processes,
            )
        )

    def measured(self, sums: Tensor, part: str) -> Measures:
        """Loss and perplexity of a token, and bits of a byte."""
        documents, loss = self.documents[part], float(sums[0]) / max(float(sums[1]), 1.0)
        tokens_per_byte = 0.0 if documents is None else documents.predictions / documents.bytes
        return {
            "loss": loss,
            "bits_per_byte": loss / math.log(2) * tokens_per_byte,
            "perplexity": perplexity(loss),
        }

    def train_dataloader(self) -> TrainingRows:
        """What is left of the epoch, then whole epochs."""
        return TrainingRows(self.rows, self.standing)

    def val_dataloader(self) -> Any:
        """Every validation document once, or nothing."""
        return [] if self.streams is None else self.streams

    def training_step(self, batch: TokenBatch, batch_idx: int) -> Tensor:
        """The mean loss of the tokens of a batch."""
        self.seed_step()
        logits = self._carried(batch) if self.config.carry_state else self.model(batch.ids, starts=starts_of(batch))
        loss = token_loss(logits, batch.targets)
        count = (batch.targets != NOT_COUNTED).sum()
        self.count(_sums(loss, count))
        return loss / count.clamp(min=1)

    def validation_step(self, batch: TokenBatch, batch_idx: int) -> None:
        """Count one piece of the documents."""
        loss, self._streamed = streamed_loss(self.model, batch, self._streamed if batch_idx else None)
        self.count_validation(_sums(loss, (batch.targets != NOT_COUNTED).sum()))

    def _carried(self, batch: TokenBatch) -> Tensor:
        """Logits from where the rows ended in the batch before; nothing is remembered at the beginning of an epoch."""
        state = self.model.initial_state(len(batch.ids))
        if self.standing.batch:
            _, structure = _pytree.tree_flatten(state)
            state = _pytree.tree_unflatten([leaf.to(self.device) for leaf in self.carried], structure)
        logits, state = self.model.forward_with_state(batch.ids, state, starts=starts_of(batch))
        self.carried = tuple(leaf.detach() for leaf in _pytree.tree_leaves(state))
        return logits


def _sums(loss: Tensor, count: Tensor) -> Tensor:
    """Loss, weight, twice nothing, and tokens (5,)."""
    nothing = torch.zeros_like(count)
    return wide_sums(loss, count, nothing, nothing, count)
