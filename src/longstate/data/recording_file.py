"""Reading one recording, whatever its format."""

from collections.abc import Sequence
from pathlib import Path

from longstate._checks import InputError
from longstate.data.array_file import read_array_recording
from longstate.data.parquet import read_parquet_recording
from longstate.data.recording import Recording, channel_indices, existing_file
from longstate.data.text_table import read_text_recording
from longstate.data.wave_file import read_wave_recording

WITH_COLUMNS = {".csv": read_text_recording, ".tsv": read_text_recording, ".parquet": read_parquet_recording}
WITHOUT_NAMES = {".npy": read_array_recording, ".npz": read_array_recording, ".wav": read_wave_recording}
SUFFIXES = (*WITH_COLUMNS, *WITHOUT_NAMES)


def read_recording(path: str | Path, *, channels: Sequence[str] | None = None) -> Recording:
    r"""Read one recording.

    Args:
        path: A CSV file (comma, semicolon or tab; with or without a header), or a Parquet, NPY, NPZ or WAV file. One
            row a step, one column a channel; an array of one axis is one channel.
        channels: The channels wanted, in this order: by name where the file has names, or else by position. All if
            None.

    Returns:
        `x` (length, channels) float32, the channels' names or None, and the sampling rate in Hz or None.

    Raises:
        InputError: If the file is missing, empty, cut off, of another kind, or holds anything but finite numbers.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "walk.csv"
        ...     _ = path.write_text("ax,ay\n0.5,1\n0.25,2\n")
        ...     x, channels, sampling_rate = read_recording(path)
        >>> x.tolist(), channels, sampling_rate
        ([[0.5, 1.0], [0.25, 2.0]], ('ax', 'ay'), None)
    """
    path = existing_file(path)
    suffix = path.suffix.lower()
    if suffix in WITH_COLUMNS:
        return WITH_COLUMNS[suffix](path, channels)
    if suffix not in WITHOUT_NAMES:
        raise InputError(
            f"{path} ends in {path.suffix or 'no suffix'!r}, but recordings are read from {', '.join(SUFFIXES)}; "
            "convert it to one of these."
        )
    recording = WITHOUT_NAMES[suffix](path)
    channel_indices(path, None, recording.x.shape[1], channels)
    return recording
