"""Writing a file so that a kill, a full disk or a lost power line leaves the old one or the new one, whole."""

import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from longstate._checks import InputError


def write(path: Path, data: bytes | Iterable[bytes | memoryview]) -> None:
    """Write a file under another name beside its place, and move it there when it is on the disk.

    Args:
        path: The place; a file that is there is replaced. Its folder must exist.
        data: What it holds, whole or in pieces.

    Raises:
        InputError: If the system refuses (a full disk, a missing right); what was there before is left as it was.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from longstate.models import atomic
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     atomic.write(Path(folder) / "x.json", b"{}")
        ...     (Path(folder) / "x.json").read_text()
        '{}'
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        try:
            with open(draft, "xb") as file:
                file.writelines([data] if isinstance(data, bytes) else data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, path)
        except BaseException:
            remove(draft)
            raise
        sync_folder(path.parent)
    except OSError as error:
        raise refused(path, error) from error


def move(source: Path, target: Path) -> None:
    """Rename a file within its folder, for good."""
    os.replace(source, target)
    sync_folder(target.parent)


def remove(path: Path) -> None:
    """Remove a file, if it is there."""
    path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder onto the disk, where the system lets one ask for it."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def refused(path: Path, error: OSError) -> InputError:
    """The sentence for a file that the system would not write."""
    return InputError(
        f"`{path}` could not be written ({error.strerror or error}), but a folder with room and the right to write is "
        "needed; make room or choose another folder (what was saved there before is unharmed)."
    )
