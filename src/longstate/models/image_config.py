"""What an image classifier is, as frozen dataclasses: VMamba's stages of scans, or Vim's sequence of patches."""

from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

from longstate._checks import InputError, check_positive
from longstate.models.config import InputStatistics, check_names
from longstate.models.layer_config import MambaConfig

_FORBID_EXTRA = {"extra": "forbid"}


@dataclass(frozen=True, kw_only=True)
class SelectiveScan2dConfig:
    """The arguments of `layers.SelectiveScan2d`, but for its width.

    Example:
        >>> from longstate.models import SelectiveScan2dConfig
        >>> SelectiveScan2dConfig(d_state=1, gate="none").expand
        2.0
    """

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID_EXTRA

    kind: Literal["selective_scan_2d"] = "selective_scan_2d"
    d_state: int = 16
    expand: float = 2.0
    dt_rank: int | None = None
    d_conv: int = 3
    conv_bias: bool = True
    gate: Literal["silu", "linear", "none"] = "silu"
    norm: Literal["layer", "none"] = "layer"
    bias: bool = False
    dt_min: float = 1e-3
    dt_max: float = 1e-1
    dropout: float = 0.0


_RELEASED = SelectiveScan2dConfig(d_state=1, expand=1.0, conv_bias=False, gate="none")
_MAMBA = MambaConfig()


@dataclass(frozen=True, kw_only=True)
class VMambaConfig:
    """A VMamba: stages of blocks, each stage at half the resolution of the one before. The defaults are its tiny size.

    Args:
        classes: Names of the classes, in the order of the logits.
        d_input: Channels of an image.
        dims: Width of each stage.
        depths: Blocks of each stage.
        layer: What every block mixes the pixels with.
        patch_embedding: "convolutions" (two of 3 x 3 with stride 2, the authors' v2) or "patches" (one map of every
            patch, v1).
        patch_size: Height and width of a patch; 4 with "convolutions".
        downsampling: Between two stages: "convolutions" (3 x 3 with stride 2, v3), "patches" (a map of every 2 x 2
            pixels, v2) or "merging" (a norm and a map of every 2 x 2 pixels, without bias, v1).
        mlp_ratio: Width of the feed-forward of a block for every feature; 0 for none.
        norm_eps: What the norms add to a variance.
        drop_path: Share of the branches that the last block loses in training, row by row; the first loses none, and
            those between in proportion.
        dropout: Share of the feed-forward's inner activations dropped in training.
        statistics: Shift and scale of each channel; the model then takes raw images.

    Raises:
        InputError: If a value is not usable.

    Example:
        >>> from longstate.models import VMambaConfig
        >>> small = VMambaConfig(classes=("cat", "dog"), depths=(2, 2, 15, 2))
        >>> small.dims, small.layer.d_state
        ((96, 192, 384, 768), 1)
    """

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID_EXTRA

    kind: Literal["vmamba"] = "vmamba"
    classes: tuple[str, ...]
    d_input: int = 3
    dims: tuple[int, ...] = (96, 192, 384, 768)
    depths: tuple[int, ...] = (2, 2, 8, 2)
    layer: SelectiveScan2dConfig = _RELEASED
    patch_embedding: Literal["convolutions", "patches"] = "convolutions"
    patch_size: int = 4
    downsampling: Literal["convolutions", "patches", "merging"] = "convolutions"
    mlp_ratio: float = 4.0
    norm_eps: float = 1e-5
    drop_path: float = 0.2
    dropout: float = 0.0
    statistics: InputStatistics | None = None

    def __post_init__(self) -> None:
        _check_image(self.classes, self.d_input, self.drop_path, self.statistics)
        check_positive(patch_size=self.patch_size)
        if not self.dims or len(self.dims) != len(self.depths):
            raise InputError(
                f"`dims` is {self.dims} and `depths` {self.depths}, but one width and one number of blocks for each "
                "stage are needed; give as many of one as of the other."
            )
        for dim, depth in zip(self.dims, self.depths, strict=True):
            check_positive(dims=dim, depths=depth)
        if self.patch_embedding == "convolutions" and (self.patch_size != 4 or self.dims[0] < 2):
            raise InputError(
                f"`patch_size` is {self.patch_size} and the first of `dims` {self.dims[0]}, but two convolutions with "
                "stride 2 make patches of 4 and half of a width of at least 2; use patch_embedding='patches'."
            )
        if self.mlp_ratio < 0 or (self.mlp_ratio and int(min(self.dims) * self.mlp_ratio) < 1):
            raise InputError(
                f"`mlp_ratio` is {self.mlp_ratio}, but 0 or enough for a feature at width {min(self.dims)} is needed; "
                "4.0 is usual, 0 leaves the feed-forward out."
            )


@dataclass(frozen=True, kw_only=True)
class VimConfig:
    """A Vim (Vision Mamba): patches in a row, read both ways by every block. The defaults are its tiny size.

    Args:
        classes: Names of the classes, in the order of the logits.
        d_input: Channels of an image.
        image_size: Height and width of the images; others are refused, since every patch has a learned position.
        patch_size: Height and width of a patch.
        stride: Pixels from a patch to the next; `patch_size` if None.
        d_model: Width.
        n_layers: Blocks.
        layer: The arguments of the `layers.BidirectionalMamba` of every block.
        halve: Whether a block halves the sum of its two directions.
        pooling: What decides: a learned token in the middle of the patches ("middle_token", as released) or before them
            ("first_token"), or the mean over the patches ("mean").
        norm: Before every block and at the end: "rms" or "layer".
        norm_eps: What the norms add to a variance.
        float32_residual: Whether the sum of the branches is kept in float32 beside parameters of half precision.
        drop_path: As of `VMambaConfig`.
        dropout: Share of the embedded patches' features dropped in training.
        statistics: Shift and scale of each channel; the model then takes raw images.

    Raises:
        InputError: If a value is not usable.

    Example:
        >>> from longstate.models import VimConfig
        >>> VimConfig(classes=("cat", "dog"), stride=8).patches
        (27, 27)
    """

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID_EXTRA

    kind: Literal["vim"] = "vim"
    classes: tuple[str, ...]
    d_input: int = 3
    image_size: tuple[int, ...] = (224, 224)
    patch_size: int = 16
    stride: int | None = None
    d_model: int = 192
    n_layers: int = 24
    layer: MambaConfig = _MAMBA
    halve: bool = True
    pooling: Literal["middle_token", "first_token", "mean"] = "middle_token"
    norm: Literal["rms", "layer"] = "rms"
    norm_eps: float = 1e-5
    float32_residual: bool = True
    drop_path: float = 0.1
    dropout: float = 0.0
    statistics: InputStatistics | None = None

    def __post_init__(self) -> None:
        _check_image(self.classes, self.d_input, self.drop_path, self.statistics)
        check_positive(patch_size=self.patch_size, d_model=self.d_model, n_layers=self.n_layers)
        if self.stride is not None:
            check_positive(stride=self.stride)
        if len(self.image_size) != 2 or min(self.image_size) < self.patch_size:
            raise InputError(
                f"`image_size` is {self.image_size}, but a height and a width of at least one patch of "
                f"{self.patch_size} are needed; write (224, 224)."
            )

    @property
    def patches(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        stride = self.patch_size if self.stride is None else self.stride
        height, width = ((size - self.patch_size) // stride + 1 for size in self.image_size)
        return height, width


ImageConfig: TypeAlias = VMambaConfig | VimConfig


def _check_image(classes: tuple[str, ...], d_input: int, drop_path: float, statistics: InputStatistics | None) -> None:
    check_names(classes, name="classes")
    check_positive(d_input=d_input)
    if not 0 <= drop_path < 1:
        raise InputError(
            f"`drop_path` is {drop_path}, but a share from 0 up to 1, 1 excluded, is needed; 0.1 and 0.2 are usual."
        )
    if statistics is not None and len(statistics.shift) != d_input:
        raise InputError(
            f"`statistics` has {len(statistics.shift)} channels, but d_input={d_input} are needed; "
            "compute it from the same channels."
        )
