"""What a checkpoint does not say about itself, and whoever trained it knows."""

from dataclasses import dataclass
from typing import Literal

from longstate._checks import check_choice, check_positive
from longstate.models.layer_config import Rule
from longstate.theory import RULES

_CHOICES = {
    "rule": RULES,
    "dt_transform": ("exp", "softplus"),
    "task": ("classifier", "tagger", "regressor"),
    "pooling": ("mean", "last"),
}


@dataclass(frozen=True)
class Facts:
    """What is not in a checkpoint; None takes the default that the message of the conversion names.

    Args:
        rule: Discretisation of a diagonal kernel (`disc` in the official configuration).
        dt_transform: How the stored step becomes dt: "exp", or "softplus" as version 4's training configuration has it.
        length: The length for which C was prepared, where the file lacks it (`l_max` in the official configuration).
        task: What a whole model answers: "classifier" (once), "tagger" (at every step), or "regressor" (numbers, once).
        names: Of its classes or targets, in the order of the outputs.
        pooling: What of the steps decides: their "mean" (`mode: pool` in the official configuration), or the "last".

    Raises:
        InputError: If a value is none of those.

    Example:
        >>> from longstate.pretrained import Facts
        >>> Facts(rule="bilinear").dt_transform is None
        True
    """

    rule: Rule | None = None
    dt_transform: Literal["exp", "softplus"] | None = None
    length: int | None = None
    task: Literal["classifier", "tagger", "regressor"] | None = None
    names: tuple[str, ...] | None = None
    pooling: Literal["mean", "last"] | None = None

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value is not None:
                check_choice(value, choices, name=name)
        if self.length is not None:
            check_positive(length=self.length)
