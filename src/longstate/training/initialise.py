"""Beginning from the weights of another model."""

from pathlib import Path
from typing import NamedTuple

import torch

from longstate import models
from longstate._checks import InputError
from longstate.models import LanguageModel, LanguageModelConfig, Model


class Initialised(NamedTuple):
    """What became of every tensor.

    Args:
        used: Names of the tensors that were taken over.
        left: Names of the model's tensors that stay as they were initialised.
        not_used: Names of the other model's tensors that were not taken.
    """

    used: tuple[str, ...]
    left: tuple[str, ...]
    not_used: tuple[str, ...]


def initialise_from(model: Model | LanguageModel, folder: str | Path) -> Initialised:
    """Take over every tensor of a saved model that has the same name and shape.

    A head for another number of classes stays as it was initialised. So does the head of equally many classes of other
    names, since its rows would stand for the wrong ones. A language model begins with another language model.

    Args:
        model: The model to begin with; its tensors are written in place.
        folder: A saved model, or a run that has one in `model/`.

    Returns:
        What was taken, what was left and what was not used.

    Raises:
        InputError: If `folder` holds no model, or nothing in it fits; `model` is unchanged then.

    Example:
        >>> import tempfile
        >>> from longstate.models import BackboneConfig, ClassifierConfig, build, save
        >>> from longstate.training import initialise_from
        >>> small = BackboneConfig(4, 1)
        >>> old = build(ClassifierConfig(d_input=1, classes=("a", "b"), backbone=small))
        >>> new = build(ClassifierConfig(d_input=1, classes=("a", "b", "c"), backbone=small))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(old, folder)
        ...     initialise_from(new, folder).left
        ('head.weight', 'head.bias')
    """
    folder = Path(folder)
    inner = folder / "model"
    other = _load(inner if inner.is_dir() else folder, model)
    keeps_head = _answers(other) == _answers(model)
    theirs, ours = other.state_dict(), model.state_dict()
    used = tuple(
        name
        for name, tensor in theirs.items()
        if name in ours
        and ours[name].shape == tensor.shape
        and (keeps_head or not name.startswith(("head.", "embedding.")))
    )
    if not any(name.startswith("backbone.") for name in used):
        raise InputError(
            f"no tensor of the backbone in {folder} fits this model (there {other.config.backbone}, here "
            f"{model.config.backbone}), but one at least must; give a model of the same width and layers."
        )
    with torch.no_grad():
        for name in used:
            ours[name].copy_(theirs[name])
    return Initialised(
        used=used,
        left=tuple(name for name in ours if name not in used),
        not_used=tuple(name for name in theirs if name not in used),
    )


def _load(folder: Path, model: Model | LanguageModel) -> Model | LanguageModel:
    """The model in a folder, if it is a language model where one is needed."""
    if not isinstance(model, LanguageModel):
        return models.load_model(folder)
    other = models.load(folder)
    if not isinstance(other, LanguageModel):
        raise InputError(
            f"{folder} holds a {type(other).__name__}, but a language model begins with a language model; give the "
            "folder of one."
        )
    return other


def _answers(model: Model | LanguageModel) -> tuple[str, ...] | str | None:
    """The names of a model's outputs; the tokenizer of a language model."""
    config = model.config
    if isinstance(config, LanguageModelConfig):
        return config.tokenizer
    return config.targets if isinstance(config, models.NumberConfig) else config.classes
