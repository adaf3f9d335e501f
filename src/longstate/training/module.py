"""One training step and one validation step, for Lightning to repeat."""

from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from longstate._checks import InputError
from longstate.data import Batch, Loader, Recordings, statistics
from longstate.models import Model
from longstate.training.augment import add_noise, flip_channels, random_rate, scale_channels
from longstate.training.config import TrainingConfig
from longstate.training.loaders import EvaluationBatches, TrainingBatches
from longstate.training.optimizer import parameter_groups, schedule, set_rates
from longstate.training.standing import CHECKPOINT_KEY, Row, Standing
from longstate.training.task import Score, build_task


class TrainingModule(L.LightningModule):
    """A model, its objective and where its run stands.

    Everything random in a step is a pure function of (seed, step, rank), the learning rate is one of the step, and the
    batch one of (seed, epoch, batch): weights, optimiser and `standing` are all that a checkpoint needs.

    Lightning's own counters are left out of checkpoints: a run that is taken up again is a new one for Lightning,
    whose first epoch is short.
    """

    def __init__(
        self,
        model: Model,
        train: Recordings,
        validation: Recordings | None,
        config: TrainingConfig,
        standing: Standing,
    ) -> None:
        super().__init__()
        self.model = model
        self.train_recordings = train
        self.validation_recordings = validation
        self.config = config
        self.standing = standing
        self.last_row: Row | None = None
        self.task = build_task(model.config, train, config)
        mean, deviation = statistics(train, "zscore")
        self.register_buffer("channel_mean", torch.tensor(mean, dtype=torch.float32), persistent=False)
        self.register_buffer("channel_deviation", torch.tensor(deviation, dtype=torch.float32), persistent=False)
        self.register_buffer("flipped", flipped_channels(config.flip, train.channels), persistent=False)
        self.sums = torch.zeros(5, dtype=torch.float64)
        self.validation_sums = torch.zeros(5, dtype=torch.float64)

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
        self.total_steps = self.config.epochs * self.batches_per_epoch
        self.validation_batches = (
            None
            if self.validation_recordings is None
            else EvaluationBatches(self.validation_recordings, batch_size, rank=rank, world_size=processes)
        )

    def train_dataloader(self) -> TrainingBatches:
        """What is left of the epoch, then whole epochs."""
        return TrainingBatches(self.loader, self.standing)

    def val_dataloader(self) -> Any:
        """Every validation recording once, or nothing."""
        return [] if self.validation_batches is None else self.validation_batches

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW over the groups that the layers ask for; the rates are set before each step."""
        groups = parameter_groups(self.model, self.config.lr, self.config.weight_decay)
        return torch.optim.AdamW(groups, lr=self.config.lr)

    @property
    def rate_factor(self) -> float:
        """The share of its largest learning rate that each parameter takes at this step."""
        warmup, final_lr = self.config.warmup, self.config.final_lr
        return schedule(self.standing.step, self.total_steps, warmup=warmup, final_lr=final_lr)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Set the learning rates of this step."""
        set_rates(self.trainer.optimizers[0], self.rate_factor)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of a batch; dropout and augmentation start from a seed of this step."""
        seed = step_seed(self.config.seed, self.standing.step, self.global_rank)
        torch.manual_seed(seed)
        x, rate = self._augmented(batch.x, torch.Generator(batch.x.device).manual_seed(seed))
        score = self.task.score(self.model(x, lengths=batch.lengths, rate=rate), batch.y, batch.lengths)
        sums = as_sums(score, len(batch.y))
        self.sums = self.sums.to(sums) + sums
        return score.loss / score.weight.clamp(min=torch.finfo(score.loss.dtype).tiny)

    def on_validation_epoch_start(self) -> None:
        """Count from zero."""
        self.validation_sums = torch.zeros_like(self.validation_sums)

    def validation_step(self, batch: tuple[Batch, int], batch_idx: int) -> None:
        """Count one batch, as far as its rows are this process's own."""
        (x, lengths, y), own = batch
        score = self.task.score(self.model(x, lengths=lengths)[:own], y[:own], lengths[:own])
        sums = as_sums(score, own)
        self.validation_sums = self.validation_sums.to(sums) + sums

    def on_validation_epoch_end(self) -> None:
        """Add up over the processes."""
        self.validation_sums = self.all_sums(self.validation_sums).sum(0)

    def all_sums(self, sums: Tensor) -> Tensor:
        """The sums of every process (processes, 5), in all of them."""
        return torch.as_tensor(self.all_gather(sums.to(self.device))).reshape(-1, 5).cpu().double()

    def start_epoch(self) -> None:
        """Count the training batches from zero."""
        self.sums = torch.zeros_like(self.sums)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put in where the run stands; take out Lightning's counters."""
        del checkpoint["loops"]
        self.standing.sums = self.all_sums(self.sums)
        checkpoint[CHECKPOINT_KEY] = self.standing.to_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Stand where the checkpoint stands."""
        loaded = Standing.from_dict(checkpoint[CHECKPOINT_KEY])
        if len(loaded.sums) != self.trainer.world_size:
            raise InputError(
                f"the checkpoint was written by {len(loaded.sums)} processes, but {self.trainer.world_size} run now; "
                "continue with the same number of devices."
            )
        vars(self.standing).update(vars(loaded))
        self.sums = loaded.sums[self.trainer.global_rank]

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


def step_seed(seed: int, step: int, rank: int) -> int:
    """The seed of everything random in one step of one process.

    Example:
        >>> step_seed(0, 7, 0) == step_seed(0, 7, 0), step_seed(0, 7, 0) == step_seed(0, 7, 1)
        (True, False)
    """
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def as_sums(score: Score, rows: int) -> Tensor:
    """Loss, weight, correct, answers and rows of a batch (5,), in float64 where the device knows it."""
    dtype = torch.float32 if score.loss.device.type == "mps" else torch.float64
    parts = (*score, torch.full_like(score.answers, rows))
    return torch.stack([part.detach().to(dtype) for part in parts])


def own(module: L.LightningModule) -> TrainingModule:
    """The module that Lightning hands to a callback, by its own type."""
    if not isinstance(module, TrainingModule):
        raise InputError(f"the module is a {type(module).__name__}, but a TrainingModule is needed; use `fit`.")
    return module
