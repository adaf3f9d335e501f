"""Layers of the official S4 code: their own outputs from their own state dicts, in every version's names."""

from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

import official
from longstate import InputError, pretrained, theory
from longstate.layers import S4, S4D, TwoSided
from longstate.ops import lti_kernel
from longstate.pretrained import Facts
from published import StateDict, as_version_3, state_dict

BLOCKS = {
    "block/s4_legs": (S4, None, 2e-4),
    "block/s4_tied_nssm": (S4, None, 2e-4),
    "block/s4d_lin": (S4D, Facts(rule="zoh"), 2e-5),
    "block/s4d_bidirectional": (TwoSided, Facts(rule="bilinear"), 2e-5),
    "stream/s4d": (S4D, None, 2e-5),
}


def write(weights: StateDict, folder: Path, ending: str = "pt") -> Path:
    path = folder / f"weights.{ending}"
    if ending == "safetensors":
        safetensors.torch.save_file({name: value.contiguous() for name, value in weights.items()}, path)
    else:
        torch.save(weights, path)
    return path


def assert_close(y: Tensor, wanted: Tensor, tolerance: float) -> None:
    assert (y - wanted).abs().max() <= tolerance * wanted.abs().max()


@pytest.mark.parametrize("ending", ["pt", "safetensors"])
@pytest.mark.parametrize("name", BLOCKS)
def test_version_4_gives_the_outputs_of_the_official_code(name: str, ending: str, tmp_path: Path) -> None:
    kind, facts, tolerance = BLOCKS[name]
    arrays, weights = official.case(name), state_dict(name)
    converted = pretrained.convert(write(weights, tmp_path, ending), facts=facts)
    layer = converted.model
    assert type(layer) is kind
    assert not layer.training
    assert {parameter.dtype for parameter in layer.parameters()} == {torch.float32}
    assert_close(layer(arrays["x"]).detach(), arrays["y"], tolerance)
    assert_close(layer.double()(arrays["x"].double()).detach(), arrays["y"], tolerance)
    assert sorted(used.name for used in converted.used) == sorted(weights)
    assert {used.name: used.shape for used in converted.used} == {name: value.shape for name, value in weights.items()}
    assert converted.left == ()


@pytest.mark.parametrize("name", [name for name in BLOCKS if name.startswith("block")])
def test_version_3_gives_the_same_layer(name: str, tmp_path: Path) -> None:
    _, _, tolerance = BLOCKS[name]
    facts = Facts(rule="zoh") if name == "block/s4d_lin" else None
    old = as_version_3(state_dict(name))
    converted = pretrained.convert(write(old, tmp_path), facts=facts)
    assert "version 3" in converted.source
    assert_close(converted.model(official.case(name)["x"]).detach(), official.case(name)["y"], tolerance)
    assert {used.name for used in converted.used} == set(old)


def test_version_2_lacks_the_length_of_its_C(tmp_path: Path) -> None:
    old = as_version_3(state_dict("block/s4_legs"))
    length = int(old.pop("kernel.kernel.L"))
    old["kernel.kernel.log_w_real"] = old.pop("kernel.kernel.inv_w_real")
    old["kernel.kernel.omega"] = old["kernel.kernel.z"] = torch.zeros(length // 2 + 1, 2)
    path = write(old, tmp_path)
    with pytest.raises(
        InputError, match=r"lacks kernel.kernel.L, the length for which its C was prepared, .* `length`"
    ):
        pretrained.load(path)
    converted = pretrained.convert(path, facts=Facts(length=length))
    assert_close(
        converted.model(official.case("block/s4_legs")["x"]).detach(), official.case("block/s4_legs")["y"], 2e-4
    )
    assert [left.name for left in converted.left] == ["kernel.kernel.omega", "kernel.kernel.z"]


def test_rank_2(tmp_path: Path) -> None:
    arrays, options = official.case("kernel/s4_legt_rank2"), official.OPTIONS["kernel/s4_legt_rank2"]
    pairs = {name: torch.view_as_real(arrays[name]) for name in ("B", "C", "P")}
    weights = {
        "D": torch.zeros(1, 4),
        "kernel.inv_dt": arrays["dt"].log(),
        "kernel.A_real": (-arrays["A"].real).log(),
        "kernel.A_imag": -arrays["A"].imag,
        "kernel.B": pairs["B"].unsqueeze(0),
        "kernel.C": pairs["C"].unsqueeze(0),
        "kernel.P": pairs["P"],
        "kernel.l_kernel": torch.tensor(0),  # C was not prepared yet
    }
    layer = pretrained.load(write(weights, tmp_path))
    assert isinstance(layer, S4)
    assert_close(lti_kernel(layer.system(), options["L"], dtype=torch.float64)[0].detach(), arrays["K"], 2e-4)


def test_tied_rows_serve_every_second_feature(tmp_path: Path) -> None:
    tied, free = state_dict("block/s4_legs"), state_dict("block/s4_legs")
    for name, axis in {"A_real": 0, "A_imag": 0, "B": 1, "P": 1}.items():
        rows = torch.stack(
            [free[f"layer.kernel.{name}"].select(axis, 3), 1.1 * tied[f"layer.kernel.{name}"].select(axis, 5)], axis
        )
        repeats = [8 if at == axis else 1 for at in range(rows.dim())]
        tied[f"layer.kernel.{name}"], free[f"layer.kernel.{name}"] = rows, rows.repeat(repeats)
    x = torch.randn(1, 300, 16)
    y = pretrained.load(write(tied, tmp_path))(x).detach()
    assert_close(y, pretrained.load(write(free, tmp_path))(x).detach(), 1e-6)


def test_C_is_restored_exactly(tmp_path: Path) -> None:
    weights = {name: value.double() for name, value in state_dict("block/s4_legs").items()}
    weights["layer.kernel.l_kernel"] = torch.tensor(200)
    layer = pretrained.load(write(weights, tmp_path))
    assert isinstance(layer, S4)
    assert layer.C.dtype is torch.float64
    system = layer.system()
    again = theory.truncate_output(system.C, system.A, 200)
    stored = theory.real_vector(torch.view_as_complex(weights["layer.kernel.C"]).conj_physical())
    assert_close(again.detach(), stored, 1e-9)


def test_the_minimal_file(tmp_path: Path) -> None:
    weights = {
        "D": torch.randn(4),
        "kernel.log_dt": torch.linspace(-5.0, -2.0, 4),
        "kernel.log_A_real": torch.log(0.5 + torch.rand(4, 8)),
        "kernel.A_imag": torch.pi * torch.arange(8.0).repeat(4, 1),
        "kernel.C": torch.randn(4, 8, 2),
        "output_linear.0.weight": torch.randn(8, 4, 1),
        "output_linear.0.bias": torch.randn(8),
    }
    layer = pretrained.load(write(weights, tmp_path)).double()
    x = torch.randn(2, 50, 4, dtype=torch.float64)
    wide = {name: value.double() for name, value in weights.items()}
    A = torch.complex(-wide["kernel.log_A_real"].exp(), wide["kernel.A_imag"])
    z = A * wide["kernel.log_dt"].exp()[:, None]
    C = torch.view_as_complex(wide["kernel.C"]) * (z.exp() - 1) / A
    kernel = 2 * (C[..., None] * (z[..., None] * torch.arange(50)).exp()).sum(1).real
    y = torch.stack([(kernel[:, : t + 1].flip(1) * x[:, : t + 1].mT).sum(-1) for t in range(50)], 1)
    y = torch.nn.functional.gelu(y + wide["D"] * x)
    y = torch.nn.functional.glu(y @ wide["output_linear.0.weight"][..., 0].T + wide["output_linear.0.bias"])
    assert_close(layer(x).detach(), y, 1e-10)


def test_real_modes_count_twice_as_in_the_official_kernel(tmp_path: Path) -> None:
    weights = {
        "D": torch.zeros(1, 4),
        "kernel.inv_dt": torch.linspace(-4.0, -2.0, 4)[:, None],
        "kernel.A_real": torch.rand(2, 8),
        "kernel.B": torch.randn(1, 2, 8),
        "kernel.C": torch.randn(1, 4, 8),
    }
    layer = pretrained.load(write(weights, tmp_path))
    assert isinstance(layer, S4D)
    A, B = (weights[f"kernel.{name}"].double().reshape(2, 8).repeat(2, 1) for name in ("A_real", "B"))
    A = -A.exp()
    z = A * weights["kernel.inv_dt"].double().exp()
    terms = B * weights["kernel.C"][0].double() * (z.exp() - 1) / A
    kernel = 2 * (terms[..., None] * (z[..., None] * torch.arange(30)).exp()).sum(1)
    assert_close(lti_kernel(layer.system(), 30, dtype=torch.float64)[0].detach(), kernel, 1e-6)


def test_steps_by_softplus(tmp_path: Path) -> None:
    weights = state_dict("block/s4d_lin")
    dt = weights["layer.kernel.inv_dt"].exp()
    path = write(weights | {"layer.kernel.inv_dt": torch.log(torch.expm1(dt))}, tmp_path)
    layer = pretrained.load(path, facts=Facts(dt_transform="softplus"))
    assert_close(layer(official.case("block/s4d_lin")["x"]).detach(), official.case("block/s4d_lin")["y"], 2e-5)


def test_channels_and_an_output_map_without_a_gate(tmp_path: Path) -> None:
    weights = state_dict("block/s4d_lin")
    weights["layer.D"] = torch.randn(3, 16)
    weights["layer.kernel.C"] = torch.randn(3, 16, 32, 2)
    weights["output_linear.weight"] = torch.randn(16, 48)
    weights["output_linear.bias"] = torch.randn(16, 1)
    for name in ("output_linear.0.weight", "output_linear.0.bias"):
        del weights[name]
    converted = pretrained.convert(write(weights, tmp_path))
    x = torch.randn(1, 40, 16)
    single = [
        pretrained.load(
            write(
                {
                    "D": weights["layer.D"][at : at + 1],
                    **{
                        name.removeprefix("layer."): value
                        for name, value in weights.items()
                        if name.startswith("layer.kernel")
                    },
                    "kernel.C": weights["layer.kernel.C"][at : at + 1],
                },
                tmp_path,
            )
        )(x)
        for at in range(3)
    ]
    y = torch.nn.functional.gelu(torch.cat(single, -1)) @ weights["output_linear.weight"].T
    assert_close(converted.model(x).detach(), (y + weights["output_linear.bias"][:, 0]).detach(), 1e-5)


def test_what_was_assumed_is_said(tmp_path: Path) -> None:
    path = write(state_dict("block/s4d_lin"), tmp_path)
    assert pretrained.convert(path).assumed == (
        "one GELU before the output map, and a gate after it",
        "the discretisation zoh, as is its default (rule)",
        "dt is the exponential of the stored step (dt_transform)",
    )
    known = pretrained.convert(path, facts=Facts(rule="bilinear", dt_transform="exp"))
    assert known.assumed == ("one GELU before the output map, and a gate after it",)
    assert isinstance(known.model, S4D)
    assert known.model.rule == "bilinear"


def change(name: str, value: Tensor | None) -> StateDict:
    weights = state_dict("block/s4_legs")
    if value is None:
        del weights[name]
        return weights
    return weights | {name: value}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (change("layer.kernel.P", None), "lacks layer.kernel.P, but it is needed beside layer.D, "),
        (change("layer.D", None), "lacks layer.D, but it is needed"),
        (change("output_linear.0.bias", None), r"lacks output_linear.0.bias, but it is needed"),
        (change("layer.kernel.inv_dt", None), "has layer.kernel with names of none of the versions 2.1 to 4"),
        (
            change("layer.input_gate.weight", torch.ones(2)),
            r"holds layer.input_gate.weight besides the tensors of state-spaces/s4, a layer: S4, version 4, but what",
        ),
        (
            change("layer.kernel.B", torch.ones(1, 16, 31, 2)),
            r"has layer.kernel.B of shape \(1, 16, 31, 2\), which does not become B of shape \(16, 32, 2\), but all",
        ),
        (
            change("layer.kernel.inv_dt", torch.zeros(16, 32)),
            r"has layer.kernel.inv_dt of shape \(16, 32\), which does not become log_dt of shape \(16,\)",
        ),
        (change("layer.kernel.A_real", torch.zeros(32)), r"has layer.kernel.A_real of shape \(32,\), but 2 axes"),
        (change("layer.kernel.A_real", torch.zeros(3, 32)), "that cannot be built: `n_ssm` is 3, but a divisor"),
        (
            change("layer.kernel.C", torch.full((1, 16, 32, 2), torch.nan)),
            "has layer.kernel.C as torch.float32 with values that are not finite numbers, but weights are needed",
        ),
        (change("layer.D", torch.ones(1, 16).long()), "has layer.D as torch.int64 with values that are not"),
        (change("layer.D", torch.ones(3, 16)), "has 1 channels in layer.kernel.C and 3 in layer.D, but equally many"),
        (change("layer.kernel.P", torch.ones(3, 16, 32, 2)), "has layer.kernel.P of rank 3, but longstate's S4 has"),
        (change("layer.kernel.l_kernel", torch.tensor(-1)), "has -1 as layer.kernel.l_kernel, but a length is needed"),
        (change("layer.kernel.l_kernel", torch.tensor([5, 6])), r"has \[5, 6\] as layer.kernel.l_kernel"),
        (
            change("output_linear.0.weight", torch.ones(20, 16)),
            r"has output_linear.0.weight with 20 rows, but 16 features need 32 \(with a gate\) or 16;",
        ),
        (
            change("output_linear.0.weight", torch.ones(32, 48)),
            r"has output_linear.0.weight of shape \(32, 48\), which does not become output.linear.weight of shape "
            r"\(32, 16\)",
        ),
        (
            {**change("layer.D", torch.ones(2, 16)), "layer.kernel.C": torch.ones(4, 16, 32, 2)},
            "reads both ways at layer. with 2 channels, but longstate has this form for one",
        ),
        (
            {
                **change("layer.kernel.A_real", torch.full((16, 32), -40.0)),
                "layer.kernel.P": torch.zeros(1, 16, 32, 2),
                "layer.kernel.A_imag": torch.zeros(16, 32),
            },
            "C of layer.kernel. in `.*` cannot be restored: `A_bar` of head 0 has an eigenvalue whose power 256 is 1",
        ),
    ],
)
def test_what_does_not_fit_is_one_sentence(weights: StateDict, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message) as caught:
        pretrained.load(write(weights, tmp_path))
    assert str(caught.value).endswith((".", "it cannot be converted."))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (Facts(rule="zoh"), "`rule` is 'zoh', but the official S4 kernel is always bilinear; leave it out"),
        (Facts(length=100), r"`length` is 100, but layer.kernel.l_kernel of `.*` is 256; leave it out"),
        (Facts(task="tagger"), "a task, names or a pooling were given, but .* holds a layer, which has none"),
    ],
)
def test_facts_that_contradict_the_file_are_refused(facts: Facts, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        pretrained.load(write(state_dict("block/s4_legs"), tmp_path), facts=facts)


def test_another_architecture_is_named_as_unknown(tmp_path: Path) -> None:
    path = write(torch.nn.LSTM(3, 4).state_dict(), tmp_path)
    with pytest.raises(
        InputError, match=r"holds weight_ih_l0, weight_hh_l0, bias_ih_l0 and 1 more, which is no checkp"
    ):
        pretrained.load(path)


def test_loading_draws_the_same_layer_twice_and_keeps_no_hold_on_the_file(tmp_path: Path) -> None:
    path = write(state_dict("block/s4_legs"), tmp_path)
    first = pretrained.load(path)
    path.write_bytes(b"\0" * path.stat().st_size)  # a mapped tensor would change with it
    write(state_dict("block/s4_legs"), tmp_path)
    second = pretrained.load(path)
    x = torch.randn(1, 30, 16)
    assert torch.equal(first(x), second(x))
    assert all(parameter.requires_grad for parameter in first.parameters())
    first(x).sum().backward()
