import dataclasses

import pytest
from pydantic import TypeAdapter, ValidationError

from longstate._checks import InputError
from longstate.training import TrainingConfig


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("epochs", 0, "`epochs` is 0, but a positive integer is needed"),
        ("batch_size", 2.5, "`batch_size` is 2.5, but a positive integer is needed"),
        ("patience", -1, "`patience` is -1, but a positive integer is needed"),
        ("crop", 0, "`crop` is 0, but a positive integer is needed"),
        ("checkpoint_every", 0, "`checkpoint_every` is 0, but a positive integer is needed"),
        ("seed", -1, "`seed` is -1, but an integer of at least 0 is needed; 0 is the default"),
        ("lr", 0.0, "`lr` is 0.0, but a number of more than 0 is needed; the default is 0.004"),
        ("lr", float("nan"), "`lr` is nan, but a number of more than 0 is needed"),
        ("gradient_clip", 0.0, "`gradient_clip` is 0.0, but a number of more than 0 is needed"),
        ("warmup", 1.5, "`warmup` is 1.5, but a number of at least 0 and at most 1 is needed; the default is 0.1"),
        ("noise", -0.1, "`noise` is -0.1, but a number of at least 0 is needed"),
        ("precision", "fp16", "`precision` is 'fp16', but one of fp32, bf16 is needed"),
        ("monitor", "f1", "`monitor` is 'f1', but one of auto, accuracy, loss is needed"),
        ("device", "tpu", "`device` is 'tpu', but one of auto, cpu, cuda, mps is needed"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused(name: str, value: object, text: str) -> None:
    with pytest.raises(InputError, match=text):
        dataclasses.replace(TrainingConfig(), **{name: value})


def test_none_switches_off() -> None:
    config = TrainingConfig(gradient_clip=None, patience=None, crop=None, checkpoint_every=None)
    assert config.gradient_clip is config.patience is config.crop is config.checkpoint_every is None


def test_pydantic_reads_it_and_refuses_what_it_does_not_know() -> None:
    read = TypeAdapter(TrainingConfig).validate_python
    assert read({"epochs": 3, "lr": "1e-3"}) == TrainingConfig(epochs=3, lr=1e-3)
    with pytest.raises(ValidationError, match="epoch\n  Unexpected keyword argument"):
        read({"epoch": 3})
    with pytest.raises(ValidationError, match="`epochs` is 0, but a positive integer is needed"):
        read({"epochs": 0})
