"""Image models: the official block, what every row, size and mode gives, folders, and a training that learns."""

import copy
import dataclasses
import inspect
import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import longstate
from longstate import ImageClassifier, InputError
from longstate.layers import SelectiveScan2d
from longstate.models import (
    ImageConfig,
    InputStatistics,
    MambaConfig,
    SelectiveScan2dConfig,
    VimConfig,
    VMambaConfig,
    config_to_dict,
    load_model,
)
from longstate.models.serial import image_model_from_dict
from longstate.models.vision_blocks import Downsampling, DropPath, VisionBlock

GOLDENS = Path(__file__).parents[1] / "goldens" / "vmamba.npz"
CLASSES = ("square", "cross", "ring")
_SCAN = SelectiveScan2dConfig(d_state=2, expand=1.0)
_STATISTICS = InputStatistics(shift=(0.5, 0.4, 0.3), scale=(0.2, 0.3, 0.4))
CONFIGS: dict[str, ImageConfig] = {
    "vmamba": VMambaConfig(classes=CLASSES, dims=(4, 6), depths=(1, 2), statistics=_STATISTICS),
    "vmamba of version 0": VMambaConfig(
        classes=CLASSES,
        dims=(4, 6, 8),
        depths=(1, 1, 1),
        layer=_SCAN,
        patch_embedding="patches",
        patch_size=2,
        downsampling="merging",
        mlp_ratio=0.0,
    ),
    "vmamba of patches": VMambaConfig(
        classes=CLASSES, d_input=1, dims=(8, 8), depths=(1, 1), downsampling="patches", dropout=0.2
    ),
    "vim": VimConfig(
        classes=CLASSES, image_size=(12, 16), patch_size=4, d_model=6, n_layers=2, layer=MambaConfig(d_state=2)
    ),
    "vim of overlapping patches": VimConfig(
        classes=CLASSES,
        d_input=2,
        image_size=(12, 16),
        patch_size=4,
        stride=2,
        d_model=4,
        n_layers=1,
        layer=MambaConfig(d_state=2, dt_rank=2, bias=True),
        pooling="mean",
        norm="layer",
        float32_residual=False,
        halve=False,
        dropout=0.2,
        statistics=InputStatistics(shift=(1.0, 2.0), scale=(3.0, 4.0)),
    ),
    "vim with the token first": VimConfig(
        classes=CLASSES, image_size=(8, 8), patch_size=4, d_model=4, n_layers=1, pooling="first_token"
    ),
}


def images(config: ImageConfig, batch: int = 3, dtype: torch.dtype = torch.float64) -> Tensor:
    size = config.image_size if isinstance(config, VimConfig) else (13, 18)
    return torch.rand(batch, *size, config.d_input, dtype=dtype)


def close(found: Tensor, expected: Tensor, tolerance: float) -> bool:
    return bool((found - expected).abs().max() <= tolerance * expected.abs().max())


def test_official_block() -> None:
    with np.load(GOLDENS) as archive:
        prefix = "block/v05_noz/"
        arrays = {
            key.removeprefix(prefix): torch.from_numpy(archive[key]) for key in archive.files if key.startswith(prefix)
        }
    mixer = SelectiveScan2d(6, 1, expand=1.0, conv_bias=False, gate="none")
    block = VisionBlock(mixer, 12, norm_eps=1e-5, drop_path=0.5, dropout=0.0).double().eval()
    renames = {
        "norm.norm.": "norm.",
        "mlp_norm.norm.": "norm2.",
        "mlp.in_proj.": "mlp.fc1.",
        "mlp.out_proj.": "mlp.fc2.",
        "mixer.norm.norm.": "op.out_norm.",
        "mixer.conv.": "op.conv2d.",
        "mixer.in_proj.": "op.in_proj.",
        "mixer.out_proj.": "op.out_proj.",
        "mixer.x_proj": "op.x_proj_weight",
        "mixer.dt_proj": "op.dt_projs_weight",
        "mixer.dt_bias": "op.dt_projs_bias",
        "mixer.A_log": "op.A_logs",
        "mixer.D": "op.Ds",
    }
    state = {}
    for name, tensor in block.state_dict().items():
        ours = next(begin for begin in renames if name.startswith(begin))
        state[name] = arrays[f"state_dict/{renames[ours]}{name.removeprefix(ours)}"].reshape(tensor.shape)
    block.load_state_dict(state)
    assert close(block(arrays["x"].movedim(1, -1)), arrays["y"].movedim(1, -1), 1e-9)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_rows_do_not_meet_and_nothing_is_written(config: ImageConfig) -> None:
    model = ImageClassifier(config).double().eval()
    x, before = images(config), copy.deepcopy(model.state_dict())
    y = model(x)
    assert y.shape == (3, len(CLASSES))
    assert torch.equal(model(x), y)
    for row in range(3):
        assert close(model(x[row : row + 1]), y[row : row + 1], 1e-12)
    poisoned = torch.cat([x, torch.full_like(x[:1], float("nan"))])
    assert close(model(poisoned)[:3], y, 1e-12)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model(x[:0]).shape == (0, len(CLASSES))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_gradients(config: ImageConfig) -> None:
    model = ImageClassifier(config).double().eval()
    with torch.no_grad():  # nothing starts at a value that hides a factor
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    x = images(config, batch=1)
    parameters = dict(model.named_parameters())
    directions = [torch.randn_like(value) for value in (x, *parameters.values())]

    def loss(shift: float) -> Tensor:
        moved = {
            name: value + shift * way for (name, value), way in zip(parameters.items(), directions[1:], strict=True)
        }
        return torch.func.functional_call(model, moved, (x + shift * directions[0],)).square().sum()

    x.requires_grad_()
    slopes = torch.autograd.grad(model(x).square().sum(), [x, *model.parameters()])
    expected = sum((slope * way).sum() for slope, way in zip(slopes, directions, strict=True))
    x.requires_grad_(False)
    with torch.no_grad():
        found = (8 * (loss(1e-4) - loss(-1e-4)) - (loss(2e-4) - loss(-2e-4))) / 12e-4
    assert torch.allclose(found, torch.as_tensor(expected), rtol=1e-6)
    silent = [name for name, slope in zip(["x", *parameters], slopes, strict=True) if slope.abs().max() == 0]
    # A token before everything has no past for the forward scan of the last block to remember.
    first = isinstance(config, VimConfig) and config.pooling == "first_token"
    assert silent == (["body.blocks.0.mixer.forward_branch.A_log"] if first else [])


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_folder_keeps_a_model(config: ImageConfig, tmp_path: Path) -> None:
    model = ImageClassifier(config).eval()
    longstate.save(model, tmp_path)
    found = longstate.load(tmp_path)
    assert isinstance(found, ImageClassifier)
    assert found.config == config
    assert not found.training
    x = images(config, dtype=torch.float32)
    assert torch.equal(found(x), model(x))
    with pytest.raises(InputError, match="holds a model of images, but one over recordings is needed"):
        load_model(tmp_path)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_configuration_survives_its_dictionary(config: ImageConfig) -> None:
    values = config_to_dict(config)
    assert image_model_from_dict(values) == config
    with pytest.raises(InputError, match="`width` is not a setting that longstate knows"):
        image_model_from_dict(values | {"width": 3})


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_types_are_kept_and_halves_are_close(config: ImageConfig) -> None:
    model = ImageClassifier(config).eval()
    x = images(config, dtype=torch.float32)
    y = model(x)
    assert y.dtype is torch.float32
    assert close(copy.deepcopy(model).double()(x), y, 1e-5)
    half = copy.deepcopy(model).bfloat16()(x)
    assert half.dtype is torch.bfloat16
    assert close(half, y, 0.1)
    with torch.autocast("cpu", torch.bfloat16):
        assert close(model(x).float(), y, 0.05)
    assert copy.deepcopy(model).to("meta")(x.to("meta")).device.type == "meta"


@pytest.mark.parametrize("name", ["vmamba", "vim"])
def test_a_model_becomes_a_program(name: str) -> None:
    model = ImageClassifier(CONFIGS[name]).eval()
    x = images(CONFIGS[name], dtype=torch.float32)
    program = torch.export.export(model, (x,))
    program.example_inputs = None
    written = io.BytesIO()
    torch.export.save(program, written)
    written.seek(0)
    assert close(torch.export.load(written).module()(x), model(x), 1e-5)


def test_statistics_let_a_model_take_raw_images() -> None:
    config = CONFIGS["vmamba"]
    model = ImageClassifier(config).eval()
    bare = ImageClassifier(VMambaConfig(classes=CLASSES, dims=(4, 6), depths=(1, 2))).eval()
    bare.load_state_dict(model.state_dict())
    x = images(config, dtype=torch.float32)
    shifted = (x - torch.tensor(_STATISTICS.shift)) / torch.tensor(_STATISTICS.scale)
    assert close(model(x), bare(shifted), 1e-5)


def test_a_vmamba_takes_other_sizes() -> None:
    model = ImageClassifier(CONFIGS["vmamba of version 0"]).eval()
    assert model.body.smallest == 2
    for size in ((2, 2), (2, 30), (7, 9), (32, 32)):
        assert model(torch.rand(1, *size, 3)).isfinite().all()
    ladder = ImageClassifier(CONFIGS["vmamba of patches"])
    assert ladder.body.smallest == 5
    assert ladder(torch.rand(1, 5, 5, 1)).shape == (1, 3)


def test_merging_pads_odd_sizes_and_joins_columns_first() -> None:
    downsampling = Downsampling("merging", 1, 4, norm_eps=0.0)
    downsampling.norm = torch.nn.Identity()
    downsampling.reduction.weight.data.copy_(torch.eye(4))
    x = torch.arange(1.0, 10).reshape(1, 3, 3, 1)
    assert downsampling(x)[0].tolist() == [[[1, 4, 2, 5], [3, 6, 0, 0]], [[7, 0, 8, 0], [9, 0, 0, 0]]]


def test_the_token_stands_where_it_is_asked_for() -> None:
    """In a Vim whose mixers add nothing, the features are those of the token at its place."""
    for pooling, place in (("middle_token", 6), ("first_token", 0)):
        config = VimConfig(classes=CLASSES, image_size=(12, 16), patch_size=4, d_model=6, n_layers=1, pooling=pooling)
        model = ImageClassifier(config).eval()
        body = model.body
        torch.nn.init.zeros_(body.blocks[0].mixer.out_proj.weight)
        expected = body.norm((body.token + body.positions[place])[None])
        assert torch.allclose(model.features(torch.rand(2, 12, 16, 3)), expected)
        assert len(body.positions) == 13


def test_paths_are_dropped_by_rows_in_training_only() -> None:
    drop, x = DropPath(0.25), torch.ones(4000, 2, 3)
    y = drop(x)
    kept = y[:, 0, 0] > 0
    assert torch.equal(y, torch.where(kept[:, None, None], x / 0.75, 0.0))
    assert abs(kept.float().mean() - 0.75) < 0.03
    assert torch.equal(drop.eval()(x), x)
    config = VMambaConfig(classes=CLASSES, dims=(4, 4), depths=(2, 3), drop_path=0.4)
    rates = [module.rate for module in ImageClassifier(config).modules() if isinstance(module, DropPath)]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


def test_initial_weights_are_the_papers() -> None:
    config = VimConfig(classes=CLASSES, image_size=(64, 64), patch_size=8, d_model=64, n_layers=16)
    body = ImageClassifier(config).body
    bound = math.sqrt(1 / 128) / math.sqrt(16)
    assert 0.9 * bound < body.blocks[3].mixer.out_proj.weight.abs().max() <= bound
    assert abs(body.positions.std() - 0.02) < 2e-3
    assert abs(body.patches.weight.std() - math.sqrt(1 / 192)) < 5e-3
    scan = ImageClassifier(VMambaConfig(classes=CLASSES, dims=(64,), depths=(1,))).body.stages[0][0]
    assert abs(scan.mixer.in_proj.weight.std() - 0.02) < 2e-3
    assert scan.mlp.in_proj.bias.abs().max() == 0


def shapes(count: int, size: int = 16) -> tuple[Tensor, Tensor]:
    """Squares, crosses and rings of random place, size and colour on noise."""
    labels = torch.randint(3, (count,))
    x = 0.3 * torch.rand(count, size, size, 3)
    at = torch.arange(size)
    for image, label in zip(x, labels.tolist(), strict=True):
        radius, (row, column) = int(torch.randint(3, 5, ())), torch.randint(5, size - 5, (2,)).tolist()
        down, along = (at - row).abs()[:, None], (at - column).abs()[None]
        far = torch.maximum(down, along)
        square, cross = far <= radius, ((down == 0) | (along == 0)) & (far <= radius)
        image[(square, cross, far == radius)[label]] = 0.5 + 0.5 * torch.rand(3)
    return x, labels


@pytest.mark.parametrize(
    "config",
    [
        VMambaConfig(classes=CLASSES, dims=(12, 24), depths=(1, 1), layer=_SCAN, drop_path=0.1),
        VimConfig(
            classes=CLASSES, image_size=(16, 16), patch_size=4, d_model=24, n_layers=2, layer=MambaConfig(d_state=4)
        ),
    ],
    ids=lambda config: config.kind,
)
def test_training_learns_shapes(config: ImageConfig) -> None:
    model = ImageClassifier(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(60):
        x, labels = shapes(32)
        loss = F.cross_entropy(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 0.9 * math.log(3)
    assert sum(losses[-5:]) / 5 < 0.5 * math.log(3)


_TWO = {"classes": ("a", "b")}


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: ImageClassifier({"kind": "vim"}), "configuration is a dict, but one of an image model is needed"),
        (lambda: VMambaConfig(classes=()), "`classes` is empty"),
        (
            lambda: VMambaConfig(**_TWO, dims=(8,), depths=(1, 1)),
            r"`dims` is \(8,\) and `depths` \(1, 1\), but one width",
        ),
        (lambda: VMambaConfig(**_TWO, dims=(8, 0), depths=(1, 1)), "`dims` is 0, but a positive integer is needed"),
        (lambda: VMambaConfig(**_TWO, patch_size=8), "`patch_size` is 8 .*; use patch_embedding='patches'"),
        (
            lambda: VMambaConfig(**_TWO, mlp_ratio=-1.0),
            "`mlp_ratio` is -1.0, but 0 or enough for a feature at width 96",
        ),
        (lambda: VMambaConfig(**_TWO, drop_path=1.0), "`drop_path` is 1.0, but a share from 0 up to 1, 1 excluded"),
        (
            lambda: VimConfig(**_TWO, statistics=InputStatistics(shift=(0.0,), scale=(1.0,))),
            "`statistics` has 1 channels, but d_input=3 are needed",
        ),
        (
            lambda: VimConfig(**_TWO, image_size=(224,)),
            r"`image_size` is \(224,\), but a height and a width of at least",
        ),
        (lambda: VimConfig(**_TWO, image_size=(8, 224)), "of at least one patch of 16 are needed"),
        (
            lambda: ImageClassifier(CONFIGS["vmamba"])(torch.rand(2, 3, 32, 32)),
            r"`x` has shape \(2, 3, 32, 32\), but \(batch, height, width, 3\) is needed; put the channels last",
        ),
        (
            lambda: ImageClassifier(CONFIGS["vmamba"])(torch.zeros(2, 32, 32, 3, dtype=torch.uint8)),
            r"`x` is torch.uint8, but a floating type is needed; call `x.float\(\)`, and divide by 255 if training did",
        ),
        (
            lambda: ImageClassifier(CONFIGS["vmamba of patches"])(torch.rand(2, 4, 32, 1)),
            "`x` holds images of 4 x 32, but at least 5 x 5 pixels are needed for one to be left at the last stage",
        ),
        (
            lambda: ImageClassifier(CONFIGS["vim"])(torch.rand(2, 16, 12, 3)),
            "`x` holds images of 16 x 12, but 12 x 16 are needed, since every patch has a learned position; resize",
        ),
    ],
)
def test_errors(build, text: str) -> None:
    with pytest.raises(InputError, match=text):
        build()


def test_the_configuration_of_the_layer_says_what_its_constructor_says() -> None:
    parameters = list(inspect.signature(SelectiveScan2d.__init__).parameters.values())[2:]
    fields = {field.name: field.default for field in dataclasses.fields(SelectiveScan2dConfig) if field.name != "kind"}
    assert fields == {parameter.name: parameter.default for parameter in parameters}
