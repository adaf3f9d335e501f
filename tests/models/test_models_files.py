"""Saved models: the same numbers back, errors in sentences, and no kill that mixes two models."""

import json
import os
import pickle
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import longstate
from longstate import InputError
from longstate.models import (
    BackboneConfig,
    BidirectionalClassifierConfig,
    ClassifierConfig,
    InputStatistics,
    RegressorConfig,
    S4Config,
    S4DConfig,
    StepRegressorConfig,
    TaggerConfig,
    TargetStatistics,
    atomic,
    build,
    load,
    save,
    tensors,
)

SMALL = BackboneConfig(d_model=4, n_layers=1, layer=S4DConfig(d_state=4))
CONFIGS = [
    ClassifierConfig(
        d_input=2, classes=("ä", "b"), backbone=SMALL, statistics=InputStatistics((0.1, 1 / 3), (1e-7, 7.7))
    ),
    TaggerConfig(d_input=2, classes=("a", "b"), backbone=BackboneConfig(4, 2, S4Config(d_state=4), "batch")),
    RegressorConfig(d_input=2, targets=("a",), backbone=SMALL, target_statistics=TargetStatistics((70.1,), (0.3,))),
    StepRegressorConfig(d_input=2, targets=("a", "b"), backbone=SMALL),
    BidirectionalClassifierConfig(d_input=2, classes=("a", "b"), backbone=SMALL),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A saved classifier."""
    save(build(CONFIGS[0]), tmp_path / "model")
    return tmp_path / "model"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def replace_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    path = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    change(tensors)
    safetensors.torch.save_file(tensors, path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)
def test_a_loaded_model_gives_equal_numbers(config: Any, dtype: torch.dtype, tmp_path: Path) -> None:
    model = build(config).to(dtype).eval()
    save(model, tmp_path / "a" / "b")
    assert names(tmp_path / "a" / "b") == ["config.json", "model.safetensors"]
    loaded = load(str(tmp_path / "a" / "b"))
    assert loaded.config == config
    assert not loaded.training
    assert all(parameter.requires_grad and parameter.dtype is dtype for parameter in loaded.parameters())
    x = torch.randn(2, 9, 2, dtype=dtype)
    assert torch.equal(loaded(x), model(x))
    loaded(x).sum().backward()


def test_a_float64_model_is_read_back_under_another_default_type(tmp_path: Path) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        model = build(CONFIGS[0]).eval()
        save(model, tmp_path)
    finally:
        torch.set_default_dtype(torch.float32)
    x = torch.randn(2, 9, 2, dtype=torch.float64)
    assert torch.equal(load(tmp_path)(x), model(x))


def test_the_configuration_is_readable(folder: Path) -> None:
    entry = json.loads((folder / "config.json").read_text())
    assert list(entry) == ["longstate", "model", "weights"]
    assert entry["longstate"] == longstate.__version__
    assert entry["model"]["classes"] == ["ä", "b"]
    assert next(iter(entry["model"])) == "kind"
    assert '"ä"' in (folder / "config.json").read_text(encoding="utf-8")


def test_saving_replaces_the_model_and_nothing_else(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    model = build(CONFIGS[1])
    save(model, folder)
    assert names(folder) == ["config.json", "model.safetensors", "notes.txt"]
    assert load(folder).config == CONFIGS[1]


def test_a_wrapped_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="`model` is a Sequential, but a model of longstate is needed; take it out"):
        save(torch.nn.Sequential(build(CONFIGS[0])), tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_missing_things_are_named(folder: Path) -> None:
    with pytest.raises(InputError, match="nowhere` does not exist, but the folder of a saved model is needed"):
        load(folder / "nowhere")
    with pytest.raises(InputError, match=r"config\.json` is a file, but the folder of a saved model"):
        load(folder / "config.json")
    (folder / "config.json").rename(folder / "other")
    with pytest.raises(InputError, match=r"model` has no config\.json, but it is needed beside model\.safetensors"):
        load(folder)
    (folder / "other").rename(folder / "config.json")
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"model` has no model\.safetensors, but a saved model is needed; give"):
        load(folder)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_file_cut_short_is_refused(folder: Path, keep: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"safetensors` is damaged, cut short or not a safetensors file \(.*copy it"):
        load(folder)


class Bomb:
    """Runs a program when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize("way", ["torch", "old torch", "pickle 2", "pickle 4", "pickle 0"])
def test_a_pickle_is_never_opened(folder: Path, tmp_path: Path, way: str) -> None:
    bomb, path = Bomb(tmp_path / "exploded"), folder / "model.safetensors"
    if way.startswith("pickle"):
        path.write_bytes(pickle.dumps(bomb, protocol=int(way[-1])))
    else:
        torch.save(bomb, path, _use_new_zipfile_serialization=way == "torch")
    found = "not a safetensors file" if way == "pickle 0" else "holds a pickle, but a safetensors file is needed"
    with pytest.raises(InputError, match=found):
        load(folder)
    assert not bomb.mark.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("head.bias"), r"lacks head\.bias, but exactly the tensors of the model in config\.json"),
        (lambda t: t.update(extra=torch.zeros(1)), "has extra besides, but exactly"),
        (lambda t: t.update({"head.bias": torch.zeros(7)}), r"has head\.bias of shape \(7,\) for \(2,\), but"),
        (
            lambda t: t.update({"head.bias": torch.zeros(2).long()}),
            r"has head\.bias as torch\.int64 for torch\.float32",
        ),
        (lambda t: [t.pop(name) for name in sorted(t)], r"lacks .*, .*, .* and \d+ more tensors, but exactly"),
        (lambda t: t.update({"head.bias": torch.ones(2)}), r"is not the file that config\.json was saved with"),
    ],
)
def test_foreign_weights_are_refused(folder: Path, change: Callable[..., Any], message: str) -> None:
    replace_weights(folder, change)
    with pytest.raises(InputError, match=rf"model\.safetensors` {message}"):
        load(folder)


def test_weights_may_be_exchanged_on_purpose(folder: Path) -> None:
    replace_weights(folder, lambda tensors: tensors.update({"head.bias": torch.ones(2)}))
    entry = json.loads((folder / "config.json").read_text())
    del entry["weights"]
    (folder / "config.json").write_text(json.dumps(entry))
    assert load(folder).head.bias.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{", r"config\.json` is not JSON \(Expecting property name"),
        (b"\xff", r"config\.json` is not JSON \(.*can't decode byte"),
        (b"[]", r"config\.json` holds a list, but a JSON object"),
        (b"{}", r'config\.json` has "longstate": None, but the version that saved it is needed there'),
        (b'{"longstate": 1}', r'has "longstate": 1, but the version'),
        (b'{"longstate": "99.0.1"}', r"was saved by longstate 99\.0\.1, but this is .*pip install --upgrade longstate"),
        (b'{"longstate": "0.0.1"}', r"config\.json` cannot be used: `kind` is missing"),
        (b'{"longstate": "0.0.1", "model": []}', r"config\.json` cannot be used: `model` is \[\], but a mapping"),
        (
            b'{"longstate": "0.0.1", "model": {"kind": "gpt"}}',
            r"cannot be used: `kind` is 'gpt', but one of classifier",
        ),
    ],
)
def test_a_configuration_that_cannot_be_read_is_refused(folder: Path, text: bytes, message: str) -> None:
    (folder / "config.json").write_bytes(text)
    with pytest.raises(InputError, match=message):
        load(folder)


def test_a_value_that_a_layer_refuses_is_named_with_its_file(folder: Path) -> None:
    model = json.loads((folder / "config.json").read_text())["model"]
    model["backbone"]["layer"]["d_state"] = -2
    edit(folder, model=model)
    with pytest.raises(InputError, match=r"config\.json` cannot be used: `d_state` is -2, but a positive integer"):
        load(folder)


class Killed(BaseException):
    """The process is gone: nothing runs after it."""


class Dying:
    """Lets so many calls to the system through, then none: what is on the disk stays as it is."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, survives: int) -> None:
        self.left = survives
        for owner, name in (
            (atomic, "open"),
            (os, "replace"),
            (os, "fsync"),
            (Path, "unlink"),
            (Path, "mkdir"),
            (Path, "rmdir"),
        ):
            real = getattr(owner, name, open)
            monkeypatch.setattr(owner, name, self.through(real), raising=False)

    def through(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self.left == 0:
                raise Killed
            self.left -= 1
            return real(*args, **kwargs)

        return call


def answers(folder: Path) -> tuple[Any, list[float]]:
    model = load(folder)
    return model.config, model(torch.ones(1, 5, 2)).flatten().tolist()


def test_a_kill_at_any_moment_leaves_the_old_model_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = (build(config).eval() for config in (CONFIGS[0], CONFIGS[1], CONFIGS[2]))
    for at, model in enumerate((first, second, third)):
        save(model, tmp_path / str(at))
    old, new, newest = (answers(tmp_path / str(at)) for at in range(3))
    seen = []
    for survives in range(100):
        folder = tmp_path / f"kill{survives}"
        save(first, folder)
        killed = False
        with monkeypatch.context() as patch:
            Dying(patch, survives)
            try:
                save(second, folder)
            except Killed:
                killed = True
        if not killed:
            assert answers(folder) == new
            break
        seen.append(answers(folder))
        assert seen[-1] in (old, new)
        # Whoever saves next finishes or drops what was begun, and may be killed too.
        for again in range(100):
            copy = tmp_path / f"kill{survives}-{again}"
            copy.mkdir()
            for path in folder.iterdir():
                (copy / path.name).write_bytes(path.read_bytes())
            again_killed = False
            with monkeypatch.context() as patch:
                Dying(patch, again)
                try:
                    save(third, copy)
                except Killed:
                    again_killed = True
            assert answers(copy) in (seen[-1], newest)
            if not again_killed:
                assert answers(copy) == newest
                assert {"config.json", "model.safetensors"} == {n for n in names(copy) if not n.endswith(".tmp")}
                break
    assert killed is False
    assert seen[0] == old
    assert seen[-1] == new
    assert seen == sorted(seen, key=lambda answer: answer == new), "once new, always new"


def test_a_kill_during_the_first_save_leaves_nothing_or_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(CONFIGS[0]).eval()
    save(model, tmp_path / "whole")
    complete = answers(tmp_path / "whole")
    outcomes = []
    for survives in range(100):
        folder = tmp_path / str(survives)
        with monkeypatch.context() as patch:
            Dying(patch, survives)
            try:
                save(model, folder)
            except Killed:
                pass
            else:
                break
        if (folder / "model.safetensors").exists():
            outcomes.append(answers(folder) == complete)
        else:
            with pytest.raises(InputError, match=r"does not exist|has no model\.safetensors"):
                load(folder)
            outcomes.append(None)
    assert outcomes[0] is None
    assert outcomes[-1] is True
    assert False not in outcomes


@pytest.mark.parametrize("step", ["open", "fsync", "replace"])
@pytest.mark.parametrize("is_new", [True, False])
def test_a_full_disk_is_a_sentence_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, is_new: bool
) -> None:
    folder = tmp_path / "model"
    if not is_new:
        save(build(CONFIGS[0]).eval(), folder)
        before = answers(folder)
    model = build(CONFIGS[1])
    owner = atomic if step == "open" else os
    real = getattr(owner, step, open)

    def full_after(calls: int) -> Callable[..., Any]:
        left = iter(range(calls))

        def call(*args: Any, **kwargs: Any) -> Any:
            if next(left, None) is None:
                raise OSError(28, "No space left on device")
            return real(*args, **kwargs)

        return call

    for calls in (0, 1):
        with monkeypatch.context() as patch:
            patch.setattr(owner, step, full_after(calls), raising=False)
            with pytest.raises(
                InputError, match=r"could not be written \(No space left on device\), but a folder with"
            ):
                save(model, folder)
        if is_new:
            assert not folder.exists()
        else:
            assert names(folder) == ["config.json", "model.safetensors"]
            assert answers(folder) == before


def test_a_write_that_the_system_cuts_short_leaves_nothing_behind(folder: Path) -> None:
    before = answers(folder)
    model = build(CONFIGS[1])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, hard))  # the configuration fits, the weights do not
    try:
        with pytest.raises(InputError, match=r"model\.safetensors` could not be written \(File too large\)"):
            save(model, folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(folder) == ["config.json", "model.safetensors"]
    assert answers(folder) == before


def test_a_place_that_cannot_be_a_folder_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file` could not be written \(File exists\)"):
        save(build(CONFIGS[0]), tmp_path / "file")
    with pytest.raises(InputError, match=r"x` could not be written \(Not a directory\)"):
        save(build(CONFIGS[0]), tmp_path / "file" / "x")


def test_files_get_the_rights_that_the_user_asks_for(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        atomic.write(tmp_path / "x", b"1")
    finally:
        os.umask(before)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o644


def test_a_file_that_begins_like_a_pickle_is_read(tmp_path: Path) -> None:
    packed = (tensors.pack({"a" * width: torch.ones(2)}, {}) for width in range(500, 700))
    data = next(data for data in packed if data.startswith(b"\x80\x02"))  # a header of 640 bytes
    (tmp_path / "weights.safetensors").write_bytes(data)
    (found,) = tensors.read(tmp_path / "weights.safetensors").tensors.values()
    assert torch.equal(found, torch.ones(2))
