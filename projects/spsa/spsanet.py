"""SPSANet, a light hybrid of convolutions and SPSA.

Not in the paper: its abstract puts the layer together with convolution to lighten vision transformers, and names no
network. Sizes and layout are ours. ``B, C, H, W``: images, channels, height, width.
"""

from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmplugins.utils.stages import Stages

from .blocks import OneResidualBlock, TwoResidualsBlock


def build_stem(residuals: int, in_channels: int, channels: int, norm_cfg: dict) -> nn.Sequential:
    """Build the stem of the networks with one residual a block, or two; stride 4."""
    if residuals == 1:
        # One convolution with overlap; two of 3x3 take 2 to 11 % of the network's time more.
        conv = nn.Conv2d(in_channels, channels, 7, stride=4, padding=3, bias=False)
        return nn.Sequential(conv, build_norm_layer(norm_cfg, channels)[1])
    half = channels // 2
    return nn.Sequential(
        nn.Conv2d(in_channels, half, 3, stride=2, padding=1, bias=False),
        build_norm_layer(norm_cfg, half)[1],
        nn.GELU(),
        nn.Conv2d(half, channels, 3, stride=2, padding=1, bias=False),
        build_norm_layer(norm_cfg, channels)[1],
    )


@MODELS.register_module()
class SPSANet(Stages, BaseModule):
    """Four stages of blocks with a mixer, strides 4, 8, 16, 32.

    There are two layouts of about equally many parameters. One residual a block, with ReLU and a stem of one
    convolution, was made for speed: see `OneResidualBlock`. Two, with GELU and a stem of two convolutions, is the
    slower: see `TwoResidualsBlock`.

    Weights start as torch initializes them; give ``init_cfg`` for others.

    Args:
        arch: ``xxs``, ``xs``, ``s``, with two residuals a block ``xxs_2res``, ``xs_2res``, ``s_2res``; or a dict with
            ``dims``, ``depths`` (equally long), optionally ``expansion`` (3) and ``residuals`` (1; or 2).
        mixer: Config of the mixer, any registered layer that takes ``in_channels`` and keeps the shape: ``SPSA``, one
            of yours, or a plugin of mmcv. None: no mixer.
        in_channels: Channels of the image.
        out_indices: Stages whose outputs are returned, in this order, each behind a norm of its own. -1 is the last.
        frozen_stages: -1: nothing is frozen; 0: the stem; ``n``: the stem and the first ``n`` stages.
        norm_cfg: Config of the norm layers.
        norm_eval: Keep batch norms in eval mode while training.
        with_cp: Recompute blocks in backward to save memory.
        init_cfg: Of mmengine.

    Attributes:
        feature_info: Of each output, as timm says it: ``num_chs``, ``reduction`` (the stride), ``module`` (the stage).

    Raises:
        ValueError: Unknown ``arch``, or an index or stage that is not there.
    """

    arch_settings = {
        'xxs': dict(dims=(32, 64, 96, 160), depths=(2, 2, 6, 3)),
        'xs': dict(dims=(48, 64, 144, 224), depths=(2, 2, 6, 3)),
        's': dict(dims=(48, 96, 192, 320), depths=(3, 3, 9, 4)),
        'xxs_2res': dict(dims=(32, 64, 96, 160), depths=(2, 2, 6, 2), residuals=2),
        'xs_2res': dict(dims=(48, 64, 144, 224), depths=(2, 2, 6, 2), residuals=2),
        's_2res': dict(dims=(48, 96, 192, 320), depths=(3, 3, 9, 3), residuals=2),
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
        dims, depths, expansion, residuals = self._parse_arch(arch)
        strides = [2 ** (index + 2) for index in range(len(dims))]
        self._set_stages(dims, strides, out_indices, frozen_stages, norm_eval)
        self.stem = build_stem(residuals, in_channels, dims[0], norm_cfg)
        block = OneResidualBlock if residuals == 1 else TwoResidualsBlock
        self.stages = nn.ModuleList()
        for index, (channels, depth) in enumerate(zip(dims, depths, strict=True)):
            layers = []
            if index:
                down = nn.Conv2d(dims[index - 1], channels, 2, stride=2, bias=False)
                layers += [down, build_norm_layer(norm_cfg, channels)[1]]
            layers += [block(channels, mixer, expansion, norm_cfg, with_cp) for _ in range(depth)]
            self.stages.append(nn.Sequential(*layers))
        for index in sorted(set(self.out_indices)):
            self.add_module(f'norm{index}', build_norm_layer(norm_cfg, dims[index])[1])
        self._freeze_stages()

    def _parse_arch(self, arch: str | dict) -> tuple[tuple[int, ...], tuple[int, ...], int, int]:
        """Return channels and depths of the stages, expansion of the feed-forward networks, residuals a block."""
        if isinstance(arch, str):
            if arch not in self.arch_settings:
                raise ValueError(f'arch={arch!r} is not one of {", ".join(self.arch_settings)}, and no dict')
            arch = self.arch_settings[arch]
        optional = dict(expansion=3, residuals=1)
        missing = {'dims', 'depths'} - set(arch)
        if missing or set(arch) - {'dims', 'depths', *optional} or len(arch['dims']) != len(arch['depths']):
            raise ValueError(
                f'arch={dict(arch)} needs dims and depths of equal length, and at most expansion and residuals besides'
            )
        settings = {**optional, **arch}
        if settings['residuals'] not in (1, 2):
            raise ValueError(f'residuals={settings["residuals"]} of arch is not 1 or 2')
        return tuple(settings['dims']), tuple(settings['depths']), settings['expansion'], settings['residuals']

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return maps ``(B, C_i, H / 2^(i+2), W / 2^(i+2))`` of the stages ``i`` in ``out_indices``.

        Args:
            x: ``(B, 3, H, W)``.
        """
        x = self.stem(x)
        outputs = {}
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in self.out_indices:
                # Compiled ops of the hosts (RoIAlign, …) read the memory as it lies, also of a channels-last image.
                outputs[index] = getattr(self, f'norm{index}')(x).contiguous()
        return tuple(outputs[index] for index in self.out_indices)

    def _first_stages(self, count: int) -> list[nn.Module]:
        return [self.stem, *self.stages[:count]]
