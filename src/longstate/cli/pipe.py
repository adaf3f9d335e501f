"""Standard input as blocks of bytes, left at a signal without losing a byte that was taken."""

import os
import select
import signal
import sys
from collections.abc import Iterator
from types import TracebackType

BLOCK = 1 << 16


class Stop:
    """While entered, remembers the first SIGINT or SIGTERM instead of dying of it, and wakes whoever waits."""

    def __init__(self) -> None:
        self.signal = 0

    def __enter__(self) -> "Stop":
        self.wake, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._handlers = {number: signal.signal(number, self._remember) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._write)
        os.close(self.wake)

    def _remember(self, number: int, _: object) -> None:
        self.signal = self.signal or number


def blocks(descriptor: int, stop: Stop) -> Iterator[bytes]:
    """Whatever has arrived, as soon as it has; an empty block marks the end of the input, and a signal just ends.

    Args:
        descriptor: An open file to read from.
        stop: Asked, and waited for, before each read only: what was read is always handed on.

    Yields:
        Between 0 and 64 KiB; 0 once, at the end.
    """
    while not stop.signal:
        if sys.platform != "win32":  # there, only sockets can be waited for, and a signal is seen after the next row
            ready, _, _ = select.select([descriptor, stop.wake], [], [])
            if descriptor not in ready:
                continue
        block = os.read(descriptor, BLOCK)
        yield block
        if not block:
            return
