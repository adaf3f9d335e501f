"""Recordings in WAV files: the RIFF container, its format and its samples."""

import struct
from pathlib import Path

import numpy as np

from longstate._checks import InputError
from longstate.data.recording import Recording, checked_values

PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE


def read_wave_recording(path: Path) -> Recording:
    """One recording from a WAV file, with its sampling rate.

    Whole numbers of 8, 16, 24 or 32 bits are scaled to [-1, 1); floating point numbers stay as they are. The
    standard library's `wave` is not used: before Python 3.12 it refuses the header that most programs write for 24-bit
    samples.
    """
    data = path.read_bytes()
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        raise InputError(f"{path} does not begin as a WAV file does; convert it to a WAV file, or rename it.")
    chunks = _chunks(data, path)
    if b"fmt " not in chunks or b"data" not in chunks or len(chunks[b"fmt "]) < 16:
        raise InputError(
            f"{path} has no format or no samples, but a WAV file needs both; it may be cut off: copy it again."
        )
    code, channels, rate, _, block, bits = struct.unpack("<HHIIHH", chunks[b"fmt "][:16])
    if code == EXTENSIBLE and len(chunks[b"fmt "]) >= 26:
        code = struct.unpack("<H", chunks[b"fmt "][24:26])[0]
    if (code, bits) not in {(PCM, 8), (PCM, 16), (PCM, 24), (PCM, 32), (FLOAT, 32), (FLOAT, 64)} or channels < 1:
        raise InputError(
            f"{path} holds samples of {bits} bits in format {code}, but PCM of 8, 16, 24 or 32 bits or floating point "
            "is needed; convert it to 16-bit PCM."
        )
    if len(chunks[b"data"]) % block or block != channels * bits // 8:
        raise InputError(
            f"{path} ends within a sample, but whole samples are needed; it may be cut off: copy it again."
        )
    samples = _samples(chunks[b"data"], code, bits)
    return Recording(checked_values(samples.reshape(-1, channels), path), sampling_rate=float(rate))


def _chunks(data: bytes, path: Path) -> dict[bytes, bytes]:
    """The parts of a RIFF file by name."""
    chunks, start = {}, 12
    while start + 8 <= len(data):
        name, size = struct.unpack("<4sI", data[start : start + 8])
        if start + 8 + size > len(data):
            raise InputError(
                f"{path} announces {size} bytes of {name.decode('latin1').strip()!r}, but {len(data) - start - 8} are "
                "there; the file was cut off, so copy or record it again."
            )
        chunks.setdefault(name, data[start + 8 : start + 8 + size])
        start += 8 + size + size % 2
    return chunks


def _samples(data: bytes, code: int, bits: int) -> np.ndarray:
    """Samples as floating point numbers, whole numbers divided by their range."""
    if code == FLOAT:
        return np.frombuffer(data, f"<f{bits // 8}")
    if bits == 8:  # the only width that is unsigned
        return (np.frombuffer(data, np.uint8).astype(np.float32) - 128) / 128
    if bits == 24:
        wide = np.zeros((len(data) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        return wide.view("<i4")[:, 0] / np.float64(2**31)
    return np.frombuffer(data, f"<i{bits // 8}") / np.float64(2 ** (bits - 1))
