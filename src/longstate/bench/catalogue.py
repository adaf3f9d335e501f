"""All cases by name."""

from collections.abc import Sequence

from longstate._checks import InputError
from longstate.bench.case import Case
from longstate.bench.cases import growth, language_model, selective, stack, stepping, time_invariant

CASES: dict[str, Case] = {
    case.name: case
    for case in (
        selective.MAMBA,
        selective.MAMBA2,
        time_invariant.S4D_FORWARD,
        time_invariant.S4D_TRAINING,
        time_invariant.S4_FORWARD,
        time_invariant.S4_TRAINING,
        time_invariant.S5_TRAINING,
        stack.STACK,
        language_model.LOAD,
        language_model.PREFILL,
        language_model.DECODE,
        stepping.STEP,
        growth.GROWTH,
        growth.CHUNKS,
    )
}


def chosen(names: Sequence[str]) -> list[Case]:
    """The cases of these names, in the order of the catalogue; "all" is every one.

    Raises:
        InputError: If a name is not known.
    """
    for name in names:
        if name != "all" and name not in CASES:
            raise InputError(f"`case` is {name!r}, but one of all, {', '.join(CASES)} is needed; pick from these.")
    return [case for case in CASES.values() if "all" in names or case.name in names]
