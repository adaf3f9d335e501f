"""Reading and writing safetensors files, and nothing else: no file is ever unpickled."""

import hashlib
import json
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from longstate._checks import InputError

LARGE = 2**26
"""Bytes from which on a file is mapped, not read, and its digest is taken of samples: 64 MB."""

_SAMPLES, _SAMPLE = 256, 2**16
# How pickles begin: a zip archive (torch.save), and protocols 2 to 5 of bare ones.
_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


class TensorFile(NamedTuple):
    """Named tensors, the strings beside them, and the digest of the file."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    digest: str


def parts(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> list[bytes | memoryview]:
    """A safetensors file in the pieces it is written by: its header, and the memory of each tensor without a copy.

    Args:
        tensors: By name, on any device.
        metadata: The strings beside them.

    Returns:
        Bytes and views whose concatenation is the file.

    Example:
        >>> import torch
        >>> from longstate.models import tensors
        >>> [len(part) for part in tensors.parts({"a": torch.ones(3)}, {})]
        [64, 12]
    """
    # Wide types first, so that every tensor begins at a multiple of its width.
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    body: list[bytes | memoryview] = []
    end = 0
    for name, tensor in ordered:
        # Contiguous or not, an axis of one element may have any stride, which `view` refuses.
        flat = tensor.detach().cpu().contiguous().as_strided((tensor.numel(),), (1,))
        part = flat.view(torch.uint8).numpy().data
        begin, end = end, end + len(part)
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
        body.append(part)
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return [len(text).to_bytes(8, "little") + text, *body]


def pack(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Tensors as the bytes of a safetensors file, from any device."""
    return b"".join(parts(tensors, metadata))


def digest(pieces: Sequence[bytes | memoryview]) -> str:
    """What `config.json` says of its weights, of a file in pieces: as `file_digest`."""
    ends = list(accumulate(len(piece) for piece in pieces))

    def read(at: int, count: int) -> bytes:
        found = b""
        for number in range(bisect_right(ends, at), len(pieces)):
            begin = at + len(found) - (ends[number] - len(pieces[number]))
            found += pieces[number][begin : begin + count - len(found)]
            if len(found) == count:
                break
        return found

    return _digest(ends[-1], read, lambda: b"".join(pieces))


def file_digest(path: Path) -> str:
    """SHA-256 of a file; of a large one that of its size and of 256 samples of 64 kB, its first and last bytes too.

    A large file is so recognised in a few milliseconds. That finds a file of another save, or one cut short, but not a
    single wrong byte.
    """
    with open(path, "rb") as file:

        def read(at: int, count: int) -> bytes:
            file.seek(at)
            return file.read(count)

        return _digest(path.stat().st_size, read, file.read)


def read(path: Path) -> TensorFile:
    """Read a safetensors file.

    Args:
        path: The file.

    Returns:
        Tensors on the CPU, in memory of their own; those of a large file are mapped: read when they are used, and
        copied when they are changed.

    Raises:
        InputError: If it is missing, cut short, or something else than safetensors.
    """
    try:
        is_large = path.stat().st_size >= LARGE
        with open(path, "rb") as file:
            data = file.read(8 if is_large else -1)
    except OSError as error:
        raise InputError(
            f"`{path}` could not be read ({error.strerror or error}), but a safetensors file is needed; check the path."
        ) from error
    try:
        if is_large:
            return _map(path)
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
    return TensorFile(tensors, header.get("__metadata__", {}), digest([data]))


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


def _map(path: Path) -> TensorFile:
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
        return TensorFile(tensors, file.metadata() or {}, file_digest(path))


def _digest(size: int, read: Callable[[int, int], bytes], whole: Callable[[], bytes]) -> str:
    if size < LARGE:
        return f"sha256:{hashlib.sha256(whole()).hexdigest()}"
    sampled = hashlib.sha256(size.to_bytes(8, "little"))
    for at in (*range(0, size, size // _SAMPLES), size - _SAMPLE):
        sampled.update(read(at, _SAMPLE))
    return f"sha256-sampled:{sampled.hexdigest()}"


def _some(names: Iterable[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more tensors" if len(listed) > 3 else "")
