"""The named tensors of somebody's checkpoint, read one by one and counted, so that none is lost or taken twice."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from longstate._checks import InputError


class Stored(NamedTuple):
    """A tensor that is still in its file: its shape, and how to read it."""

    shape: tuple[int, ...]
    read: Callable[[], Tensor]


class Used(NamedTuple):
    """A tensor that was taken: its name there, its shape there, and its name here."""

    name: str
    shape: tuple[int, ...]
    ours: str


class Left(NamedTuple):
    """A tensor that was knowingly left: its name and shape, and why it is not needed."""

    name: str
    shape: tuple[int, ...]
    why: str


class Checkpoint:
    """Named tensors of a file, a folder of shards, or a part of either.

    Tensors keep the type they were saved in, and are read when they are taken; what was taken, left or forgotten is
    known at the end.

    Args:
        path: Where they come from, for messages.
        stored: The tensors by name.
        config: What a `config.json` beside them says; empty without one.
        config_path: Of that file; beside `path` if None.

    Example:
        >>> import torch
        >>> from pathlib import Path
        >>> from longstate.pretrained.checkpoint import Checkpoint, Stored
        >>> checkpoint = Checkpoint(Path("x.pt"), {"D": Stored((4,), lambda: torch.ones(4))})
        >>> checkpoint.take("D", becomes="D").sum()
        tensor(4.)
        >>> checkpoint.used
        (Used(name='D', shape=(4,), ours='D'),)
    """

    def __init__(
        self,
        path: Path,
        stored: Mapping[str, Stored],
        config: Mapping[str, Any] | None = None,
        config_path: Path | None = None,
    ) -> None:
        self.path = path
        self.config_path = path / "config.json" if config_path is None else config_path
        self.config: Mapping[str, Any] = {} if config is None else config
        self._stored = dict(stored)
        self._used: dict[str, Used] = {}
        self._left: dict[str, Left] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Of all tensors, in the order of the file."""
        return tuple(self._stored)

    def __contains__(self, name: str) -> bool:
        return name in self._stored

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor.

        Raises:
            InputError: If there is none of this name.
        """
        if name not in self._stored:
            raise InputError(
                f"`{self.path}` lacks {name}, but it is needed beside {some(self.names, 3)}; "
                "copy the whole file again from where it was saved."
            )
        return self._stored[name].shape

    def take(self, name: str, *, becomes: str) -> Tensor:
        """Read a tensor, once.

        Args:
            name: Its name in the file.
            becomes: Its name here.

        Returns:
            The tensor on the CPU, of the type it was saved in.

        Raises:
            InputError: If there is none of this name, or it was taken before.
        """
        shape = self.shape(name)
        if name in self._used:
            raise InputError(
                f"{name} of `{self.path}` was asked for as {becomes}, but it already became {self._used[name].ours}, "
                "and every tensor is used once; report this file to longstate."
            )
        self._used[name] = Used(name, shape, becomes)
        return self._stored[name].read()

    def leave(self, name: str, why: str) -> None:
        """Write down that a tensor is knowingly not used."""
        self._left[name] = Left(name, self.shape(name), why)

    def within(self, prefix: str) -> "Checkpoint":
        """The tensors whose names begin with `prefix`, under their full names; the configuration is not theirs.

        Raises:
            InputError: If there are none.
        """
        inside = {name: stored for name, stored in self._stored.items() if name.startswith(prefix)}
        if not inside:
            raise InputError(
                f"`{self.path}` has no tensor whose name begins with {prefix!r}, but with {some(self.names, 3)}; "
                "give a prefix of those."
            )
        return Checkpoint(self.path, inside)

    @property
    def used(self) -> tuple[Used, ...]:
        """What was taken, in that order."""
        return tuple(self._used.values())

    @property
    def left(self) -> tuple[Left, ...]:
        """What was knowingly left."""
        return tuple(self._left.values())

    @property
    def forgotten(self) -> tuple[str, ...]:
        """Names of what was neither taken nor left."""
        return tuple(name for name in self._stored if name not in self._used and name not in self._left)

    def check_all_used(self, what: str) -> None:
        """Raise if a tensor was neither taken nor left.

        Args:
            what: What the others make up, for the message.
        """
        if self.forgotten:
            raise InputError(
                f"`{self.path}` holds {some(self.forgotten, 3)} besides the tensors of {what}, but what they do there "
                "is not known; use the configuration saved with them, or take one layer with `layer=` (--layer)."
            )


def some(names: Iterable[str], count: int) -> str:
    """The first names of many, as a message lists them."""
    listed = list(names)
    return ", ".join(listed[:count]) + (f" and {len(listed) - count} more" if len(listed) > count else "")
