"""mmpretrain's MobileNetV2 and MobileViT with SPSA, or any mixer.

``B, C, H, W``: images, channels, height, width; ``N``: tokens.
"""

from collections import OrderedDict

from mmpretrain.models.backbones.mobilenet_v2 import MobileNetV2
from mmpretrain.models.backbones.mobilevit import MobileViT
from mmpretrain.models.backbones.vision_transformer import TransformerEncoderLayer
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from .layer import build_mixer


@MODELS.register_module()
class SPSAMobileNetV2(MobileNetV2):
    """MobileNetV2 with a mixer between the depth-wise and the last convolution of its blocks.

    Takes images ``(B, 3, H, W)``. With SPSA it loads checkpoints of mmpretrain's MobileNetV2 strictly.

    Args:
        mixer: Config of the mixer; it is given ``in_channels``. None: no mixer.
        mixer_layers: Layers, 1 to 7, whose blocks have it; default: from stride 8 on.
        *args: Of mmpretrain's ``MobileNetV2``.
        **kwargs: Of mmpretrain's ``MobileNetV2``.

    Raises:
        ValueError: A layer that is not there.
    """

    def __init__(
        self,
        *args,
        mixer: dict | None = dict(type='SPSA'),  # noqa: B006
        mixer_layers: tuple[int, ...] = (3, 4, 5, 6, 7),
        **kwargs,
    ) -> None:
        super().__init__(*args, **kwargs)
        unknown = set(mixer_layers) - set(range(1, len(self.arch_settings) + 1))
        if unknown:
            raise ValueError(f'mixer_layers={mixer_layers}: there are layers 1 to {len(self.arch_settings)}')
        for index in mixer_layers:
            for block in getattr(self, f'layer{index}'):
                *before, (last_name, last) = block.conv.named_children()
                layer = build_mixer(mixer, last.in_channels)
                # A name of its own between the numbers, so that no weight of the host changes its name.
                block.conv = nn.Sequential(OrderedDict([*before, ('mixer', layer), (last_name, last)]))


class TokenMixer(nn.Module):
    """A mixer of maps on a sequence of tokens, in the place of a transformer layer's attention.

    Args:
        mixer: Layer that keeps the shape of ``(B, C, N, 1)``.
    """

    def __init__(self, mixer: nn.Module) -> None:
        super().__init__()
        self.mixer = mixer

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, N, C)`` to the same shape; both transpositions are views."""
        return self.mixer(x.transpose(1, 2).unsqueeze(3)).squeeze(3).transpose(1, 2)


@MODELS.register_module()
class SPSAMobileViT(MobileViT):
    """MobileViT whose transformer layers have SPSA in place of attention, without its ``4C^2`` weights.

    Takes images ``(B, 3, H, W)``. As in the host, tokens meet only those at the same place of their 2x2 patches.
    Checkpoints of MobileViT fit but for the weights of the attention. A mixer of neighborhoods makes no sense here:
    a sequence has none.

    Args:
        mixer: Config of the mixer; it is given ``in_channels``. Heads of 8 channels, as the widths of the transformers
            are multiples of 8 and not all of 16. None: no mixer.
        *args: Of mmpretrain's ``MobileViT``.
        **kwargs: Of mmpretrain's ``MobileViT``.
    """

    def __init__(self, *args, mixer: dict | None = dict(type='SPSA', head_dim=8), **kwargs) -> None:  # noqa: B006
        super().__init__(*args, **kwargs)
        for layer in self.modules():
            if isinstance(layer, TransformerEncoderLayer):
                layer.attn = TokenMixer(build_mixer(mixer, layer.embed_dims))
