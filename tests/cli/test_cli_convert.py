"""`longstate convert`: a folder with the numbers of the official code, and an account of every tensor."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

import longstate
import official
from longstate.layers import S4, TwoSided
from longstate.models import SequenceClassifier, SequenceTagger
from published import as_version_3, sequence_model, state_dict

CHECKPOINTS = Path(__file__).parents[1] / "goldens" / "checkpoints"


@pytest.fixture
def block(tmp_path: Path) -> Path:
    torch.save(state_dict("block/s4_legs"), tmp_path / "s4.pt")
    return tmp_path / "s4.pt"


@pytest.mark.parametrize("ending", ["pt", "safetensors"])
@pytest.mark.parametrize(
    ("name", "options", "tolerance"),
    [
        ("block/s4_legs", (), 2e-4),
        ("block/s4_tied_nssm", (), 2e-4),
        ("block/s4d_lin", (), 2e-5),
        ("block/s4d_bidirectional", ("--rule", "bilinear"), 2e-5),
        ("stream/s4d", (), 2e-5),
    ],
)
def test_the_folder_gives_the_outputs_of_the_official_code(run, tmp_path, name, options, tolerance, ending) -> None:
    path, out = tmp_path / f"x.{ending}", tmp_path / "out"
    if ending == "pt":
        torch.save(state_dict(name), path)
    else:
        safetensors.torch.save_file(state_dict(name), path)
    said = run("convert", path, out, *options)
    assert (said.code, said.err) == (0, "")
    arrays = official.case(name)
    y = longstate.load(out)(arrays["x"]).detach()
    assert (y - arrays["y"]).abs().max() <= tolerance * arrays["y"].abs().max()


def test_it_says_what_became_of_every_tensor(run, block, tmp_path) -> None:
    said = run("convert", block, tmp_path / "out")
    assert said.out.splitlines()[0] == f"{block}: state-spaces/s4, a layer: S4, version 4"
    for name, tensor in state_dict("block/s4_legs").items():
        row = next(line for line in said.out.splitlines() if line.split() and line.split()[0] == name)
        assert (" x ".join(map(str, tensor.shape)) or "a number") in row
    assert "Not in the file, so assumed" in said.out
    assert said.out.splitlines()[-1] == f"{tmp_path}/out holds S4 (4672 parameters): longstate info {tmp_path}/out"


def test_json_holds_the_same(run, tmp_path) -> None:
    weights = sequence_model("batch")
    torch.save({"state_dict": weights}, tmp_path / "last.ckpt")
    account = json.loads(run("convert", tmp_path / "last.ckpt", tmp_path / "out", "--json").out)
    assert {row["name"] for row in account["used"]} | {row["name"] for row in account["left"]} == set(weights)
    assert account["holds"] == "SequenceClassifier"
    assert account["used"][0] == {
        "name": "model.layers.0.layer.layer.kernel.inv_dt",
        "shape": [16, 1],
        "ours": "backbone.layers.0.layer.log_dt",
    }
    assert len(account["assumed"]) == 5


def test_a_long_table_is_cut_and_says_so(run, tmp_path) -> None:
    torch.save(sequence_model(n_layers=4), tmp_path / "x.pt")
    said = run("convert", tmp_path / "x.pt", tmp_path / "out")
    assert "... and 14 more: --json lists all." in said.out


def test_options_say_what_the_file_does_not(run, tmp_path) -> None:
    torch.save(sequence_model(classes=2), tmp_path / "x.pt")
    said = run("convert", tmp_path / "x.pt", tmp_path / "out", "--task", "tagger", "--names", "rest,walk")
    assert said.code == 0
    model = longstate.load(tmp_path / "out")
    assert isinstance(model, SequenceTagger)
    assert model.config.classes == ("rest", "walk")
    one = run("convert", tmp_path / "x.pt", tmp_path / "one", "--layer", "model.layers.1.layer")
    assert one.code == 0
    assert isinstance(longstate.load(tmp_path / "one"), S4)
    old = as_version_3(state_dict("block/s4_legs"))
    del old["kernel.kernel.L"]
    torch.save(old, tmp_path / "old.pt")
    assert run("convert", tmp_path / "old.pt", tmp_path / "old").code == 2
    assert run("convert", tmp_path / "old.pt", tmp_path / "old", "--length", 256).code == 0


def test_info_knows_a_layer_a_backbone_and_a_model(run, block, tmp_path) -> None:
    run("convert", block, tmp_path / "layer")
    facts = json.loads(run("info", tmp_path / "layer", "--json").out)
    assert (facts["kind"], facts["layer"], facts["d_model"], facts["d_state"]) == ("layer", "S4", 16, 64)
    assert facts["converted"] == "state-spaces/s4, a layer: S4, version 4"
    assert facts["source"] == str(block)
    assert facts["stream_state_bytes"] == 16 * 64 * 4
    weights = {name[6:]: value for name, value in sequence_model().items() if name.startswith("model.")}
    torch.save(weights, tmp_path / "x.pt")
    run("convert", tmp_path / "x.pt", tmp_path / "backbone")
    facts = json.loads(run("info", tmp_path / "backbone", "--json").out)
    assert (facts["kind"], facts["layers"]) == ("backbone", "2 x s4")
    torch.save(state_dict("block/s4d_bidirectional"), tmp_path / "x.pt")
    run("convert", tmp_path / "x.pt", tmp_path / "both")
    assert isinstance(longstate.load(tmp_path / "both"), TwoSided)
    facts = json.loads(run("info", tmp_path / "both", "--json").out)
    assert (facts["layer"], facts["stream_state_bytes"]) == ("TwoSided", None)


def test_a_converted_classifier_answers_in_the_shell(run, tmp_path) -> None:
    torch.save(sequence_model(classes=2), tmp_path / "x.pt")
    run("convert", tmp_path / "x.pt", tmp_path / "out", "--names", "rest,walk")
    said = run("stream", tmp_path / "out", stdin=b"1,2,3\n4,5,6\n")
    assert said.out.splitlines()[0] == "rest,walk"
    model = longstate.load(tmp_path / "out")
    assert isinstance(model, SequenceClassifier)
    x = torch.tensor([[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]])
    last = [float(value) for value in said.out.splitlines()[-1].split(",")]
    assert last == pytest.approx(model(x).softmax(-1)[0].tolist(), abs=1e-5)


def test_a_layer_is_no_model_that_answers(run, block, tmp_path) -> None:
    run("convert", block, tmp_path / "out")
    said = run("stream", tmp_path / "out", stdin=b"1\n")
    assert said.code == 2
    assert said.err.startswith(f"`{tmp_path}/out` holds a bare S4, but a model with an encoder and a head is needed; ")


def test_what_is_there_is_kept_unless_forced(run, block, tmp_path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    assert run("convert", block, out).code == 0
    before = (out / "model.safetensors").read_bytes()
    torch.save(state_dict("block/s4d_lin"), tmp_path / "other.pt")
    said = run("convert", tmp_path / "other.pt", out)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith(f"{out} is there already and not empty, but a new folder is needed; give another, or ")
    assert (out / "model.safetensors").read_bytes() == before
    assert run("convert", block, block).code == 2
    assert run("convert", tmp_path / "other.pt", out, "--force").code == 0
    assert not isinstance(longstate.load(out), S4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--rule", "exact"), "`rule` is 'exact', but one of zoh, bilinear, euler, backward_euler, dirac is needed"),
        (("--dt-transform", "relu"), "`dt_transform` is 'relu', but one of exp, softplus is needed"),
        (("--task", "tag"), "`task` is 'tag', but one of classifier, tagger, regressor is needed"),
        (("--pooling", "sum"), "`pooling` is 'sum', but one of mean, last is needed"),
        (("--layer", "x"), "has no tensor whose name begins with 'x.', but with layer.D"),
        (("--rule", "zoh"), "`rule` is 'zoh', but the official S4 kernel is always bilinear"),
    ],
)
def test_errors_are_one_sentence_and_write_nothing(run, block, tmp_path, options, message) -> None:
    said = run("convert", block, tmp_path / "out", *options)
    assert (said.code, said.out) == (2, "")
    assert message in said.err
    assert said.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_pickle_with_a_program_is_refused_and_not_run(run, tmp_path) -> None:
    class Program:
        def __reduce__(self):
            return Path.mkdir, (tmp_path / "was-run",)

    torch.save({"state_dict": state_dict("block/s4_legs"), "hyper_parameters": Program()}, tmp_path / "x.ckpt")
    said = run("convert", tmp_path / "x.ckpt", tmp_path / "out")
    assert (said.code, said.out) == (2, "")
    assert "which can run any program when it is opened, so it was not opened" in said.err
    assert said.err.count("\n") == 1
    assert not (tmp_path / "was-run").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["jamba_tiny", "mamba2_tiny_groups2", "ssm_format_mamba_tiny"])
def test_a_language_model_becomes_a_folder_with_the_same_logits(run, tmp_path, name) -> None:
    folder, out = CHECKPOINTS / name, tmp_path / "out"
    account = json.loads(run("convert", folder, out, "--dtype", "float64", "--json").out)
    assert account["holds"] == "LanguageModel"
    assert {row["name"] for row in account["used"]} == set(longstate.pretrained.open_checkpoint(folder).names)
    ids, wanted = (torch.from_numpy(np.load(folder / f"{what}.npy")) for what in ("input_ids", "logits_float64"))
    y = longstate.load(out)(ids).detach()
    assert (y - wanted[..., : y.shape[-1]]).abs().max() <= 1e-9 * wanted.abs().max()
    facts = json.loads(run("info", out, "--json").out)
    assert (facts["kind"], facts["dtype"], facts["vocabulary"]) == ("language_model", "float64", y.shape[-1])
    assert facts["stream_state_bytes"] > 0


def test_errors_of_language_models_are_one_sentence(run, tmp_path) -> None:
    said = run("convert", CHECKPOINTS / "mamba_tiny", tmp_path / "out", "--dtype", "int8")
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("`dtype` is 'int8', but one of float32, bfloat16, float16, float64 is needed")
    said = run("convert", CHECKPOINTS / "mamba_tiny", tmp_path / "out", "--rule", "zoh")
    assert said.err.startswith("facts about a checkpoint were given, but the configuration of")
    assert said.err.count("\n") == 1
    assert not (tmp_path / "out").exists()
