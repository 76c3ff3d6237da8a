"""Blocks of `SPSANet`. ``B, C, H, W``: images, channels, height, width.

The depth-wise convolution comes before the mixer because SPSA does not know where a token is; a 1x1 convolution after
it mixes the heads.
"""

from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmplugins.utils.recompute import recompute

from .layer import build_mixer


def feed_forward(channels: int, hidden: int, act: nn.Module) -> nn.Sequential:
    """Two 1x1 convolutions with an activation between them."""
    return nn.Sequential(nn.Conv2d(channels, hidden, 1), act, nn.Conv2d(hidden, channels, 1))


class OneResidualBlock(BaseModule):
    """``x + ffn(mixer(norm(dwconv(x))))``: ConvNeXt's block with a mixer between its two halves, and small kernels.

    A norm behind a convolution makes its bias superfluous, and can be folded into it for inference (mmcv's
    ``fuse_conv_bn``).

    Args:
        channels: ``C``.
        mixer: Config of the mixer; it is given ``in_channels``. None: no mixer.
        expansion: Hidden channels of the feed-forward network over ``C``.
        norm_cfg: Config of the norm layers.
        with_cp: Recompute the block in backward to save memory.
    """

    def __init__(
        self, channels: int, mixer: dict | None, expansion: int, norm_cfg: dict, with_cp: bool = False
    ) -> None:
        super().__init__()
        self.with_cp = with_cp
        self.build(channels, mixer, expansion * channels, norm_cfg)

    def build(self, channels: int, mixer: dict | None, hidden: int, norm_cfg: dict) -> None:
        """Make the layers."""
        self.dwconv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.norm = build_norm_layer(norm_cfg, channels)[1]
        self.mixer = build_mixer(mixer, channels)
        # ReLU: GELU takes over five times as long on a CPU, and ONNX Runtime folds a ReLU into the convolution.
        self.ffn = feed_forward(channels, hidden, nn.ReLU(inplace=True))

    def compute(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to the same shape, whether or not it is computed again."""
        return x + self.ffn(self.mixer(self.norm(self.dwconv(x))))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to the same shape."""
        return recompute(self, self.compute, x) if self.with_cp and x.requires_grad else self.compute(x)


class TwoResidualsBlock(OneResidualBlock):
    """``x + pwconv(mixer(dwconv(norm1(x))))``, then ``x + ffn(norm2(x))`` with GELU: the halves of a transformer.

    The arguments are those of `OneResidualBlock`.
    """

    def build(self, channels: int, mixer: dict | None, hidden: int, norm_cfg: dict) -> None:
        """Make the layers."""
        # The norms first: the hosts' fuse_conv_bn() folds a norm into the convolution that is registered before it.
        self.norm1 = build_norm_layer(norm_cfg, channels)[1]
        self.norm2 = build_norm_layer(norm_cfg, channels)[1]
        self.dwconv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.mixer = build_mixer(mixer, channels)
        self.pwconv = nn.Conv2d(channels, channels, 1)
        self.ffn = feed_forward(channels, hidden, nn.GELU())

    def compute(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to the same shape, whether or not it is computed again."""
        x = x + self.pwconv(self.mixer(self.dwconv(self.norm1(x))))
        return x + self.ffn(self.norm2(x))
