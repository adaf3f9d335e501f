"""A model (or a part of one) as a folder: `model.safetensors` and `config.json`, a pair that no kill can mix.

`config.json` holds the SHA-256 of its weights, that of samples if they are large. A save writes the new configuration
as `config.json.next`, then moves the new weights into place, which is the moment of change, and last moves the new
configuration into place. Whoever finds `config.json.next` compares the digest: it is the right one or it is rubbish. So
between any two steps the folder holds the old model or the new one.
"""

import json
import re
import secrets
from pathlib import Path
from typing import Any

import torch

from longstate import __version__
from longstate._checks import InputError
from longstate.layers import SequenceLayer
from longstate.models import atomic, tensors
from longstate.models.build import Model, build
from longstate.models.image_classifier import ImageClassifier
from longstate.models.language_model import LanguageModel, empty_language_model
from longstate.models.part import PartConfig, build_part
from longstate.models.serial import (
    config_from_dict,
    config_to_dict,
    image_model_from_dict,
    language_model_from_dict,
    part_from_dict,
)

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
NEXT = "config.json.next"


def save(model: Model | LanguageModel | ImageClassifier, folder: str | Path) -> None:
    """Save a model as `model.safetensors` and `config.json`.

    Args:
        model: Any model of this library, not wrapped in another module.
        folder: Made if needed. Other files in it are left alone; a model in it is replaced, and a kill at any moment
            leaves the old model or the new one.

    Raises:
        InputError: If `model` is something else, or the system refuses to write (then the old model is still there).

    Example:
        >>> import tempfile
        >>> from longstate.models import BackboneConfig, TaggerConfig, build, load, save
        >>> model = build(TaggerConfig(d_input=1, classes=("a", "b"), backbone=BackboneConfig(8, 1)))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(model, folder)
        ...     load(folder).config == model.config
        True
    """
    if not isinstance(model, Model | LanguageModel | ImageClassifier):
        raise InputError(
            f"`model` is a {type(model).__name__}, but a model of longstate is needed; take it out of its wrapper "
            "(`.module`, `._orig_mod`, `.model`) first."
        )
    _write(model, {_key(model): config_to_dict(model.config)}, Path(folder))


def save_part(part: SequenceLayer, config: PartConfig, folder: str | Path) -> None:
    """Save a layer or a backbone by itself, as `save` does a model.

    Args:
        part: The layer, as `build_part(config)` makes it: a layer does not know how it was made.
        config: What it is.
        folder: As of `save`.

    Raises:
        InputError: If `part` is not what `config` describes, or the system refuses to write.

    Example:
        >>> import tempfile
        >>> from longstate import S4D
        >>> from longstate.models import LayerPart, S4DConfig, load, save_part
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_part(S4D(4, d_state=8), LayerPart(d_model=4, layer=S4DConfig(d_state=8)), folder)
        ...     type(load(folder)).__name__
        'S4D'
    """
    wanted = build_part(config)
    if type(part) is not type(wanted) or _shapes(part) != _shapes(wanted):
        raise InputError(
            f"`part` is not the {type(wanted).__name__} that `config` describes, but their tensors must have the same "
            "names and shapes; give the configuration that the part was built with."
        )
    _write(part, {"part": config_to_dict(config)}, Path(folder))


def load(folder: str | Path) -> Model | SequenceLayer | ImageClassifier:
    """Load what `save` or `save_part` wrote.

    Args:
        folder: With `model.safetensors` and `config.json`.

    Returns:
        The model (or the layer, or the backbone) on the CPU, in `eval()` mode, its parameters of the type they were
        saved in.

    Raises:
        InputError: If a file is missing, damaged, of a newer version, or does not belong to the other.
    """
    folder = Path(folder)
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise InputError(f"`{folder}` {what}, but the folder of a saved model is needed; check the path.")
    if not (folder / WEIGHTS).exists():
        raise InputError(f"`{folder}` has no {WEIGHTS}, but a saved model is needed; give the folder that holds it.")
    file = tensors.read(folder / WEIGHTS)
    path = folder / CONFIG
    if (folder / NEXT).exists() and _read_json(folder / NEXT).get("weights") == file.digest:
        path = folder / NEXT
    entry = _read_json(path)
    _check_version(entry, path)
    try:
        model = _build(entry)
    except InputError as error:
        raise InputError(f"`{path}` cannot be used: {error}") from error
    tensors.check_fit(file.tensors, model.state_dict(), path=folder / WEIGHTS, owner=f"the model in {path.name}")
    if entry.get("weights", file.digest) != file.digest:
        raise InputError(
            f"`{folder / WEIGHTS}` is not the file that {path.name} was saved with, but both of one model are needed; "
            'copy both again, or remove "weights" from the configuration if they are meant to go together.'
        )
    model.to(_dtype(file.tensors))
    model.load_state_dict(file.tensors, assign=True)
    return model.eval()


def load_model(folder: str | Path) -> Model:
    """Load what `save` wrote: `load` for those who need a whole model, which answers by names.

    Args:
        folder: As of `load`.

    Raises:
        InputError: As `load`, and if the folder holds a layer or a backbone.
    """
    model = load(folder)
    if isinstance(model, Model):
        return model
    if isinstance(model, LanguageModel):
        raise InputError(
            f"`{folder}` holds a language model, but one over recordings is needed; run it with `longstate generate`."
        )
    if isinstance(model, ImageClassifier):
        raise InputError(
            f"`{folder}` holds a model of images, but one over recordings is needed; use `longstate.load(folder)` in "
            "Python."
        )
    raise InputError(
        f"`{folder}` holds a bare {type(model).__name__}, but a model with an encoder and a head is needed; "
        "use `longstate.load(folder)` in Python for a part of one."
    )


def _key(model: Model | LanguageModel | ImageClassifier) -> str:
    """Where the configuration of a model stands in `config.json`."""
    if isinstance(model, LanguageModel):
        return "language_model"
    return "image_model" if isinstance(model, ImageClassifier) else "model"


def _build(entry: dict[str, Any]) -> Model | SequenceLayer | ImageClassifier:
    """What a configuration describes."""
    if "part" in entry:
        return build_part(part_from_dict(entry["part"]))
    if "language_model" in entry:
        return empty_language_model(language_model_from_dict(entry["language_model"]))
    if "image_model" in entry:
        return ImageClassifier(image_model_from_dict(entry["image_model"]))
    return build(config_from_dict(entry.get("model", {})))


def _write(model: torch.nn.Module, description: dict[str, Any], folder: Path) -> None:
    """Write weights and configuration, in the order that the head of this file tells."""
    weights = tensors.parts(model.state_dict(), {"format": "pt", **_mark(model)})
    entry = {"longstate": __version__, **description, "weights": tensors.digest(weights)}
    text = json.dumps(entry, indent=2, ensure_ascii=False) + "\n"
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise atomic.refused(folder, error) from error
    try:
        _settle(folder)
        atomic.write(folder / NEXT, text.encode())
        atomic.write(folder / WEIGHTS, weights)
    finally:
        _settle(folder)
        if is_new and not any(folder.iterdir()):
            folder.rmdir()


def _mark(model: torch.nn.Module) -> dict[str, str]:
    """What makes a large file unlike that of any other save, since its digest does not see every byte."""
    size = sum(tensor.nbytes for tensor in model.state_dict().values())
    return {"saved": secrets.token_hex(8)} if size >= tensors.LARGE // 2 else {}


def _settle(folder: Path) -> None:
    """Finish a save that came as far as its weights, or drop what it left."""
    pending = folder / NEXT
    if not pending.exists():
        return
    weights = folder / WEIGHTS
    try:
        if weights.exists() and tensors.file_digest(weights) == _read_json(pending).get("weights"):
            atomic.move(pending, folder / CONFIG)
        else:
            atomic.remove(pending)
    except OSError as error:
        raise atomic.refused(folder / CONFIG, error) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        entry = json.loads(path.read_bytes().decode())
    except FileNotFoundError as error:
        raise InputError(
            f"`{path.parent}` has no {path.name}, but it is needed beside {WEIGHTS}; copy it from where the model was "
            "saved."
        ) from error
    except OSError as error:
        raise InputError(
            f"`{path}` could not be read ({error.strerror}), but it is needed; check its rights."
        ) from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(
            f"`{path}` is not JSON ({error}), but a configuration is needed; correct that place."
        ) from error
    if not isinstance(entry, dict):
        raise InputError(f"`{path}` holds a {type(entry).__name__}, but a JSON object is needed; save the model again.")
    return entry


def _check_version(entry: dict[str, Any], path: Path) -> None:
    found = entry.get("longstate")
    numbers = re.match(r"(\d+)\.(\d+)", found) if isinstance(found, str) else None
    if numbers is None:
        raise InputError(
            f'`{path}` has "longstate": {found!r}, but the version that saved it is needed there, such as '
            f'"{__version__}"; give the folder of a model that longstate saved.'
        )
    own = re.match(r"(\d+)\.(\d+)", __version__)
    if own and tuple(map(int, numbers.groups())) > tuple(map(int, own.groups())):
        raise InputError(
            f"`{path}` was saved by longstate {found}, but this is {__version__} and knows nothing of newer "
            "configurations; run `pip install --upgrade longstate`."
        )


def _dtype(found: dict[str, torch.Tensor]) -> torch.dtype:
    """The type of what is not in the file (statistics of the input): that of the encoder's weights, or of any other."""
    first = next((tensor for tensor in found.values() if tensor.is_floating_point()), torch.zeros(()))
    return found.get("encoder.linear.weight", first).dtype


def _shapes(module: torch.nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in module.state_dict().items()}
