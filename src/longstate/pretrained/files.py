"""Opening checkpoints: safetensors or files of `torch.save`, whole or in shards. No program in them is ever run."""

import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from longstate._checks import InputError
from longstate.pretrained.checkpoint import Checkpoint, Stored, some

_PICKLED = (".pt", ".pth", ".ckpt", ".bin")
_MISTRAL = "consolidated.safetensors"
_IN_FOLDER = (
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
    _MISTRAL,
)
_NESTED = ("state_dict", "model_state_dict", "model")
_WRAPPERS = ("module.", "_orig_mod.")


def open_checkpoint(path: str | Path) -> Checkpoint:
    """The tensors of a checkpoint, by name.

    A state dict inside another dictionary ("state_dict" of Lightning, "model" of many scripts) is found, and what
    DataParallel and torch.compile put before every name ("module.", "_orig_mod.") is dropped.

    Args:
        path: A file (.safetensors, .pt, .pth, .ckpt, .bin), the index of a sharded one (.index.json), or a folder of
            Hugging Face with one of these.

    Returns:
        The checkpoint, nothing of it read yet where the format allows that.

    Raises:
        InputError: If it is missing, cut short, of another format, or holds a program beside its tensors.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from longstate.pretrained.files import open_checkpoint
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save({"state_dict": {"module.D": torch.ones(3)}, "epoch": 7}, f"{folder}/last.ckpt")
        ...     checkpoint = open_checkpoint(f"{folder}/last.ckpt")
        >>> checkpoint.names, checkpoint.shape("D")
        (('D',), (3,))
    """
    path = Path(path)
    if path.is_dir():
        inside = next((path / name for name in _IN_FOLDER if (path / name).is_file()), None)
        if inside is None:
            raise InputError(
                f"`{path}` is a folder without {' or '.join(_IN_FOLDER)}, but a checkpoint is needed; give its file."
            )
        config_path = _config_path(inside)
        return Checkpoint(path, _unwrapped(_stored(inside)), _config(config_path), config_path)
    if not path.exists():
        raise InputError(f"`{path}` does not exist, but a checkpoint is needed; check the path.")
    config_path = _config_path(path)
    return Checkpoint(path, _unwrapped(_stored(path)), _config(config_path), config_path)


def _stored(path: Path) -> dict[str, Stored]:
    if path.name.endswith(".index.json"):
        return _shards(path)
    if path.suffix == ".safetensors":
        return _safetensors(path)
    if path.suffix in _PICKLED:
        return _pickled(path)
    raise InputError(
        f"`{path}` ends in {path.suffix or 'nothing'}, but .safetensors, {', '.join(_PICKLED)} or .index.json is "
        "needed; name it after what it is."
    )


def _safetensors(path: Path) -> dict[str, Stored]:
    try:
        file = safe_open(path, framework="pt")
        names = list(file.keys())
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
    except (SafetensorError, OSError) as error:
        raise _damaged(path, "safetensors", error) from error
    return {name: Stored(shapes[name], _reader(file, name)) for name in names}


def _reader(file: Any, name: str) -> Any:
    return lambda: file.get_tensor(name)


def _pickled(path: Path) -> dict[str, Stored]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of protocols newer than torch writes; what cannot be read is an error
            # Only the newer of torch's two formats, a zip archive, can be mapped and not read.
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise _refused(path, error) from error
    except (RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise _damaged(path, "torch.save", error) from error
    tensors = _state_dict(path, content)
    return {name: Stored(tuple(tensor.shape), _holder(tensor)) for name, tensor in tensors.items()}


def _holder(tensor: Tensor) -> Any:
    return lambda: tensor.detach()


def _state_dict(path: Path, content: Any) -> dict[str, Tensor]:
    """The tensors in what a file holds: the dictionary itself, or the one inside that is a state dict."""
    if isinstance(content, Mapping) and not _is_state_dict(content):
        inner = {str(key): value for key, value in content.items() if _is_state_dict(value)}
        chosen = next((key for key in _NESTED if key in inner), None)
        if chosen is None and len(inner) > 1:
            raise InputError(
                f"`{path}` holds the state dicts {some(inner, 4)}, but one is needed; save the right one by itself, "
                "with `torch.save`."
            )
        content = inner[chosen] if chosen else next(iter(inner.values()), content)
    if not _is_state_dict(content):
        raise InputError(
            f"`{path}` holds a {type(content).__name__}, but a state dict is needed, which maps names to tensors; "
            "save `model.state_dict()`."
        )
    wrong = next((name for name, value in content.items() if not isinstance(value, Tensor)), None)
    if wrong is not None:
        raise InputError(
            f"`{path}` has a {type(content[wrong]).__name__} under {wrong!r}, but a state dict holds tensors; "
            "save `model.state_dict()` by itself."
        )
    return dict(content)


def _is_state_dict(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and all(isinstance(key, str) for key in value)
        and any(isinstance(entry, Tensor) for entry in value.values())
    )


def _shards(path: Path) -> dict[str, Stored]:
    try:
        files: dict[str, str] = json.loads(path.read_bytes())["weight_map"]
        names = {str(name): str(file) for name, file in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise _damaged(path, "JSON with a weight_map", error) from error
    opened: dict[str, dict[str, Stored]] = {}
    for file in dict.fromkeys(names.values()):
        if Path(file).name != file or file.endswith(".index.json"):
            raise InputError(
                f"`{path}` names the shard {file!r}, but a file beside it is needed; do not use an index that points "
                "elsewhere."
            )
        if not (path.parent / file).is_file():
            raise InputError(f"`{path.parent}` lacks the shard {file}, which {path.name} names; copy it too.")
        opened[file] = _stored(path.parent / file)
    missing = [name for name, file in names.items() if name not in opened[file]]
    if missing:
        raise InputError(
            f"`{path}` places {some(missing, 3)} in shards that do not hold them, but index and shards of one "
            "checkpoint are needed; copy all of them again."
        )
    return {name: opened[file][name] for name, file in names.items()}


def _unwrapped(stored: dict[str, Stored]) -> dict[str, Stored]:
    """Without what wrappers put before every name, however often."""
    for wrapper in _WRAPPERS * 2:
        if stored and all(name.startswith(wrapper) for name in stored):
            stored = {name.removeprefix(wrapper): tensor for name, tensor in stored.items()}
    return stored


def _config_path(file: Path) -> Path:
    return file.with_name("params.json" if file.name == _MISTRAL else "config.json")


def _config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_bytes())
    except ValueError as error:
        raise _damaged(path, "JSON", error) from error
    return config if isinstance(config, dict) else {}


def _refused(path: Path, error: Exception) -> InputError:
    """The sentence for a pickle that is more than tensors."""
    named = re.search(r"GLOBAL ([\w.]+)", str(error))
    what = f"`{named[1]}`" if named else "more than tensors"
    return InputError(
        f"`{path}` holds {what} as a pickle, which can run any program when it is opened, so it was not opened, but "
        "tensors alone are needed; where it was made, save its state dict by itself: "
        "`torch.save(checkpoint['state_dict'], 'weights.pt')`."
    )


def _damaged(path: Path, kind: str, error: Exception) -> InputError:
    said = re.split(r"\n|\. ", str(error).strip())[0].rstrip(".") or type(error).__name__
    return InputError(
        f"`{path}` is damaged, cut short or not a file of {kind} ({said}), but a whole checkpoint is needed; "
        "copy it again from where it was saved."
    )
