"""What readers of published image models share: the names of classes, and the model that tensors make up."""

from typing import NamedTuple

import torch
from torch import Tensor

from longstate._checks import InputError
from longstate.models import ImageClassifier, ImageConfig
from longstate.pretrained.checkpoint import Checkpoint
from longstate.pretrained.facts import Facts
from longstate.pretrained.renames import Rename, translate

INPUT = (
    "images as training had them: red, green, blue, of the values 0 to 1 less (0.485, 0.456, 0.406), over (0.229, "
    "0.224, 0.225), if it was on ImageNet"
)


class OfficialImageModel(NamedTuple):
    """A model that was read: what it is, its tensors by our names, and what was assumed about it."""

    title: str
    config: ImageConfig
    tensors: dict[str, Tensor]
    assumed: tuple[str, ...]

    def build(self) -> ImageClassifier:
        """The model, in `eval()` mode; no weight of it is drawn."""
        with torch.device("meta"):
            model = ImageClassifier(self.config)
        model.load_state_dict(self.tensors, assign=True)
        return model.eval()


def class_names(checkpoint: Checkpoint, facts: Facts, head: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the classes, and what was assumed about them.

    Args:
        checkpoint: Where the head is.
        facts: What the file does not say.
        head: What the names of the head begin with.

    Raises:
        InputError: If there are more or fewer names than outputs, or facts that an image model has none of.
    """
    if facts != Facts(names=facts.names):
        raise InputError(
            f"facts other than names were given, but `{checkpoint.path}` holds a classifier of images, to which only "
            "`names` (--names) can be added; leave the others out."
        )
    outputs = shape_of(checkpoint, f"{head}weight", 2)[0]
    if facts.names is None:
        return tuple(str(number) for number in range(outputs)), ("classes named by their numbers (names)",)
    if len(facts.names) != outputs:
        raise InputError(
            f"`names` are {len(facts.names)}, but `{checkpoint.path}` has {outputs} classes; give one name for each."
        )
    return facts.names, ()


def read_tensors(checkpoint: Checkpoint, config: ImageConfig, renames: list[Rename]) -> dict[str, Tensor]:
    """Take the tensors that a table names, in the shapes that the model of a configuration has.

    Raises:
        InputError: If the configuration cannot be built, or a tensor is missing or misshapen.
    """
    try:
        with torch.device("meta"):
            wanted = ImageClassifier(config).state_dict()
    except InputError as error:
        raise InputError(f"`{checkpoint.path}` holds a model that cannot be built: {error}") from error
    return translate(checkpoint, renames, wanted)


def shape_of(checkpoint: Checkpoint, name: str, *axes: int) -> tuple[int, ...]:
    """Shape of a tensor that must have one of these numbers of axes.

    Raises:
        InputError: If there is none of this name, or it has another number of axes, or a size of 0.
    """
    shape = checkpoint.shape(name)
    if len(shape) not in axes or 0 in shape:
        raise InputError(
            f"`{checkpoint.path}` has {name} of shape {shape}, but {' or '.join(map(str, axes))} axes are needed; "
            "it is no image model that longstate knows."
        )
    return shape


def flattened(x: Tensor) -> Tensor:
    """A map that was saved as a 1 x 1 convolution, as a matrix."""
    return x.flatten(1)
