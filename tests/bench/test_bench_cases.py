"""Every side of every case runs at its quick sizes, and the sides of a case do the same work."""

import pytest
import torch

from longstate.bench import CASES, Case, NotInstalled, Side, peers
from longstate.bench.cases import language_model, selective, stepping
from longstate.bench.layer_work import without_kernels
from longstate.ops import _native

SIDES = [(case, side) for case in CASES.values() for side in case.sides]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"D_MODEL": 16, "LAYERS": 2, "VOCABULARY": 64, "_INNER": 32, "_RANK": 1, "TOKENS": 2}.items():
        monkeypatch.setattr(language_model, name, value)
    monkeypatch.setattr(stepping, "STEPS", 2)


@pytest.mark.parametrize(("case", "side"), SIDES, ids=lambda part: part.name.replace(" ", "_"))
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*")  # of s5-pytorch
def test_every_side_runs(case: Case, side: Side) -> None:
    for size in case.quick:
        try:
            work = side.prepare(size)
        except NotInstalled as error:
            pytest.skip(str(error))
        work()
        assert side.needs is None or side.needs(2 * size) > side.needs(size) > 0


def test_a_case_begins_with_ours() -> None:
    for case in CASES.values():
        assert case.sides[0].role == "longstate"
        assert len({side.name for side in case.sides}) == len(case.sides)
        assert list(case.sizes) == sorted(case.sizes)
        assert max(case.quick) <= max(case.sizes)


def test_a_missing_package_is_named() -> None:
    with pytest.raises(NotInstalled, match=r"not installed \(pip install --no-deps nothing==1\)"):
        peers.package("nothing_of_this_name", "nothing==1")


def test_without_kernels_pytorch_works_alone() -> None:
    seen = []
    without_kernels(lambda: lambda: seen.append(_native.is_built()))()
    assert seen == [False]


def test_the_bare_products_of_a_mamba_layer_are_its_parameters() -> None:
    layer = selective.Mamba(selective.D_MODEL)
    weights = sum(part.numel() for name, part in layer.named_parameters() if name.endswith("proj.weight"))
    assert selective.mamba_shapes(1) == [
        (1, part.shape[1], part.shape[0], 1)
        for part in (
            layer.in_proj.weight,
            layer.branch.x_proj.weight,
            layer.branch.dt_proj.weight,
            layer.out_proj.weight,
        )
    ]
    assert sum(shape.flops for shape in selective.mamba_shapes(1)) == 2 * weights


def test_the_transformer_block_sees_no_future() -> None:
    block, x = peers.TransformerBlock(128).eval(), torch.randn(1, 10, 128)
    later = x.clone()
    later[:, 7:] = 0
    assert torch.allclose(block(x)[:, :7], block(later)[:, :7], atol=1e-6)


def test_the_step_by_hand_is_that_of_the_backbone() -> None:
    torch.manual_seed(0)
    backbone, x = stepping.stack(2), torch.randn(9, 1, stepping.D_MODEL)
    step, state, constants = stepping.by_hand(backbone), backbone.initial_state(1), backbone.constants()
    states = [torch.view_as_complex(part.x) for part in state]
    with torch.inference_mode():
        for x_t in x:
            expected, state = backbone.step(x_t, state, constants=constants)
            y, states = step(x_t, states)
            torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
