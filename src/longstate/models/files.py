"""A model as a folder: `model.safetensors` and `config.json`, saved as a pair that no kill can mix.

`config.json` holds the SHA-256 of its weights. A save writes the new configuration as `config.json.next`, then moves
the new weights into place, which is the moment of change, and last moves the new configuration into place. Whoever
finds `config.json.next` compares the digest: it is the right one or it is rubbish. So between any two steps the folder
holds the old model or the new one.
"""

import json
import re
from pathlib import Path
from typing import Any

import torch

from longstate import __version__
from longstate._checks import InputError
from longstate.models import atomic, tensors
from longstate.models.build import Model, build
from longstate.models.serial import config_from_dict, config_to_dict

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
NEXT = "config.json.next"


def save(model: Model, folder: str | Path) -> None:
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
    if not isinstance(model, Model):
        raise InputError(
            f"`model` is a {type(model).__name__}, but a model of longstate is needed; take it out of its wrapper "
            "(`.module`, `._orig_mod`, `.model`) first."
        )
    folder = Path(folder)
    weights = tensors.pack(model.state_dict(), {"format": "pt"})
    entry = {
        "longstate": __version__,
        "model": config_to_dict(model.config),
        "weights": tensors.digest(weights),
    }
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


def load(folder: str | Path) -> Model:
    """Load a model that `save` wrote.

    Args:
        folder: With `model.safetensors` and `config.json`.

    Returns:
        The model on the CPU, in `eval()` mode, its parameters of the type they were saved in.

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
        model = build(config_from_dict(entry.get("model", {})))
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


def _settle(folder: Path) -> None:
    """Finish a save that came as far as its weights, or drop what it left."""
    pending = folder / NEXT
    if not pending.exists():
        return
    weights = folder / WEIGHTS
    try:
        if weights.exists() and tensors.digest(weights.read_bytes()) == _read_json(pending).get("weights"):
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
    """The type of what is not in the file (statistics of the input): that of the encoder's weights."""
    return found["encoder.linear.weight"].dtype
