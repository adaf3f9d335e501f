"""The page about images keeps its word: its examples run, and the sizes it names are those of the models."""

import re
from pathlib import Path

import pytest
import torch

from longstate import ImageClassifier
from longstate.models import ImageConfig, SelectiveScan2dConfig, VimConfig, VMambaConfig

PAGE = Path(__file__).parents[2] / "docs" / "vision.md"
_NAMES = tuple(map(str, range(1000)))
_WIDE = SelectiveScan2dConfig(d_state=1, expand=2.0, conv_bias=False, gate="none")


def test_the_examples_run() -> None:
    names: dict[str, object] = {}
    for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(compile(code, str(PAGE), "exec"), names)
    assert isinstance(names["raw"], ImageClassifier)


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (VMambaConfig(classes=_NAMES), 30_249_064),
        (VMambaConfig(classes=_NAMES, depths=(2, 2, 15, 2), layer=_WIDE), 50_147_752),
        (VMambaConfig(classes=_NAMES, dims=(128, 256, 512, 1024), depths=(2, 2, 15, 2), layer=_WIDE), 88_557_800),
        (VimConfig(classes=_NAMES), 7_148_008),
        (VimConfig(classes=_NAMES, d_model=384), 25_796_584),
    ],
)
def test_published_sizes(config: ImageConfig, parameters: int) -> None:
    """30M, 50M, 89M, 7M and 26M in the tables of the authors."""
    with torch.device("meta"):
        model = ImageClassifier(config)
    found = sum(parameter.numel() for parameter in model.parameters())
    assert found == pytest.approx(parameters, abs=200)
