"""SPSANet, a light hybrid of convolutions and SPSA.

Not in the paper: its abstract puts the layer together with convolution to lighten vision transformers, and names no
network. Sizes and layout are ours. ``B, C, H, W``: images, channels, height, width.
"""

import torch.utils.checkpoint as cp
from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .mixers import build_mixer


class SPSABlock(BaseModule):
    """``x + ffn(mixer(norm(dwconv(x))))``: ConvNeXt's block with a mixer between its two halves, and small kernels.

    The depth-wise convolution comes before the mixer because SPSA does not know where a token is; the feed-forward
    network after it mixes the heads. A norm behind a convolution makes its bias superfluous, and can be folded into it
    for inference (mmcv's ``fuse_conv_bn``).

    Args:
        channels: ``C``.
        mixer: Config of the mixer; it is given ``in_channels``. None: no mixer.
        expansion: Hidden channels of the feed-forward network over ``C``.
        norm_cfg: Config of the norm layer.
        with_cp: Recompute the block in backward to save memory.
    """

    def __init__(
        self, channels: int, mixer: dict | None, expansion: int, norm_cfg: dict, with_cp: bool = False
    ) -> None:
        super().__init__()
        self.with_cp = with_cp
        hidden = expansion * channels
        self.dwconv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.norm = build_norm_layer(norm_cfg, channels)[1]
        self.mixer = build_mixer(mixer, channels)
        # ReLU: GELU takes over five times as long on a CPU, and ONNX Runtime folds a ReLU into the convolution.
        self.ffn = nn.Sequential(nn.Conv2d(channels, hidden, 1), nn.ReLU(inplace=True), nn.Conv2d(hidden, channels, 1))

    def _forward(self, x: Tensor) -> Tensor:
        return x + self.ffn(self.mixer(self.norm(self.dwconv(x))))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to the same shape."""
        if self.with_cp and x.requires_grad:
            return cp.checkpoint(self._forward, x, use_reentrant=False)
        return self._forward(x)


@MODELS.register_module()
class SPSANet(BaseModule):
    """Four stages of `SPSABlock`, strides 4, 8, 16, 32.

    Weights start as torch initializes them; give ``init_cfg`` for others.

    Args:
        arch: ``xxs``, ``xs``, ``s``, or a dict with ``dims``, ``depths`` (equally long), optionally ``expansion`` (3).
        mixer: Config of the mixer, any layer that takes ``in_channels`` and keeps the shape: ``SPSA``, ``SPSASimAM``,
            ``SPSASGE``, ``SPSAPoolMixer``, ``SPSAMHSA``, or a plugin of mmcv. None: no mixer.
        in_channels: Channels of the image.
        out_indices: Stages whose outputs are returned, each behind a norm layer of its own. -1 is the last.
        frozen_stages: -1: nothing is frozen; 0: the stem; ``n``: the stem and the first ``n`` stages.
        norm_cfg: Config of the norm layers.
        norm_eval: Keep batch norms in eval mode while training.
        with_cp: Recompute blocks in backward to save memory.
        init_cfg: Of mmengine.

    Raises:
        ValueError: Unknown ``arch``, or an index or stage that is not there.
    """

    arch_settings = {
        'xxs': dict(dims=(32, 64, 96, 160), depths=(2, 2, 6, 3)),
        'xs': dict(dims=(48, 64, 144, 224), depths=(2, 2, 6, 3)),
        's': dict(dims=(48, 96, 192, 320), depths=(3, 3, 9, 4)),
    }

    def __init__(
        self,
        arch: str | dict = 'xxs',
        mixer: dict | None = dict(type='SPSA'),  # noqa: B006
        in_channels: int = 3,
        out_indices: int | tuple[int, ...] = -1,
        frozen_stages: int = -1,
        norm_cfg: dict = dict(type='BN'),  # noqa: B006
        norm_eval: bool = False,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        dims, depths, expansion = self._parse_arch(arch)
        self.num_stages = len(dims)
        indices = (out_indices,) if isinstance(out_indices, int) else tuple(out_indices)
        if not all(-self.num_stages <= index < self.num_stages for index in indices):
            raise ValueError(f'out_indices={out_indices}: there are {self.num_stages} stages')
        if not -1 <= frozen_stages <= self.num_stages:
            raise ValueError(f'frozen_stages={frozen_stages} is not in -1 … {self.num_stages}')
        self.out_indices = tuple(index % self.num_stages for index in indices)
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval

        def norm(channels: int) -> nn.Module:
            return build_norm_layer(norm_cfg, channels)[1]

        # One convolution with overlap; two of 3x3 take 2 to 11 % of the network's time more.
        self.stem = nn.Sequential(nn.Conv2d(in_channels, dims[0], 7, stride=4, padding=3, bias=False), norm(dims[0]))
        self.stages = nn.ModuleList()
        for index, (channels, depth) in enumerate(zip(dims, depths, strict=True)):
            layers = []
            if index:
                layers += [nn.Conv2d(dims[index - 1], channels, 2, stride=2, bias=False), norm(channels)]
            layers += [SPSABlock(channels, mixer, expansion, norm_cfg, with_cp) for _ in range(depth)]
            self.stages.append(nn.Sequential(*layers))
        for index in self.out_indices:
            self.add_module(f'norm{index}', norm(dims[index]))
        self._freeze_stages()

    def _parse_arch(self, arch: str | dict) -> tuple[tuple[int, ...], tuple[int, ...], int]:
        """Return channels and depth of the stages, and the expansion of the feed-forward networks."""
        if isinstance(arch, str):
            if arch not in self.arch_settings:
                raise ValueError(f'arch={arch!r} is not one of {", ".join(self.arch_settings)}, and no dict')
            arch = self.arch_settings[arch]
        unknown = set(arch) - {'dims', 'depths', 'expansion'}
        if unknown or not {'dims', 'depths'} <= set(arch) or len(arch['dims']) != len(arch['depths']):
            raise ValueError(f'arch={dict(arch)} needs dims and depths of equal length, and at most expansion besides')
        return tuple(arch['dims']), tuple(arch['depths']), arch.get('expansion', 3)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return maps ``(B, C_i, H / 2^(i+2), W / 2^(i+2))`` of the stages ``i`` in ``out_indices``.

        Args:
            x: ``(B, 3, H, W)``.
        """
        x = self.stem(x)
        outputs = []
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in self.out_indices:
                outputs.append(getattr(self, f'norm{index}')(x))
        return tuple(outputs)

    def _freeze_stages(self) -> None:
        """Stop gradients of the stem and the first stages, and put them in eval mode."""
        if self.frozen_stages < 0:
            return
        for module in (self.stem, *self.stages[: self.frozen_stages]):
            module.eval()
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> 'SPSANet':
        """Set the mode; frozen stages, and with ``norm_eval`` all batch norms, stay in eval mode."""
        super().train(mode)
        self._freeze_stages()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self
