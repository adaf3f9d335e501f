"""Doors between layers and control theory: a layer as a system of scipy.signal, and a system as a layer.

scipy's discrete systems put the input one sample later into the state than a layer does: s_{k+1} = A s_k + B u_k,
y_k = C s_k + D u_k, against x_t = A x_{t-1} + B u_t, y_t = C x_t + D u_t. With s_k = x_{k-1} a layer is the system
(A, B, C A, C B + D), and a system is the layer whose state is (s_k, u_k). Nothing is approximated in either direction.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from longstate import theory
from longstate._checks import InputError, check_choice
from longstate.diagnostics import scipy_door
from longstate.diagnostics.continuous_form import continuous_form, real_form
from longstate.diagnostics.contraction import SISO, contracted
from longstate.diagnostics.fixed_system import FixedSystem, HeldSystem, stacked
from longstate.diagnostics.response import Filter, check_sampling_rate, linear_system, mimo_system
from longstate.layers import LTILayer, MIMOLayer

SCIPY_METHODS = {
    "zoh": "zoh",
    "bilinear": "bilinear",
    "euler": "euler",
    "backward_euler": "backward_diff",
    "dirac": "impulse",
}
"""For every discretisation of a layer the method of `scipy.signal.cont2discrete` with the same A and B."""


def discrete_system(
    layer: Filter, feature: int | None = None, *, rate: float | None = None, sampling_rate: float = 1.0
) -> Any:
    """The linear part of a layer as a discrete system of scipy, for `dlsim`, `dfreqresp`, `place_poles` and the like.

    `scipy.signal.dlsim(discrete_system(layer, f), u)` is what the layer's system makes of u, before its activation.

    Args:
        layer: An LTI layer (S4, S4D, LSSL, DSS, EMA) or one with a system for all features (S5, LRU).
        feature: Which feature of an LTI layer: one input, as many outputs as `channels`. None for all of them, as one
            system with `d_model` inputs and `channels` times `d_model` outputs, in the order of the layer.
        rate: As of `layer.forward`.
        sampling_rate: Samples a second; the system's dt is 1 / sampling_rate.

    Returns:
        A `scipy.signal.dlti` in state-space form, real, in float64.

    Raises:
        InputError: If the layer has no fixed linear system, an argument is not usable, or scipy is missing.

    Example:
        >>> import scipy.signal
        >>> from longstate import S4D
        >>> from longstate.diagnostics import discrete_system
        >>> system = discrete_system(S4D(4, 8), 2, sampling_rate=50.0)
        >>> system.A.shape, system.dt
        ((8, 8), 0.02)
    """
    signal = scipy_door.signal()
    check_sampling_rate(sampling_rate)
    with torch.no_grad():
        A, B, C, D = _discrete(layer, feature, rate)
        matrices = (A, B, C @ A, C @ B + D)
    return signal.dlti(*(matrix.cpu().numpy() for matrix in matrices), dt=1 / sampling_rate)


def continuous_system(layer: LTILayer, feature: int, *, sampling_rate: float = 1.0) -> Any:
    """The continuous system that a layer discretises, as one of scipy with time in seconds.

    `cont2discrete(system, 1 / sampling_rate, SCIPY_METHODS[layer.rule])` has the A and B of the layer. Its C and D are
    scipy's own, which see the state before or amid a step; the layer's C sees it after. (With "dirac" all four agree,
    but scipy wants D = 0 there.)

    Args:
        layer: S4, S4D, LSSL, or DSS with form="exp".
        feature: Which feature: one input, as many outputs as `channels`.
        sampling_rate: Samples a second, which makes seconds of the layer's own time.

    Returns:
        A `scipy.signal.StateSpace`, real, in float64.

    Raises:
        InputError: If the layer has no continuous form, an argument is not usable, or scipy is missing.

    Example:
        >>> from longstate import S4
        >>> from longstate.diagnostics import continuous_system
        >>> continuous_system(S4(4, 8), 0, sampling_rate=50.0).A.shape
        (8, 8)
    """
    signal = scipy_door.signal()
    check_sampling_rate(sampling_rate)
    _check_feature(feature, layer.d_model)
    with torch.no_grad():
        form = continuous_form(layer, feature)
        if form is None:
            raise InputError(
                f"`layer` is a {type(layer).__name__} without a continuous form, but S4, S4D, LSSL or DSS with "
                "form='exp' is needed; take `discrete_system`."
            )
        A, B, C = (part.cpu().numpy() for part in form)
        D = layer.D[:, feature].double().cpu().numpy()
    return signal.StateSpace(A * sampling_rate, B[:, None] * sampling_rate, C, D[:, None])


def from_state_space(
    systems: Any, *, rule: str = "zoh", sampling_rate: float = 1.0, dtype: torch.dtype | None = None
) -> FixedSystem:
    """Systems of scipy as a layer: filters that run over whole sequences, in chunks and step by step.

    A discrete system becomes a layer with the outputs of `dlsim`. A continuous one is discretised by `rule` as every
    layer here is (the present input is in the state that C sees), at any `rate`. States are put into coordinates in
    which A is a contraction (Lyapunov's), so that no power of it amplifies a rounding error.

    Args:
        systems: One system (`dlti`, `lti`, or what they take: transfer function, poles and zeros, state space), or a
            list with one a feature, each with one input and one output and all of them stable.
        rule: Discretisation of continuous systems.
        sampling_rate: Samples a second of the sequences, for continuous systems.
        dtype: Of the layer; torch's default if None.

    Returns:
        A `FixedSystem`; a `HeldSystem` for continuous systems.

    Raises:
        InputError: If a system is unstable, has several inputs or outputs, or is too ill-conditioned; if discrete and
            continuous ones are mixed; or if scipy is missing.

    Example:
        >>> import scipy.signal
        >>> import torch
        >>> from longstate.diagnostics import from_state_space
        >>> low_pass = from_state_space(scipy.signal.dlti(*scipy.signal.butter(2, 0.1)))
        >>> low_pass(torch.ones(1, 200, 1))[0, -1]
        tensor([1.])
    """
    scipy_door.signal()
    check_choice(rule, theory.RULES, name="rule")
    check_sampling_rate(sampling_rate)
    given = list(systems) if isinstance(systems, Sequence) else [systems]
    if not given:
        raise InputError("`systems` is empty, but one system a feature is needed; give at least one.")
    spaces = [_state_space(system, at) for at, system in enumerate(given)]
    discrete = {space.dt is not None for space in spaces}
    if len(discrete) > 1:
        raise InputError(
            "`systems` are some discrete and some continuous, but all must be of one kind; "
            "convert the continuous ones with `scipy.signal.cont2discrete`."
        )
    dtype = torch.get_default_dtype() if dtype is None else dtype
    if discrete == {True}:
        return FixedSystem(stacked([_delayed(space, at) for at, space in enumerate(spaces)], dtype))
    return HeldSystem(stacked([_per_sample(space, at, sampling_rate) for at, space in enumerate(spaces)], dtype), rule)


def _discrete(layer: Filter, feature: int | None, rate: float | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Real A (N, N), B (N, inputs), C (outputs, N), D (outputs, inputs)."""
    if isinstance(layer, MIMOLayer):
        if feature is not None:
            raise InputError(
                f"`feature` is {feature}, but {type(layer).__name__} has one system for all features; leave it out."
            )
        A, gain, B, C, D = mimo_system(layer, rate)
        return *real_form(A, gain[:, None] * B, C), torch.diag(D)
    system = linear_system(layer, rate)
    if feature is None:
        parts = [_feature(system, at) for at in range(layer.d_model)]
        A, B = (torch.block_diag(*(part[at] for part in parts)) for at in range(2))
        C = torch.cat([torch.block_diag(*(part[2][c : c + 1] for part in parts)) for c in range(layer.channels)])
        return A, B, C, torch.cat([torch.diag(row) for row in system.D])
    _check_feature(feature, layer.d_model)
    return *_feature(system, feature), system.D[:, feature, None]


def _feature(system: Any, at: int) -> tuple[Tensor, Tensor, Tensor]:
    A, B, C = system.A[at], system.B[at][:, None], system.C[:, at]
    return (A, B, C) if system.is_dense else real_form(A, B, C)


def _state_space(system: Any, at: int) -> Any:
    signal = scipy_door.signal()
    if not isinstance(system, signal.lti | signal.dlti):
        raise InputError(
            f"system {at} is a {type(system).__name__}, but one of scipy is needed; wrap it in `scipy.signal.dlti` or "
            "`scipy.signal.lti`."
        )
    space = system.to_ss()
    if space.B.shape[1] != 1 or space.C.shape[0] != 1:
        raise InputError(
            f"system {at} has {space.B.shape[1]} inputs and {space.C.shape[0]} outputs, but one of each is needed; "
            "give one system a feature."
        )
    return space


def _delayed(space: Any, at: int) -> SISO:
    """A discrete system of scipy over the state (s_t, u_t), which has seen the present input."""
    size = len(space.A)
    A = np.block([[space.A, space.B], [np.zeros((1, size + 1))]])
    system = SISO(A, np.append(np.zeros(size), 1.0), np.append(space.C[0], 0.0), float(space.D[0, 0]))
    return contracted(system, at, discrete=True)


def _per_sample(space: Any, at: int, sampling_rate: float) -> SISO:
    """A continuous system with time in samples."""
    A, B = space.A / sampling_rate, space.B[:, 0] / sampling_rate
    return contracted(SISO(A, B, space.C[0], float(space.D[0, 0])), at, discrete=False)


def _check_feature(feature: int, d_model: int) -> None:
    if not 0 <= feature < d_model:
        raise InputError(f"`feature` is {feature}, but 0 to {d_model - 1} are there; give one of these.")
