"""A model at work: samples in, answers out, in constant memory for ever."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree

from longstate import __version__
from longstate._checks import InputError, check_element, check_positive, check_sequence
from longstate.inference.fingerprint import fingerprint
from longstate.layers.base import CausalLayer, SequenceLayer
from longstate.models import atomic, tensors

_FORMAT = "longstate session"


class Session:
    """One stream, or `batch_size` of them side by side, through a causal model.

    What depends on the parameters alone is computed once, at the start, and nothing is kept but the state: each push
    costs the same time and memory, for ever. A model that is trained further needs a new session.

    Args:
        model: A causal model (or layer) in `eval()` mode.
        batch_size: Streams side by side.
        rate: Of the stream: 2.0 for one sampled at half the rate of training; None for the same.

    Raises:
        InputError: If the model cannot stream or is in training mode, or a number is not usable.

    Example:
        >>> import torch
        >>> from longstate.inference import Session
        >>> from longstate.models import BackboneConfig, ClassifierConfig, build
        >>> config = ClassifierConfig(d_input=3, classes=("rest", "walk"), backbone=BackboneConfig(8, 2))
        >>> session = Session(build(config).eval())
        >>> session.push(torch.randn(1, 3)).shape, session.push_chunk(torch.randn(1, 50, 3)).shape
        (torch.Size([1, 2]), torch.Size([1, 50, 2]))
    """

    def __init__(self, model: SequenceLayer, *, batch_size: int = 1, rate: float | None = None) -> None:
        if not isinstance(model, CausalLayer):
            raise InputError(
                f"`model` is a {type(model).__name__}, which needs the whole sequence at once, but a causal model is "
                "needed to stream; train a SequenceClassifier, SequenceTagger, SequenceRegressor or StepRegressor."
            )
        if model.training:
            raise InputError(
                "`model` is in training mode, where dropout makes answers random, but one in eval mode is needed; "
                "call `model.eval()` first."
            )
        check_positive(batch_size=batch_size)
        self._model = model
        self._batch_size = batch_size
        self._rate = rate
        self._device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        with torch.no_grad():
            self._constants = model.constants(rate=rate)
        self._state: Any = None
        self.reset()

    def reset(self) -> None:
        """Forget all that was pushed."""
        with torch.no_grad():
            self._state = self._model.initial_state(self._batch_size)

    def push(self, x_t: Tensor) -> Tensor:
        """One sample of each stream.

        Args:
            x_t: (batch_size, d_input), of any floating type.

        Returns:
            The model's answer after it, (batch_size, d_output).

        Raises:
            InputError: If the shape or the type is another.
        """
        check_element(x_t, self._model.d_model)
        if not x_t.dtype.is_floating_point:
            raise InputError(f"`x_t` is {x_t.dtype}, but a floating type is needed; call `x_t.float()` first.")
        self._check_streams(x_t)
        with torch.no_grad():
            y, self._state = self._model.step(
                x_t.to(self._device), self._state, rate=self._rate, constants=self._constants
            )
        return y

    def push_chunk(self, x: Tensor, *, lengths: Tensor | None = None) -> Tensor:
        """Many samples of each stream in parallel; the same answers as pushing them one by one.

        Args:
            x: (batch_size, length, d_input), of any floating type.
            lengths: Valid samples of each stream (batch_size,), if they differ; the rest is padding.

        Returns:
            The model's answers after each, (batch_size, length, d_output).

        Raises:
            InputError: If a shape or a type is another.
        """
        check_sequence(x, self._model.d_model)
        self._check_streams(x)
        with torch.no_grad():
            y, self._state = self._model.forward_with_state(
                x.to(self._device), self._state, lengths=lengths, rate=self._rate
            )
        return y

    def save(self, path: str | Path) -> None:
        """Write the state to a file, from which a session of the same model goes on where this one is.

        Args:
            path: Of a safetensors file; replaced as a whole, never in part. Its folder must exist.

        Raises:
            InputError: If the system refuses to write.
        """
        metadata = {"format": _FORMAT, "longstate": __version__, "fingerprint": fingerprint(self._model)}
        atomic.write(Path(path), tensors.pack(_named(self._state), metadata))

    def restore(self, path: str | Path) -> None:
        """Take over a state that `save` wrote.

        Args:
            path: Of the file.

        Raises:
            InputError: If the file is missing or damaged, of another model, or of another batch size; the session
                then is as before.
        """
        path = Path(path)
        file = tensors.read(path)
        if file.metadata.get("format") != _FORMAT:
            raise InputError(
                f"`{path}` holds no session, but the state of one is needed; give a file that `Session.save` wrote."
            )
        if file.metadata.get("fingerprint") != fingerprint(self._model):
            raise InputError(
                f"`{path}` is the state of another model, but one of this model with these parameters is needed; "
                "load the model that was running, or start without the file."
            )
        named = _named(self._state)
        first = next(iter(named), None)
        if first in file.tensors and len(file.tensors[first]) != self._batch_size:
            raise InputError(
                f"`{path}` is the state of {len(file.tensors[first])} streams, but this session has "
                f"{self._batch_size}; make it with batch_size={len(file.tensors[first])}."
            )
        tensors.check_fit(file.tensors, named, path=path, owner="this session's state")
        leaves, structure = _pytree.tree_flatten(self._state)
        found = [file.tensors[name].to(leaf) for name, leaf in zip(named, leaves, strict=True)]
        self._state = _pytree.tree_unflatten(found, structure)

    def _check_streams(self, x: Tensor) -> None:
        if len(x) != self._batch_size:
            raise InputError(
                f"the input has {len(x)} rows, but this session has {self._batch_size} streams; make it with "
                f"batch_size={len(x)}, or push {self._batch_size} rows."
            )


def _named(state: Any) -> dict[str, Tensor]:
    """The tensors of a state by their place in it, such as "[0][1].x"."""
    leaves, _ = _pytree.tree_flatten_with_path(state)
    return {_pytree.keystr(path): leaf for path, leaf in leaves}
