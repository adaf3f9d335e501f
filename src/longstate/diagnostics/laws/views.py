"""The laws that join the three views of a causal layer: whole, chunked, stepped."""

from collections.abc import Sequence
from typing import Any

import torch

from longstate.diagnostics.laws.trial import (
    LENGTH,
    MakeInput,
    Measurement,
    Trial,
    carried_state,
    compare_states,
    run_steps,
)
from longstate.layers.base import CausalLayer


def check_parallel_equals_stepped(
    layer: CausalLayer[Any], *, make_input: MakeInput | None = None, length: int = LENGTH, rate: float | None = None
) -> Measurement:
    """Law 1: `forward_with_state` and `step` give the same outputs and the same state.

    Tried on one element and on `length`, from the initial state and from a carried one, with the constants given to
    `step` and left out; `forward` must agree too if it has an output for each element.

    Args:
        layer: What is examined; it is copied first.
        make_input: Draws an input from (batch, length); by default normal numbers (batch, length, d_model).
        length: Elements of the longer sequence.
        rate: Given to all views alike.

    Returns:
        The largest difference found and the tolerance.

    Raises:
        LawViolation: The views differ.

    Example:
        >>> from longstate import S4D, diagnostics
        >>> diagnostics.laws.check_parallel_equals_stepped(S4D(d_model=4, d_state=8).double()).tolerance
        1e-10
    """
    trial = Trial("parallel = stepped" if rate is None else f"rate={rate}", layer, make_input)
    layer = trial.layer
    with torch.no_grad():
        for size in (1, length):
            x = trial.draw(3, size)
            for state, origin in ((layer.initial_state(3), "initial"), (carried_state(trial, 3), "carried")):
                stepped, after_steps = run_steps(layer, x, state, rate=rate)
                parallel, after = layer.forward_with_state(x, state, rate=rate)
                context = f"after {size} elements from the {origin} state"
                trial.compare(f"`forward_with_state` and `step` differ {context}", [(stepped, parallel)])
                compare_states(trial, f"the states {context}", [(after_steps, after)])
                bare, _ = layer.step(x[:, 0], state, rate=rate)
                trial.compare("`step` with and without `constants` differs", [(bare, stepped[:, 0])])
                whole = layer.forward(x, rate=rate)
                if origin == "initial" and whole.dim() == parallel.dim():
                    trial.compare("`forward` and `forward_with_state` differ", [(whole, parallel)])
    return trial.result()


def check_whole_equals_chunked(
    layer: CausalLayer[Any],
    *,
    make_input: MakeInput | None = None,
    length: int = LENGTH,
    chunks: Sequence[Sequence[int]] | None = None,
    rate: float | None = None,
) -> Measurement:
    """Law 2: a sequence cut anywhere, with the state carried, gives the outputs and the state of the whole.

    Args:
        layer: What is examined; it is copied first.
        make_input: Draws an input from (batch, length); by default normal numbers (batch, length, d_model).
        length: Elements of the sequence.
        chunks: Ways to cut, each a list of chunk lengths that add up to `length`; by default every cut in two (an
            empty chunk among them), and chunks of 1, 2, 3 and 5 elements throughout.
        rate: Given to all chunks alike.

    Returns:
        The largest difference found and the tolerance.

    Raises:
        LawViolation: A cut changes the numbers.

    Example:
        >>> from longstate import S4D, diagnostics
        >>> layer = S4D(d_model=4, d_state=8).double()
        >>> diagnostics.laws.check_whole_equals_chunked(layer, length=9, chunks=[[2, 7]]).tolerance
        1e-10
    """
    trial = Trial("whole = chunked" if rate is None else f"rate={rate}", layer, make_input)
    layer = trial.layer
    if chunks is None:
        chunks = [(cut, length - cut) for cut in range(length + 1)]
        chunks += [(size,) * (length // size) + (length % size,) * (length % size > 0) for size in (1, 2, 3, 5)]
    with torch.no_grad():
        x = trial.draw(2, length)
        for start, origin in ((layer.initial_state(2), "initial"), (carried_state(trial, 2), "carried")):
            whole, last = layer.forward_with_state(x, start, rate=rate)
            finals = []
            for sizes in chunks:
                outputs, state = [], start
                for chunk in x.split(list(sizes), dim=1):
                    y, state = layer.forward_with_state(chunk, state, rate=rate)
                    outputs.append(y)
                context = f"cut into {_written(sizes)} from the {origin} state"
                trial.compare(f"outputs {context} differ from the whole", [(torch.cat(outputs, dim=1), whole)])
                finals.append((state, last))
            compare_states(trial, f"the states of the chunks and of the whole from the {origin} state", finals)
    return trial.result()


def check_rate(
    layer: CausalLayer[Any], *, make_input: MakeInput | None = None, length: int = LENGTH, rate: float = 2.0
) -> Measurement:
    """Law of `rate`: a layer that takes a number for `rate` takes it in all three views, and 1.0 is the same as None.

    Args:
        layer: What is examined; it is copied first.
        make_input: Draws an input from (batch, length); by default normal numbers (batch, length, d_model).
        length: Elements of the sequence.
        rate: The factor on dt that the views must agree on.

    Returns:
        The largest difference found and the tolerance.

    Raises:
        LawViolation: A view understands `rate` differently.
        InputError: The layer has no time scale and refuses `rate`.

    Example:
        >>> from longstate import S4D, diagnostics
        >>> diagnostics.laws.check_rate(S4D(d_model=4, d_state=8).double()).law
        'rate=2.0'
    """
    trial = Trial(f"rate={rate}", layer, make_input)
    with torch.no_grad():
        x = trial.draw(2, length)
        trial.compare("rate=1.0 and no rate differ", [(trial.layer.forward(x, rate=1.0), trial.layer.forward(x))])
        bare = trial.layer.forward(x, rate=rate)
        state = trial.layer.initial_state(2)
        running = trial.layer.forward_with_state(x, state, rate=rate)[0]
        trial.compare(
            "`forward` and `forward_with_state` differ", [(bare, running if bare.dim() > 2 else running[:, -1])]
        )
    stepped = check_parallel_equals_stepped(layer, make_input=make_input, length=length, rate=rate)
    cut = [length // 3, length - length // 3]
    chunked = check_whole_equals_chunked(layer, make_input=make_input, length=length, chunks=[cut], rate=rate)
    return max(trial.result(), stepped, chunked, key=lambda found: found.difference)


def check_running_decision(
    layer: CausalLayer[Any], *, make_input: MakeInput | None = None, length: int = LENGTH
) -> Measurement:
    """Law of models with one output a sequence: `forward` is the last valid row of `forward_with_state`.

    Args:
        layer: A model whose `forward` returns (batch, outputs); it is copied first.
        make_input: Draws an input from (batch, length); by default normal numbers (batch, length, d_model).
        length: Elements of the longest sequence.

    Returns:
        The largest difference found and the tolerance.

    Raises:
        LawViolation: The decision for the whole is not the last running one.

    Example:
        >>> import torch
        >>> from longstate import diagnostics
        >>> from longstate.models import BackboneConfig, ClassifierConfig, SequenceClassifier
        >>> backbone = BackboneConfig(d_model=4, n_layers=1)
        >>> model = SequenceClassifier(ClassifierConfig(d_input=3, classes=("walk", "run"), backbone=backbone))
        >>> found = diagnostics.laws.check_running_decision(
        ...     model.double(), make_input=lambda batch, length: torch.randn(batch, length, 3)
        ... )
        >>> found.law
        'forward = last running decision'
    """
    trial = Trial("forward = last running decision", layer, make_input)
    layer = trial.layer
    lengths = torch.tensor([length, 1, length // 2], device=trial.device)
    rows = torch.arange(3, device=trial.device)
    with torch.no_grad():
        x = trial.draw(3, length)
        starts = torch.zeros(3, length, dtype=torch.bool, device=trial.device)
        starts[:, length // 3] = True
        state = layer.initial_state(3)
        running = layer.forward_with_state(x, state)[0][:, -1]
        trial.compare("they differ on whole rows", [(layer.forward(x), running)])
        running = layer.forward_with_state(x, state, lengths=lengths)[0][rows, lengths - 1]
        trial.compare("they differ on padded rows", [(layer.forward(x, lengths=lengths), running)])
        running = layer.forward_with_state(x, state, starts=starts)[0][:, -1]
        trial.compare("they differ on packed rows", [(layer.forward(x, starts=starts), running)])
    return trial.result()


def _written(sizes: Sequence[int]) -> str:
    """Chunk lengths in words, short also if there are many."""
    text = "+".join(str(size) for size in sizes[:4])
    return text + "+..." if len(sizes) > 4 else text
