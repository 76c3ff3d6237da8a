"""mmpretrain's ResNet with SPSA, or any mixer, in its bottlenecks.

mmdet's ResNet takes ``plugins=[dict(cfg=dict(type='SPSA'), stages=(…), position='after_conv2')]`` as it is;
mmpretrain's has no such argument, so a subclass puts the layer in the same place. No weight changes its name.
``B, C, H, W``: images, channels, height, width.
"""

from collections.abc import Sequence

from mmpretrain.models.backbones.resnet import Bottleneck, ResLayer, ResNet
from mmpretrain.registry import MODELS
from torch import Tensor

from mmplugins.utils.recompute import recompute

from .layer import build_mixer


class SPSABottleneck(Bottleneck):
    """Bottleneck with a mixer behind the 3x3 convolution.

    Args:
        in_channels: Of the block.
        out_channels: Of the block.
        mixer: Config of the mixer; it is given ``in_channels``. None: no mixer.
        **kwargs: Of mmpretrain's ``Bottleneck``.
    """

    def __init__(self, in_channels: int, out_channels: int, mixer: dict | None, **kwargs) -> None:
        super().__init__(in_channels, out_channels, **kwargs)
        self.mixer = build_mixer(mixer, self.mid_channels)

    def _forward(self, x: Tensor) -> Tensor:
        # The host's forward is one function; this is it, with the mixer.
        out = self.relu(self.norm1(self.conv1(x)))
        out = self.relu(self.norm2(self.conv2(out)))
        out = self.drop_path(self.norm3(self.conv3(self.mixer(out))))
        return out + (x if self.downsample is None else self.downsample(x))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to ``(B, out_channels, H / stride, W / stride)``."""
        again = self.with_cp and x.requires_grad
        return self.relu(recompute(self, self._forward, x) if again else self._forward(x))


@MODELS.register_module()
class SPSAResNet(ResNet):
    """ResNet-50, -101 or -152 of mmpretrain with SPSA behind the 3x3 convolutions of some stages.

    Takes images ``(B, 3, H, W)`` and loads checkpoints of mmpretrain's ResNet strictly.

    Args:
        depth: 50, 101 or 152.
        mixer: Config of the mixer; it is given ``in_channels``. None: no mixer.
        mixer_stages: Whether each stage has it; default: all but the first, which has the largest maps.
        **kwargs: Of mmpretrain's ``ResNet``.

    Raises:
        ValueError: A depth without bottlenecks, or not one entry of ``mixer_stages`` a stage.
    """

    def __init__(
        self,
        depth: int,
        mixer: dict | None = dict(type='SPSA'),  # noqa: B006
        mixer_stages: Sequence[bool] = (False, True, True, True),
        **kwargs,
    ) -> None:
        if self.arch_settings.get(depth, (None,))[0] is not Bottleneck:
            raise ValueError(f'SPSAResNet has depths 50, 101 and 152, those with bottlenecks; got {depth}')
        if len(mixer_stages) != kwargs.get('num_stages', 4):
            raise ValueError(f'mixer_stages={mixer_stages} needs one entry a stage, {kwargs.get("num_stages", 4)}')
        self.mixer = mixer
        self.mixer_stages = mixer_stages
        super().__init__(depth, **kwargs)

    def make_res_layer(self, **kwargs) -> ResLayer:
        """Build the next stage, of our bottlenecks if it is to have the mixer."""
        if self.mixer_stages[len(self.res_layers)]:
            kwargs.update(block=SPSABottleneck, mixer=self.mixer)
        return super().make_res_layer(**kwargs)
