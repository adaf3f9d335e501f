"""What the bodies of image models are made of: patches, downsampling, and residual blocks that can be left out."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from longstate.layers import FeedForward, GridLayer
from longstate.layers.norm import LayerNorm


class DropPath(nn.Module):
    """Stochastic depth: in training a row loses a whole branch with probability `rate`; others are scaled up for it.

    Source:
        Huang et al., arXiv 1603.09382, section 3.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """The branch (batch, ...) of every row, or zeros."""
        if not self.training or self.rate == 0.0:
            return x
        kept = torch.rand(x.shape[0], *[1] * (x.dim() - 1), device=x.device) >= self.rate
        return torch.where(kept, x / (1 - self.rate), x.new_zeros(()))


class GridConvolution(nn.Conv2d):
    """A 2-D convolution with the channels last, (batch, height, width, channels)."""

    def forward(self, input: Tensor) -> Tensor:
        """Map images to images; strides and sizes as of `nn.Conv2d`."""
        return super().forward(input.movedim(-1, 1)).movedim(1, -1)


class PatchEmbedding(nn.Module):
    """Images (batch, height, width, d_input) as a grid of patches (batch, rows, columns, d_model), normalised.

    Args:
        kind: "convolutions" (two of 3 x 3 with stride 2, a norm after each and a GELU between) or "patches".
        d_input: Channels of an image.
        d_model: Width of a patch.
        patch_size: Of "patches".
        norm_eps: Of the norms.
    """

    def __init__(self, kind: str, d_input: int, d_model: int, patch_size: int, *, norm_eps: float) -> None:
        super().__init__()
        self.kind = kind
        self.patch_size = patch_size
        if kind == "patches":
            self.layers = nn.Sequential(
                GridConvolution(d_input, d_model, patch_size, stride=patch_size), LayerNorm(d_model, eps=norm_eps)
            )
        else:
            self.layers = nn.Sequential(
                GridConvolution(d_input, d_model // 2, 3, stride=2, padding=1),
                LayerNorm(d_model // 2, eps=norm_eps),
                nn.GELU(),
                GridConvolution(d_model // 2, d_model, 3, stride=2, padding=1),
                LayerNorm(d_model, eps=norm_eps),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Embed every patch."""
        return self.layers(x)

    def needed(self, size: int) -> int:
        """Pixels of an axis that make `size` patches."""
        return size * self.patch_size if self.kind == "patches" else 4 * size - 3


class Downsampling(nn.Module):
    """A grid at half its resolution: (batch, height, width, d_model) to (batch, height / 2, width / 2, d_output).

    Args:
        kind: "convolutions" (3 x 3 with stride 2, then a norm), "patches" (the same of 2 x 2), or "merging" (a norm
            over 2 x 2 pixels, padded with zeros at an odd border, then a map without bias).
        d_model: Width that comes in.
        d_output: Width that goes out.
        norm_eps: Of the norm.
    """

    def __init__(self, kind: str, d_model: int, d_output: int, *, norm_eps: float) -> None:
        super().__init__()
        self.kind = kind
        if kind == "merging":
            self.norm = LayerNorm(4 * d_model, eps=norm_eps)
            self.reduction = nn.Linear(4 * d_model, d_output, bias=False)
        else:
            size, padding = (3, 1) if kind == "convolutions" else (2, 0)
            self.reduction = GridConvolution(d_model, d_output, size, stride=2, padding=padding)
            self.norm = LayerNorm(d_output, eps=norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        """Halve height and width."""
        return self.reduction(self.norm(_quarters(x))) if self.kind == "merging" else self.norm(self.reduction(x))

    def needed(self, size: int) -> int:
        """Positions of an axis that make `size` positions."""
        return 2 * size if self.kind == "patches" else 2 * size - 1


def _quarters(x: Tensor) -> Tensor:
    """The four pixels of every 2 x 2 side by side: left column from the top, then the right one."""
    height, width = x.shape[1:3]
    x = F.pad(x, (0, 0, 0, width % 2, 0, height % 2))
    return torch.cat([x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)], dim=-1)


class VisionBlock(nn.Module):
    """A layer over grids and a feed-forward, each in a pre-norm residual branch: the block of VMamba.

        x = x + drop(mixer(norm(x)));    x = x + drop(mlp(norm(x)))

    Args:
        mixer: The layer.
        d_mlp: Width of the feed-forward; 0 for none.
        norm_eps: Of the norms.
        drop_path: Share of rows that lose a branch in training.
        dropout: Share of the feed-forward's inner activations dropped in training.
    """

    def __init__(self, mixer: GridLayer, d_mlp: int, *, norm_eps: float, drop_path: float, dropout: float) -> None:
        super().__init__()
        self.norm = LayerNorm(mixer.d_model, eps=norm_eps)
        self.mixer = mixer
        self.drop_path = DropPath(drop_path)
        self.mlp_norm, self.mlp = None, None
        if d_mlp:
            self.mlp_norm = LayerNorm(mixer.d_model, eps=norm_eps)
            self.mlp = FeedForward(mixer.d_model, d_mlp, dropout=dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Both branches over (batch, height, width, d_model)."""
        x = x + self.drop_path(self.mixer(self.norm(x)))
        if self.mlp is None or self.mlp_norm is None:
            return x
        return x + self.drop_path(self.mlp(self.mlp_norm(x).flatten(1, 2)).view_as(x))
