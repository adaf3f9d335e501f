"""Reading safetensors files, and nothing else: no file is ever unpickled."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from longstate._checks import InputError

# How pickles begin: a zip archive (torch.save), and protocols 2 to 5 of bare ones.
_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


class TensorFile(NamedTuple):
    """Named tensors, the strings beside them, and the SHA-256 of the whole file."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    digest: str


def pack(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Tensors as the bytes of a safetensors file, from any device."""
    own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    return safetensors.torch.save(own, metadata=dict(metadata))


def digest(data: bytes) -> str:
    """SHA-256, as it is written in `config.json`."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def read(path: Path) -> TensorFile:
    """Read a safetensors file.

    Args:
        path: The file.

    Returns:
        Tensors on the CPU, in memory of their own.

    Raises:
        InputError: If it is missing, cut short, or something else than safetensors.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"`{path}` could not be read ({error.strerror or error}), but a safetensors file is needed; check the path."
        ) from error
    try:
        tensors = safetensors.torch.load(data)
    except SafetensorError as error:
        # Only now: a safetensors file may begin like a pickle, with the length of its header.
        if data.startswith(_PICKLES):
            raise InputError(
                f"`{path}` holds a pickle, but a safetensors file is needed, since a pickle can run any program when "
                "it is opened; convert it where it was made, with `safetensors.torch.save_file`."
            ) from error
        raise InputError(
            f"`{path}` is damaged, cut short or not a safetensors file ({error}), but a whole one is needed; "
            "copy it again from where it was saved."
        ) from error
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return TensorFile(tensors, header.get("__metadata__", {}), digest(data))


def check_fit(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], *, path: Path, owner: str) -> None:
    """Raise unless names and shapes are those wanted, and floating tensors are floating.

    Args:
        found: What the file holds.
        wanted: What the owner has.
        path: The file, for the message.
        owner: Who needs the tensors, for the message.
    """
    faults = [f"lacks {_some(name for name in wanted if name not in found)}"] if wanted.keys() - found.keys() else []
    if found.keys() - wanted.keys():
        faults.append(f"has {_some(name for name in found if name not in wanted)} besides")
    for name in (name for name in wanted if name in found):
        if found[name].shape != wanted[name].shape:
            faults.append(f"has {name} of shape {tuple(found[name].shape)} for {tuple(wanted[name].shape)}")
        elif found[name].is_floating_point() != wanted[name].is_floating_point():
            faults.append(f"has {name} as {found[name].dtype} for {wanted[name].dtype}")
    if faults:
        more = f" and {len(faults) - 3} faults more" if len(faults) > 3 else ""
        raise InputError(
            f"`{path}` {', '.join(faults[:3])}{more}, but exactly the tensors of {owner} are needed; "
            "use the file that was saved with it."
        )


def _some(names: Iterable[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more tensors" if len(listed) > 3 else "")
