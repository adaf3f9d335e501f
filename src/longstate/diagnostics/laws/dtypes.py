"""The law about types and devices: what comes in decides, and a state keeps what it has."""

from typing import Any

import torch
from torch.utils import _pytree

from longstate.diagnostics.laws.trial import (
    LENGTH,
    AnyLayer,
    MakeInput,
    Measurement,
    Trial,
    copied,
    first_line,
    run_steps,
)
from longstate.layers.base import CausalLayer

AUTOCAST_TOLERANCE = 5e-2
"""bfloat16 has 8 bits: 4e-3 for one rounding, and a layer has several."""


def check_dtype_and_device(
    layer: AnyLayer, *, make_input: MakeInput | None = None, length: int = LENGTH
) -> Measurement:
    """Law 8: dtype and device are kept, states never change theirs, and bfloat16 autocast stays finite and close.

    Copies of the layer are tried in float32, float64 and bfloat16, under autocast, and on the device "meta", where
    a tensor made on a fixed device shows. Parameters and states are real.

    Args:
        layer: What is examined; it is copied first.
        make_input: Draws an input from (batch, length); by default normal numbers (batch, length, d_model).
        length: Elements of the sequence.

    Returns:
        The largest difference between autocast and float32, and the tolerance.

    Raises:
        LawViolation: A dtype or device changes, or autocast reaches what must stay exact.

    Example:
        >>> from longstate import S4D, diagnostics
        >>> diagnostics.laws.check_dtype_and_device(S4D(d_model=4, d_state=8)).tolerance
        0.05
    """
    trial = Trial("dtype and device", copied(layer).float(), make_input, tolerance=AUTOCAST_TOLERANCE)
    x = trial.draw(2, length)
    complex_names = [name for name, tensor in trial.layer.state_dict().items() if tensor.is_complex()]
    if complex_names:
        raise trial.refuse(f"`{complex_names[0]}` is complex instead of real with a last axis of 2")
    with torch.no_grad():
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            same = x.to(dtype) if x.dtype.is_floating_point else x
            _check_kept(trial, copied(trial.layer).to(dtype), same, dtype, f"in {dtype}")
        with torch.autocast(x.device.type, torch.bfloat16):
            _check_kept(trial, trial.layer, x, torch.float32, "under bfloat16 autocast", autocast=True)
        _check_on_meta(trial, x)
    return trial.result()


def _check_kept(
    trial: Trial[Any], layer: AnyLayer, x: torch.Tensor, dtype: torch.dtype, context: str, autocast: bool = False
) -> None:
    """Compare dtypes and devices of outputs with the layer's, and of states with the initial state's."""
    views = {"`forward`": layer.forward(x)}
    if isinstance(layer, CausalLayer):
        initial = layer.initial_state(2)
        views["`forward_with_state`"], after_chunk = layer.forward_with_state(x, initial)
        views["`step`"], after_steps = run_steps(layer, x[:, :4], initial)
        for state in (initial, after_chunk, after_steps):
            leaves = _pytree.tree_leaves(state)
            if any(leaf.is_complex() for leaf in leaves):
                raise trial.refuse(f"a tensor of the state {context} is complex")
            found = [(leaf.dtype, leaf.device, len(leaf)) for leaf in leaves]
            expected = [(leaf.dtype, x.device, 2) for leaf in _pytree.tree_leaves(initial)]
            if found != expected:
                raise trial.refuse(f"the state {context} becomes {found} instead of {expected}")
            if dtype is torch.float64 and any(leaf.dtype not in (dtype, torch.int64, torch.bool) for leaf in leaves):
                raise trial.refuse(f"the state of a float64 layer holds {found}")
    for view, y in views.items():
        if y.device != x.device or not (autocast or y.dtype == dtype):
            raise trial.refuse(f"the output of {view} {context} is {y.dtype} on {y.device}")
        if not y.isfinite().all():
            raise trial.refuse(f"the output of {view} {context} is not finite")
    if autocast:
        with torch.autocast(x.device.type, enabled=False):
            exact = layer.forward(x)
            pairs = [(views["`forward`"], exact)]
            if isinstance(layer, CausalLayer):
                whole, _ = layer.forward_with_state(x, layer.initial_state(2))
                pairs += [(views["`forward_with_state`"], whole), (views["`step`"], whole[:, :4])]
        for found, expected in pairs:
            trial.compare(f"outputs {context} and in {dtype} differ", [(found, expected)])


def _check_on_meta(trial: Trial[Any], x: torch.Tensor) -> None:
    """Run every view on a device that no tensor is made on unless its device is asked for."""
    layer, x = copied(trial.layer).to("meta"), x.to("meta")
    try:
        results = [layer.forward(x)]
        if isinstance(layer, CausalLayer):
            state = layer.initial_state(2)
            results += _pytree.tree_leaves((state, layer.forward_with_state(x, state), layer.step(x[:, 0], state)))
    except RuntimeError as error:
        raise trial.refuse(f"the layer cannot be moved to another device ({first_line(error)})") from error
    if any(tensor.device.type != "meta" for tensor in results):
        raise trial.refuse("a result of the layer moved to another device is left behind")
