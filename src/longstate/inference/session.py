"""A model at work: samples in, answers out, in constant memory for ever."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree

from longstate import __version__
from longstate._checks import InputError, check_element, check_lengths, check_positive, check_rate, check_sequence
from longstate.inference.fingerprint import fingerprint
from longstate.layers.base import CausalLayer, SequenceLayer, recurrent_dtype
from longstate.models import atomic, tensors

_FORMAT = "longstate session"


class Session:
    """One stream, or `batch_size` of them side by side, through a causal model.

    What depends on the parameters alone is computed once, at the start, and nothing is kept but the state: each push
    costs the same time and memory, for ever. A model that is trained further needs a new session.

    Args:
        model: A causal model (or layer) in `eval()` mode.
        batch_size: Streams side by side.
        rate: Of the stream: 2.0 for one sampled at half the rate of training; None for the same, or if every sample
            comes with the time since the one before it (`push(x_t, rate=...)`).

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
        self._dtype = recurrent_dtype(next((parameter.dtype for parameter in model.parameters()), torch.float32))
        with torch.no_grad():
            self._constants = model.constants(rate=rate)
        self._takes_intervals = False
        self._state: Any = None
        self.reset()

    def reset(self) -> None:
        """Forget all that was pushed."""
        with torch.no_grad():
            self._state = self._model.initial_state(self._batch_size)

    def push(self, x_t: Tensor, *, rate: float | Tensor | None = None) -> Tensor:
        """One sample of each stream.

        Args:
            x_t: (batch_size, d_input), of any floating type.
            rate: Time since the sample before, in units of the training step: a number, or one for each stream
                (batch_size,). A sample with 0 leaves a state as it is, but for layers of events ("dirac"). None for
                the session's rate.

        Returns:
            The model's answer after it, (batch_size, d_output).

        Raises:
            InputError: If the shape or the type is another, or `rate` is given and a layer takes no intervals.
        """
        check_element(x_t, self._model.d_model)
        if not x_t.dtype.is_floating_point:
            raise InputError(f"`x_t` is {x_t.dtype}, but a floating type is needed; call `x_t.float()` first.")
        self._check_streams(x_t)
        x_t = x_t.to(self._device)
        with torch.no_grad():
            if rate is None:
                y, self._state = self._model.step(x_t, self._state, rate=self._rate, constants=self._constants)
            else:
                y, self._state = self._model.step(x_t, self._state, rate=self._intervals(rate, x_t, None))
        return y

    def push_chunk(self, x: Tensor, *, lengths: Tensor | None = None, rate: float | Tensor | None = None) -> Tensor:
        """Many samples of each stream in parallel; the same answers as pushing them one by one.

        Args:
            x: (batch_size, length, d_input), of any floating type.
            lengths: Valid samples of each stream (batch_size,), if they differ; the rest is padding.
            rate: Time from sample to sample, in units of the training step: a number for all, or one for each
                (batch_size, length). None for the session's rate.

        Returns:
            The model's answers after each, (batch_size, length, d_output).

        Raises:
            InputError: If a shape or a type is another, or `rate` is given and a layer takes no intervals.
        """
        check_sequence(x, self._model.d_model)
        check_lengths(lengths, x)
        self._check_streams(x)
        x = x.to(self._device)
        with torch.no_grad():
            given = self._rate if rate is None else self._intervals(rate, x, lengths)
            y, self._state = self._model.forward_with_state(x, self._state, lengths=lengths, rate=given)
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

    def _intervals(self, rate: float | Tensor, x: Tensor, lengths: Tensor | None) -> Tensor:
        """Intervals as a tensor, one for each sample of `x`, if the model takes them and the session has no rate."""
        if self._rate is not None:
            raise InputError(
                f"`rate` comes with a sample, but this session was made with rate={self._rate}, and one of the two is "
                "needed; make it without, and give intervals in units of the training step."
            )
        if not isinstance(rate, Tensor):
            rate = torch.full(x.shape[:-1], rate, dtype=torch.float64)
        found = check_rate(rate.to(self._device), x, lengths)
        self._check_takes_intervals(x)
        return torch.as_tensor(found, dtype=self._dtype)

    def _check_takes_intervals(self, x: Tensor) -> None:
        """Raise unless every layer bears steps that vary, tried once on a sample of zeros."""
        if self._takes_intervals:
            return
        still, one = x.new_zeros(1, x.shape[-1]), torch.ones(1, dtype=self._dtype, device=self._device)
        try:
            self._model.step(still, self._model.initial_state(1), rate=one)
        except InputError as error:
            raise InputError(
                f"`rate` comes with a sample, but a layer of the model takes one rate for all of them ({error}), and "
                "intervals need layers whose steps may vary; leave `rate` out, or train a model of S4D layers."
            ) from error
        self._takes_intervals = True

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
