"""One training step and one validation step over recordings, for Lightning to repeat."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from longstate._checks import InputError
from longstate.data import Batch, Loader, Recordings, statistics
from longstate.models import Model
from longstate.training.augment import add_noise, flip_channels, random_rate, scale_channels
from longstate.training.config import TrainingConfig
from longstate.training.loaders import EvaluationBatches, TrainingBatches
from longstate.training.run_module import Measures, RunModule, wide_sums
from longstate.training.standing import Standing
from longstate.training.task import Score, build_task


class TrainingModule(RunModule):
    """A model of recordings; see `RunModule`."""

    sample: ClassVar[str] = "samples"
    measures: ClassVar[tuple[str, ...]] = ("loss", "accuracy")

    config: TrainingConfig

    def __init__(
        self,
        model: Model,
        train: Recordings,
        validation: Recordings | None,
        config: TrainingConfig,
        standing: Standing,
    ) -> None:
        task = build_task(model.config, train, config)
        by_accuracy = config.monitor == "accuracy" or (config.monitor == "auto" and task.has_classes)
        headline = "accuracy" if by_accuracy else "loss"
        super().__init__(model, config, standing, validates=validation is not None, headline=headline)
        self.task = task
        self.train_recordings = train
        self.validation_recordings = validation
        mean, deviation = statistics(train, "zscore")
        self.register_buffer("channel_mean", torch.tensor(mean, dtype=torch.float32), persistent=False)
        self.register_buffer("channel_deviation", torch.tensor(deviation, dtype=torch.float32), persistent=False)
        self.register_buffer("flipped", flipped_channels(config.flip, train.channels), persistent=False)

    def setup(self, stage: str) -> None:
        """Share the recordings among the processes, as soon as their number is known."""
        rank, processes = self.trainer.global_rank, self.trainer.world_size
        batch_size = self.config.batch_size // processes
        self.loader = Loader(
            self.train_recordings,
            batch_size,
            seed=self.config.seed,
            crop=self.config.crop,
            rank=rank,
            world_size=processes,
        )
        self.batches_per_epoch = len(self.loader)
        self.validation_batches = (
            None
            if self.validation_recordings is None
            else EvaluationBatches(self.validation_recordings, batch_size, rank=rank, world_size=processes)
        )

    def measured(self, sums: Tensor, part: str) -> Measures:
        """Loss and accuracy; no accuracy where there are no classes."""
        loss, weight, correct, answers = (float(value) for value in sums[:4])
        accuracy = correct / max(answers, 1.0) if self.task.has_classes else None
        return {"loss": loss / max(weight, 1e-30), "accuracy": accuracy}

    def train_dataloader(self) -> TrainingBatches:
        """What is left of the epoch, then whole epochs."""
        return TrainingBatches(self.loader, self.standing)

    def val_dataloader(self) -> Any:
        """Every validation recording once, or nothing."""
        return [] if self.validation_batches is None else self.validation_batches

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of a batch; dropout and augmentation start from a seed of this step."""
        seed = self.seed_step()
        x, rate = self._augmented(batch.x, torch.Generator(batch.x.device).manual_seed(seed))
        score = self.task.score(self.model(x, lengths=batch.lengths, rate=rate), batch.y, batch.lengths)
        self.count(as_sums(score, len(batch.y)))
        return score.loss / score.weight.clamp(min=torch.finfo(score.loss.dtype).tiny)

    def validation_step(self, batch: tuple[Batch, int], batch_idx: int) -> None:
        """Count one batch, as far as its rows are this process's own."""
        (x, lengths, y), own = batch
        score = self.task.score(self.model(x, lengths=lengths)[:own], y[:own], lengths[:own])
        self.count_validation(as_sums(score, own))

    def _augmented(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, float | None]:
        """The input of this step, and the speed at which the model takes it."""
        config = self.config
        if config.flip:
            x = flip_channels(x, self.get_buffer("flipped"), generator)
        if config.scale:
            x = scale_channels(x, self.get_buffer("channel_mean"), config.scale, generator)
        if config.noise:
            x = add_noise(x, self.get_buffer("channel_deviation"), config.noise, generator)
        return x, random_rate(config.rate, generator) if config.rate else None


def flipped_channels(flip: tuple[str, ...], channels: tuple[str, ...]) -> Tensor:
    """Which channels `flip` names (channels,), by name or by number from 1.

    Raises:
        InputError: If a channel has no such name or number.
    """
    numbered = {str(number): number - 1 for number in range(1, len(channels) + 1)}
    places = numbered | {name: place for place, name in enumerate(channels)}
    unknown = [name for name in flip if name not in places]
    if unknown:
        raise InputError(
            f"`flip` names the channel {unknown[0]!r}, but there are {', '.join(channels)}; name one of these."
        )
    mask = torch.zeros(len(channels), dtype=torch.bool)
    mask[[places[name] for name in flip]] = True
    return mask


def as_sums(score: Score, rows: int) -> Tensor:
    """Loss, weight, correct, answers and rows of a batch (5,)."""
    return wide_sums(*score, torch.full_like(score.answers, rows))
