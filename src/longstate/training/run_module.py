"""What one step of any run needs, for Lightning to repeat: the rates, the counts, and what a checkpoint holds."""

import abc
from typing import Any, ClassVar

import lightning as L
import numpy as np
import torch
from torch import Tensor

from longstate._checks import InputError
from longstate.models import LanguageModel, Model
from longstate.training.config import RunConfig
from longstate.training.optimizer import parameter_groups, schedule, set_rates
from longstate.training.standing import CHECKPOINT_KEY, Row, Standing

CARRIED = "longstate_carried"
"""Where a checkpoint holds what goes from one step to the next beside weights and optimiser: `RunModule.carried`."""

Measures = dict[str, float | None]
"""What is said of an epoch or a part of it, by name; the loss is among it."""


class RunModule(L.LightningModule, abc.ABC):
    """A model, its objective and where its run stands.

    Everything random in a step is a pure function of (seed, step, rank), the learning rate is one of the step, and the
    batch one of (seed, epoch, batch): weights, optimiser and `standing` are all that a checkpoint needs.

    Lightning's own counters are left out of checkpoints: a run that is taken up again is a new one for Lightning,
    whose first epoch is short.

    Args:
        model: What is trained.
        config: How.
        standing: Where the run stands.
        validates: Whether epochs are validated.
        headline: The measure that is shown as the best so far, and that makes an epoch the best if it is "accuracy".
    """

    sample: ClassVar[str]
    measures: ClassVar[tuple[str, ...]]

    batches_per_epoch: int

    def __init__(
        self, model: Model | LanguageModel, config: RunConfig, standing: Standing, *, validates: bool, headline: str
    ) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.standing = standing
        self.validates = validates
        self.headline = headline
        self.last_row: Row | None = None
        self.carried: tuple[Tensor, ...] = ()
        self.sums = torch.zeros(5, dtype=torch.float64)
        self.validation_sums = torch.zeros(5, dtype=torch.float64)

    @abc.abstractmethod
    def measured(self, sums: Tensor, part: str) -> Measures:
        """What the sums (5,) of a part, "train" or "val", say: a value for each of `measures`."""

    @classmethod
    def columns(cls) -> tuple[str, ...]:
        """Of the log."""
        measures = [f"{part}_{name}" for part in ("train", "val") for name in cls.measures]
        return ("epoch", "step", *measures, "lr", "seconds", f"{cls.sample}_per_second")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW over the groups that the layers ask for; the rates are set before each step."""
        groups = parameter_groups(self.model, self.config.lr, self.config.weight_decay)
        return torch.optim.AdamW(groups, lr=self.config.lr)

    @property
    def total_steps(self) -> int:
        """Steps of the whole run, if no clock ends it."""
        return self.config.epochs * self.batches_per_epoch

    @property
    def time_used(self) -> float:
        """The share of `max_minutes` that is spent; 0 where there is no limit."""
        if self.config.max_minutes is None:
            return 0.0
        return (self.standing.spent + self.standing.seconds) / (60 * self.config.max_minutes)

    @property
    def rate_factor(self) -> float:
        """The share of its largest learning rate that each parameter takes at this step."""
        step, last = self.standing.step, self.total_steps - 1
        if self.config.max_minutes is not None:
            used = self.trainer.strategy.broadcast(self.time_used)  # one clock for all processes
            step = min(max(step, int(used * self.total_steps)), last)
        return schedule(step, self.total_steps, warmup=self.config.warmup, final_lr=self.config.final_lr)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Set the learning rates of this step."""
        set_rates(self.trainer.optimizers[0], self.rate_factor)

    def seed_step(self) -> int:
        """Let everything random in this step begin from a seed of its own."""
        seed = step_seed(self.config.seed, self.standing.step, self.global_rank)
        torch.manual_seed(seed)
        return seed

    def count(self, sums: Tensor) -> None:
        """Add a training batch."""
        self.sums = self.sums.to(sums) + sums

    def count_validation(self, sums: Tensor) -> None:
        """Add a validation batch."""
        self.validation_sums = self.validation_sums.to(sums) + sums

    def on_validation_epoch_start(self) -> None:
        """Count from zero."""
        self.validation_sums = torch.zeros_like(self.validation_sums)

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
        checkpoint[CARRIED] = list(self.carried)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Stand where the checkpoint stands."""
        loaded = Standing.from_dict(checkpoint[CHECKPOINT_KEY])
        self.carried = tuple(checkpoint[CARRIED])
        if len(loaded.sums) != self.trainer.world_size:
            raise InputError(
                f"the checkpoint was written by {len(loaded.sums)} processes, but {self.trainer.world_size} run now; "
                "continue with the same number of devices."
            )
        vars(self.standing).update(vars(loaded))
        self.sums = loaded.sums[self.trainer.global_rank]


def wide_sums(*parts: Tensor) -> Tensor:
    """Scalars side by side, in float64 where the device knows it."""
    dtype = torch.float32 if parts[0].device.type == "mps" else torch.float64
    return torch.stack([part.detach().to(dtype) for part in parts])


def step_seed(seed: int, step: int, rank: int) -> int:
    """The seed of everything random in one step of one process.

    Example:
        >>> step_seed(0, 7, 0) == step_seed(0, 7, 0), step_seed(0, 7, 0) == step_seed(0, 7, 1)
        (True, False)
    """
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def own(module: L.LightningModule) -> RunModule:
    """The module that Lightning hands to a callback, by its own type."""
    if not isinstance(module, RunModule):
        raise InputError(f"the module is a {type(module).__name__}, but a RunModule is needed; use `fit`.")
    return module
