"""The choice of a backend: by device, dtype and shape alone, so that it traces, and always with a reason."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from longstate._checks import InputError


@dataclass(frozen=True)
class Backend:
    """One way to compute an operator; `why_not` says in a sentence why it cannot take these arguments, or None."""

    name: str
    run: Callable[..., Any]
    why_not: Callable[..., str | None]


_OPERATORS: dict[str, tuple[Backend, ...]] = {}


def always(*_: object) -> None:
    """The `why_not` of a backend that takes everything."""


def register(operator: str, *backends: Backend) -> None:
    """Declare the backends of an operator, best first, the reference last."""
    _OPERATORS[operator] = backends


def run(operator: str, backend: str, device: torch.device, *args: Any) -> Any:
    """Compute `operator` by the named backend, or by the first that can if the name is "auto".

    Autocast is switched off inside: a float32 kernel product would silently run in bfloat16.
    """
    chosen = _choose(operator, backend, args)
    with without_autocast(device):
        return chosen.run(*args)


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """A context with autocast switched off; `run` opens it, the backward pass of an operator has to do so itself."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def explain(operator: str, *args: Any) -> list[tuple[str, str | None]]:
    """The backends of an operator, best first, each with the reason why it cannot take these arguments (or None).

    Args:
        operator: Name of the operator, such as "lti_scan".
        args: The arguments of the operator, in the order of its signature, without `backend`.

    Returns:
        Pairs (backend, reason). `backend="auto"` takes the first whose reason is None.

    Raises:
        InputError: If there is no such operator.

    Example:
        >>> import torch
        >>> from longstate import ops
        >>> u, K = torch.randn(1, 8, 2), torch.randn(1, 2, 8)
        >>> ops.explain("fft_conv", u, K)
        [('torch', None), ('reference', None)]
    """
    if operator not in _OPERATORS:
        raise InputError(f"`operator` is {operator!r}, but one of {', '.join(sorted(_OPERATORS))} is needed; pick one.")
    return [(backend.name, backend.why_not(*args)) for backend in _OPERATORS[operator]]


def _choose(operator: str, name: str, args: tuple[Any, ...]) -> Backend:
    backends = _OPERATORS[operator]
    if name == "auto":
        return next(backend for backend in backends if backend.why_not(*args) is None)
    for backend in backends:
        if backend.name == name:
            reason = backend.why_not(*args)
            if reason is not None:
                raise InputError(f"backend {name!r} cannot run this call of {operator}: {reason}; use backend='auto'.")
            return backend
    known = ", ".join(backend.name for backend in backends)
    raise InputError(f"`backend` is {name!r}, but {operator} has auto, {known}; name one of these.")
