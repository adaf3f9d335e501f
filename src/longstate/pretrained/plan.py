"""What a reader of language models makes of a configuration, before any tensor is read."""

from collections.abc import Collection, Sequence
from typing import Literal, NamedTuple

import torch

from longstate._checks import InputError
from longstate.models import BackboneConfig, LanguageModel, LanguageModelConfig, LayerConfig
from longstate.models.language_model import empty_language_model
from longstate.pretrained.checkpoint import Checkpoint
from longstate.pretrained.pieces import Piece, gather
from longstate.pretrained.values import Values


class Plan(NamedTuple):
    """A model, and where its tensors are.

    Args:
        title: What it is, in words.
        config: Of the model.
        pieces: Which tensor of theirs lies where in which of ours.
        doubles: Names of theirs that may hold one of our tensors once more (a tied head), each with that tensor's name.
        assumed: What the configuration does not say, and how it was taken.
    """

    title: str
    config: LanguageModelConfig
    pieces: tuple[Piece, ...]
    doubles: tuple[tuple[str, str], ...] = ()
    assumed: tuple[str, ...] = ()


def build(checkpoint: Checkpoint, plan: Plan, dtype: torch.dtype | None = None) -> LanguageModel:
    """Read a model: nothing is drawn at random, and no weight is copied that need not be.

    Args:
        checkpoint: Where the tensors are.
        plan: The model.
        dtype: Type of the parameters; those of the checkpoint if None.

    Returns:
        The model in `eval()` mode.

    Raises:
        InputError: If a tensor is missing or misshapen, or a double differs.
    """
    embedding = next(piece for piece in plan.pieces if piece.ours == "embedding.weight")
    wanted = (plan.config.rows, plan.config.backbone.d_model)
    # Before anything of these sizes is made.
    if checkpoint.shape(embedding.theirs) != wanted:
        raise InputError(
            f"`{checkpoint.path}` has {embedding.theirs} of shape {checkpoint.shape(embedding.theirs)}, but its "
            f"configuration means {wanted}; use the configuration that was saved with these weights."
        )
    try:
        model = empty_language_model(plan.config)
    except InputError as error:
        raise InputError(f"`{checkpoint.path}` has a configuration that cannot be used: {error}") from error
    tensors = gather(checkpoint, plan.pieces, model.state_dict(), dtype)
    for theirs, ours in plan.doubles:
        if theirs in checkpoint:
            _check_double(checkpoint, theirs, tensors[ours], ours)
    model.load_state_dict(tensors, assign=True)
    return model.eval()


def stack(schedule: Sequence[LayerConfig]) -> tuple[int, tuple[LayerConfig, ...]]:
    """The shortest run of layers that makes up a schedule, and how often it stands there.

    Args:
        schedule: All layers, in order.

    Returns:
        Repeats and run.

    Example:
        >>> from longstate.models import AttentionConfig, MambaConfig
        >>> from longstate.pretrained.plan import stack
        >>> repeats, run = stack([MambaConfig(), AttentionConfig()] * 3)
        >>> repeats, len(run)
        (3, 2)
    """
    total = len(schedule)
    for length in range(1, total):
        if total % length == 0 and tuple(schedule) == tuple(schedule[:length]) * (total // length):
            return total // length, tuple(schedule[:length])
    return 1, tuple(schedule)


def backbone(
    schedule: Sequence[LayerConfig],
    *,
    d_model: int,
    norm: Literal["layer", "rms"],
    norm_eps: float,
    float32_residual: bool,
    branch_scale: float = 1.0,
) -> BackboneConfig:
    """The stack of a schedule: its first layer if all are the same, else its shortest run."""
    repeats, run = stack(schedule)
    return BackboneConfig(
        d_model=d_model,
        n_layers=repeats,
        layer=run[0],
        pattern=run if len(run) > 1 else (),
        norm=norm,
        dropout=0.0,
        norm_eps=norm_eps,
        float32_residual=float32_residual,
        branch_scale=branch_scale,
    )


def count(values: Values, name: str, names: Collection[str] | None) -> int:
    """How many layers (or experts) a configuration means: not more than there are tensors, whatever it says."""
    number = values.integer(name)
    if names is not None and number > len(names):
        raise values.contradiction(name, f"a number that goes with the {len(names)} tensors of the file")
    return number


def _check_double(checkpoint: Checkpoint, theirs: str, tensor: torch.Tensor, ours: str) -> None:
    shape = checkpoint.shape(theirs)
    found = checkpoint.take(theirs, becomes=ours) if shape == tensor.shape else None
    if found is None or not (found.data_ptr() == tensor.data_ptr() or torch.equal(found.to(tensor.dtype), tensor)):
        raise InputError(
            f"`{checkpoint.path}` has a head {theirs} of shape {shape} that is not its embeddings, but its "
            "configuration ties the two; correct `tie_word_embeddings` (or `tie_embeddings`) there."
        )
