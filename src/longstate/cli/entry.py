"""The door of the command line: it loads nothing heavy and turns every error into one sentence."""

import errno
import os
import sys
from typing import NoReturn

_ROOM = "make room there, or write somewhere else"
_ADVICE = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EFBIG: _ROOM,
    errno.ENOENT: "check the path",
    errno.EACCES: "ask for the right to it, or give another path",
    errno.EROFS: "give another path",
}

DONE, DEFECT, USER, INTERRUPTED = 0, 1, 2, 130
"""Exit codes: a defect of longstate, something the user can put right, Ctrl-C."""

WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "3000"}
"""How torch's threads wait for each other: they spin for a moment and then sleep.

By default they spin for milliseconds, which multiplies the time of a training step where another program runs; threads
that sleep at once wake late, which costs a decoded token up to half its time where none does (`benchmarks/waiting.py`).
The number is read by GNU's runtime alone, in which it goes before the policy.
"""


def main(arguments: list[str] | None = None) -> None:
    """Run the command `longstate` and exit.

    Args:
        arguments: What follows the name of the command; those of the process if None.

    Raises:
        SystemExit: Always: 0 done, 1 a defect, 2 something that the user can put right, 130 interrupted.
    """
    given = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in given
    # It is read when torch is loaded, and whoever sets one of the variables is obeyed.
    if not any(name in os.environ for name in WAITING):
        os.environ.update(WAITING)
    try:
        from longstate.cli.app import app
    except ModuleNotFoundError as error:
        if debug or (error.name or "").startswith("longstate"):
            raise
        leave(f"The command line needs {error.name}, which is not installed: pip install 'longstate[cli]'", USER)
    try:
        app([argument for argument in given if argument != "--debug"], prog_name="longstate")
    except KeyboardInterrupt:
        leave("", INTERRUPTED)
    except Exception as error:  # every command leaves through this one door, so that no traceback reaches a user
        if debug:
            raise
        leave(sentence(error), USER if is_users(error) else DEFECT)


def leave(message: str, code: int) -> NoReturn:
    """Print one line on standard error and exit."""
    if message:
        print(message, file=sys.stderr)
    raise SystemExit(code)


def is_users(error: Exception) -> bool:
    """Whether the user can put it right: an input, a file, a disk, the memory of the machine."""
    checks = sys.modules.get("longstate._checks")  # loads torch: it is there if such an error was raised
    return isinstance(error, OSError | MemoryError) or (checks is not None and isinstance(error, checks.InputError))


def sentence(error: Exception) -> str:
    """What happened and what to do, in one sentence."""
    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        return f"{error.strerror or error}{where}; {_ADVICE.get(error.errno or 0, 'put that right and run it again')}."
    if isinstance(error, MemoryError):
        return "The memory of this machine is used up; give a smaller training.batch_size or training.crop."
    if is_users(error):
        return str(error)
    kind = type(error).__name__
    first = str(error).strip().partition("\n")[0]
    return f"{kind}: {first} (a defect of longstate: run the command again with --debug to see where, and report it)."
