"""The laws of layers over grids pass on what obeys them and catch the layer that breaks one."""

import pytest
import torch

import catalogue
from laws import grid_toys
from longstate._checks import InputError
from longstate.diagnostics import laws as checks

BROKEN = [
    (grid_toys.CentresTheImages, "rows do not interact: outputs of rows in a batch and alone differ"),
    (grid_toys.KeepsItsGrid, "purity: `forward` sets attributes"),
    (grid_toys.WritesIntoTheImage, "purity: `forward` writes to its arguments"),
    (grid_toys.LosesAGradient, "gradients: derivatives of `forward` by `C`"),
    (grid_toys.MadeOnTheProcessor, "dtype and device: the layer cannot be moved to another device"),
    (grid_toys.HidesAWeight, "copies: outputs after `load_state_dict` differ"),
    (grid_toys.RateOfOneAxis, "rate of axes: rate=2.0 and 2.0 for each axis differ"),
    (grid_toys.DeafToRate, "rate of axes: rate=2.0 changes nothing"),
    (grid_toys.LooksAtPixels, "dtype and device: the layer cannot be moved to another device .*item"),
]


def test_obeying_layer_passes_and_is_left_alone() -> None:
    toy = grid_toys.Blur(3)
    before = [p.clone() for p in toy.parameters()]
    report = checks.check_grid_layer(toy)
    assert all(found.difference <= found.tolerance for found in report)
    expected = {"rows do not interact", "rate of axes", "purity", "gradients", "dtype and device", "copies"}
    assert {found.law for found in report} == expected | {"torch.export", "torch.compile"}
    assert {found.tolerance for found in report if found.law == "rate of axes"} == {2e-5, 1e-10}
    assert toy.training
    assert all(torch.equal(a, b) for a, b in zip(toy.parameters(), before, strict=True))


@pytest.mark.parametrize(("cls", "text"), BROKEN, ids=lambda value: getattr(value, "__name__", None))
def test_law_catches_the_layer_that_breaks_it(cls, text: str) -> None:
    with pytest.raises(checks.LawViolation, match=text):
        checks.check_grid_layer(cls(3), programs=False)


@pytest.mark.parametrize("entry", catalogue.GRID_LAYERS, ids=str)
def test_catalogue_obeys_the_laws(entry) -> None:
    report = checks.check_grid_layer(entry.build(), programs=entry.programs)
    assert all(found.difference <= found.tolerance for found in report)


def test_a_grid_of_other_axes_is_refused() -> None:
    with pytest.raises(InputError, match=r"`grid` is \(3,\), but one size for each of the 2 axes of the layer"):
        checks.check_grid_layer(grid_toys.Blur(3), grid=(3,))
