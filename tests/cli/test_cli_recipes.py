"""The recipes of the synthetic tasks: read, and trained at tiny sizes by the script that compares layers."""

import importlib.util
from pathlib import Path

import pytest

from longstate.cli.config_file import read_config
from longstate.data.synthetic import SYNTHETIC, labels_of

ROOT = Path(__file__).parents[2]
RECIPES = {path.stem: path for path in (ROOT / "recipes" / "synthetic").glob("*.yaml")}
TINY = {
    "copying": "length=3&tokens=2&vocabulary=4",
    "selective_copying": "length=5&tokens=2&vocabulary=4",
    "associative_recall": "length=8&vocabulary=6",
    "induction_heads": "length=6&vocabulary=4",
    "delay": "length=50&lag=5&band=0.2",
    "mackey_glass": "length=20&before=5&tau=4",
}


def script():
    spec = importlib.util.spec_from_file_location("benchmark_synthetic", ROOT / "benchmarks" / "synthetic.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_task_has_its_recipe():
    assert {name.removesuffix("_256") for name in RECIPES} == set(SYNTHETIC)
    assert set(SYNTHETIC) < set(RECIPES)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_recipe_is_for_its_task(name):
    config = read_config(RECIPES[name]).config
    assert config.data.source.startswith(f"task:{name.removesuffix('_256')}?")
    assert name.endswith("_256") == ("length=256" in config.data.source)
    assert config.model.task == labels_of(config.data.source)
    assert config.output == f"runs/{name}"


PAIRS = [("copying", "S4D"), ("associative_recall", "H3"), ("induction_heads", "Mamba"), ("delay", "Hyena")]


@pytest.mark.parametrize(("name", "layer"), PAIRS)
def test_a_pair_trains_and_is_tested(name, layer, monkeypatch):
    benchmark = script()
    tested = []

    def evaluate(model, recordings):
        tested.append(set(recordings.splits))
        return original(model, recordings)

    original = benchmark.training.evaluate
    monkeypatch.setattr(benchmark.training, "evaluate", evaluate)
    tiny = {
        "data.source": f"task:{name}?{TINY[name]}&train=24&validation=4&test=4",
        "model.backbone.d_model": 8,
        "training.epochs": 1,
    }
    result = benchmark.run(RECIPES[name], benchmark.LAYERS[layer], 1, tiny)
    assert tested == [{"test"}], "the test part is read once"
    assert 0 <= result.score <= (3 if name == "delay" else 1)


def test_a_seed_changes_the_sequences(monkeypatch):
    benchmark = script()
    monkeypatch.setattr(benchmark, "read_source", lambda section, task: pytest.fail(section.source))
    with pytest.raises(pytest.fail.Exception, match=r"task:copying\?train=5000&seed=7$"):
        benchmark.run(RECIPES["copying"], benchmark.LAYERS["S4D"], 7)
