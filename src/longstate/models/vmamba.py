"""The body of VMamba: stages of blocks that scan images in four directions."""

from itertools import pairwise

from torch import Tensor, nn

from longstate._checks import InputError
from longstate.layers import SelectiveScan2d
from longstate.layers.norm import LayerNorm
from longstate.models.build_layer import arguments
from longstate.models.image_config import VMambaConfig
from longstate.models.vision_blocks import Downsampling, PatchEmbedding, VisionBlock


class VMambaBody(nn.Module):
    """Stages of blocks with downsampling between them, a norm, and the mean over what is left of an image.

    Args:
        config: Of the model; its statistics and classes are not looked at.

    Source:
        Liu et al.: VMamba, arXiv 2401.10166, section 4.1.

    Example:
        >>> import torch
        >>> from longstate.models import VMambaBody, VMambaConfig
        >>> body = VMambaBody(VMambaConfig(classes=("cat", "dog"), dims=(8, 16), depths=(1, 1)))
        >>> body(torch.rand(2, 32, 48, 3)).shape
        torch.Size([2, 16])
    """

    def __init__(self, config: VMambaConfig) -> None:
        super().__init__()
        eps = config.norm_eps
        self.d_model = config.dims[-1]
        self.patches = PatchEmbedding(
            config.patch_embedding, config.d_input, config.dims[0], config.patch_size, norm_eps=eps
        )
        rates = iter(drop_rates(config.drop_path, sum(config.depths)))
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(
                    VisionBlock(
                        SelectiveScan2d(dim, **arguments(config.layer)),
                        int(dim * config.mlp_ratio),
                        norm_eps=eps,
                        drop_path=next(rates),
                        dropout=config.dropout,
                    )
                    for _ in range(depth)
                )
            )
            for dim, depth in zip(config.dims, config.depths, strict=True)
        )
        self.downsamplings = nn.ModuleList(
            Downsampling(config.downsampling, dim, wider, norm_eps=eps) for dim, wider in pairwise(config.dims)
        )
        self.norm = LayerNorm(self.d_model, eps=eps)
        self.smallest = self.patches.needed(_smallest_grid(self.downsamplings))
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        """Features (batch, d_model) of images (batch, height, width, d_input).

        Raises:
            InputError: If no pixel would be left of the images.
        """
        height, width = x.shape[1:3]
        if min(height, width) < self.smallest:
            raise InputError(
                f"`x` holds images of {height} x {width}, but at least {self.smallest} x {self.smallest} pixels are "
                "needed for one to be left at the last stage; resize them, or take a model with fewer stages."
            )
        x = self.patches(x)
        for number, stage in enumerate(self.stages):
            x = stage(x)
            if number < len(self.downsamplings):
                x = self.downsamplings[number](x)
        return self.norm(x).mean((1, 2))


def drop_rates(last: float, blocks: int) -> list[float]:
    """Rates of stochastic depth that grow in equal steps from 0 in the first block to `last`."""
    return [last * block / max(blocks - 1, 1) for block in range(blocks)]


def _smallest_grid(downsamplings: nn.ModuleList) -> int:
    """Patches of an axis of which one position is left."""
    size = 1
    for downsampling in reversed(list(downsamplings)):
        if isinstance(downsampling, Downsampling):
            size = downsampling.needed(size)
    return size


def _initialise(module: nn.Module) -> None:
    """Linear maps start narrow and without offset, as the authors' do."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
