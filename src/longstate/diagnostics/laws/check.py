"""All laws that apply to a layer, in one call."""

import torch

from longstate.diagnostics.laws.dtypes import check_dtype_and_device
from longstate.diagnostics.laws.gradients import check_causality, check_gradients, check_gradients_of_rows
from longstate.diagnostics.laws.irregular import check_gradients_of_rate, check_irregular_rate
from longstate.diagnostics.laws.programs import check_compile, check_copies, check_export
from longstate.diagnostics.laws.purity import check_purity, check_training_statistics
from longstate.diagnostics.laws.rows import check_packed_rows, check_padded_rows, check_rows_do_not_interact
from longstate.diagnostics.laws.trial import LENGTH, MakeInput, Measurement, Trial, copied, floating_dtype, takes
from longstate.diagnostics.laws.views import (
    check_parallel_equals_stepped,
    check_rate,
    check_running_decision,
    check_whole_equals_chunked,
)
from longstate.layers.base import CausalLayer, SequenceLayer


def check_layer(
    layer: SequenceLayer, *, make_input: MakeInput | None = None, length: int = LENGTH, programs: bool = True
) -> list[Measurement]:
    """Check a layer or model against every law of the protocol that applies to it.

    Laws about numbers are measured in the layer's own dtype and again in float64, on copies in eval mode: the layer
    itself is left as it is. Run it on small sizes, since derivatives are compared with finite differences.

    Args:
        layer: What is examined. A `CausalLayer` must obey all laws, a `SequenceLayer` those without a state.
        make_input: Draws an input from (batch, length), for models over their own space; by default normal numbers
            (batch, length, d_model).
        length: Elements of the sequences that the views are compared on.
        programs: Also export and compile the layer, which takes seconds and resets the caches of `torch.compile`.

    Returns:
        For each law what was measured: (law, difference, tolerance), differences relative to the largest value.

    Raises:
        LawViolation: A law is broken; the message names it, the difference and the tolerance.

    Example:
        >>> from longstate import S4D, check_layer
        >>> report = check_layer(S4D(d_model=4, d_state=8), programs=False)
        >>> all(found.difference <= found.tolerance for found in report)
        True
    """
    found: list[Measurement] = []
    exact = copied(layer).double()
    for subject in (layer,) if floating_dtype(layer) is torch.float64 else (layer, exact):
        found += _about_numbers(subject, make_input, length)
    found += [
        check_purity(layer, make_input=make_input, length=length),
        check_training_statistics(layer, make_input=make_input, length=length),
        check_gradients(layer, make_input=make_input),
        check_gradients_of_rows(layer, make_input=make_input),
        check_dtype_and_device(layer, make_input=make_input, length=length),
        check_copies(layer, make_input=make_input),
    ]
    if isinstance(layer, CausalLayer):
        found.append(check_causality(layer, make_input=make_input))
    if _takes_intervals(layer, make_input):
        found.append(check_gradients_of_rate(layer, make_input=make_input))
    if programs:
        found.append(check_export(layer, make_input=make_input))
        found.append(check_compile(layer, make_input=make_input))
    return found


def _about_numbers(layer: SequenceLayer, make_input: MakeInput | None, length: int) -> list[Measurement]:
    """The laws that compare outputs and states in the layer's dtype."""
    probe = Trial("applicable", layer, make_input)
    x = probe.draw(1, 3)
    found = [
        check_padded_rows(layer, make_input=make_input, length=length),
        check_rows_do_not_interact(layer, make_input=make_input, length=length),
    ]
    if _takes_intervals(layer, make_input):
        found.append(check_irregular_rate(layer, make_input=make_input, length=length))
    if not isinstance(layer, CausalLayer):
        if takes(probe.layer, x, starts=torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)):
            found.append(check_packed_rows(layer, make_input=make_input, length=length))
        return found
    found += [
        check_packed_rows(layer, make_input=make_input, length=length),
        check_parallel_equals_stepped(layer, make_input=make_input, length=length),
        check_whole_equals_chunked(layer, make_input=make_input, length=length),
    ]
    if takes(probe.layer, x, rate=2.0):
        found.append(check_rate(layer, make_input=make_input, length=length))
    with torch.no_grad():
        one_output_a_row = probe.layer.forward(x).dim() == 2
    if one_output_a_row:
        found.append(check_running_decision(layer, make_input=make_input, length=length))
    return found


def _takes_intervals(layer: SequenceLayer, make_input: MakeInput | None) -> bool:
    """Whether `rate` may be a tensor."""
    probe = Trial("applicable", layer, make_input)
    x = probe.draw(1, 3)
    return takes(probe.layer, x, rate=torch.ones(x.shape[:2], dtype=probe.dtype, device=probe.device))
