"""DS-FPN: mmdet's feature pyramid with a DS-Block at each scale (section 3.4).

The text of the paper was not available to us. A public reading note (github.com/wavce/cv_papers, backbones/DSNet.md)
retells the section: blocks on the lateral connections; without the finest map of the backbone; extra scales by a patch
embedding of 2x2 and a block; and as variants blocks before or behind the 1x1 convolution. The rest is ours, see below.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from mmcv.cnn import ConvModule
from mmdet.models.necks import FPN
from mmdet.registry import MODELS
from mmengine.model import constant_init, xavier_init
from torch import Tensor, nn

from .block import DSBlock, global_width
from .dsnet import PatchEmbed


def build_block(channels: int, ratio: int, head_dim: int, split_ratio: float, **options) -> DSBlock:
    """Build a block whose heads have ``head_dim`` channels.

    Args:
        channels: Of the block.
        ratio: ``global_ratio`` of the block.
        head_dim: It divides the channels of the global stream.
        split_ratio: Of the block.
        **options: Of the block.

    Raises:
        ValueError: ``head_dim`` is below 1 or does not divide them.
    """
    if head_dim < 1:
        raise ValueError(f'head_dim={head_dim} is not a number of channels from 1 on')
    width = global_width(channels, split_ratio)
    if width % head_dim:
        raise ValueError(
            f'head_dim={head_dim} does not divide the {width} channels of the global stream '
            f'(of {channels} channels of a block, split_ratio={split_ratio})'
        )
    return DSBlock(channels, max(width // head_dim, 1), ratio, split_ratio=split_ratio, **options)


class BlockThenConv(ConvModule):
    """A convolution of the pyramid behind a `DSBlock`; its weights keep their names.

    Args:
        *args: Of mmcv's ``ConvModule``.
        block: Of as many channels as the convolution takes.
        **kwargs: Of mmcv's ``ConvModule``.
    """

    def __init__(self, *args, block: DSBlock, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, in_channels, H, W)`` to ``(B, out_channels, H, W)``."""
        return super().forward(self.block(x))


class ConvThenBlock(ConvModule):
    """A convolution of the pyramid before a `DSBlock`; its weights keep their names.

    Args:
        *args: Of mmcv's ``ConvModule``.
        block: Of as many channels as the convolution returns.
        **kwargs: Of mmcv's ``ConvModule``.
    """

    def __init__(self, *args, block: DSBlock, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, in_channels, H, W)`` to ``(B, out_channels, H, W)``."""
        return self.block(super().forward(x))


class ConvsWithBlocks(nn.ModuleList):
    """Convolutions of a pyramid, some with a `DSBlock`.

    It takes the place of the host's plain list because that has no ``init_weights``: called from that of the pyramid,
    behind the host's initialization of all convolutions and before pretrained weights are loaded.

    Args:
        convs: All convolutions.
        zero_init: Let blocks start as the identity.
    """

    def __init__(self, convs: Iterable[nn.Module] = (), zero_init: bool = True) -> None:
        super().__init__(convs)
        self.zero_init = zero_init

    def init_weights(self) -> None:
        """Initialize what the host does not: linear layers, and the start of the blocks."""
        for block in (module for module in self.modules() if isinstance(module, DSBlock)):
            for module in block.modules():
                if isinstance(module, nn.Linear):
                    xavier_init(module, distribution='uniform')
            for conv in block.branch_ends() if self.zero_init else ():
                constant_init(conv, 0)


class PatchScale(nn.Module):
    """An extra scale: patch embedding of 2x2, then a block.

    Args:
        in_channels: Of the map that it is made of.
        channels: Of the pyramid.
        block: Of so many channels.
    """

    def __init__(self, in_channels: int, channels: int, block: DSBlock) -> None:
        super().__init__()
        self.embed = PatchEmbed(in_channels, channels, patch_size=2)
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, in_channels, H, W)`` to ``(B, channels, ceil(H / 2), ceil(W / 2))``."""
        return self.block(self.embed(x))


@MODELS.register_module()
class DSFPN(FPN):
    """FPN with a `DSBlock` at each scale. Takes maps ``(B, in_channels[i], H_i, W_i)``, returns as FPN does.

    The weights of FPN keep their names, so checkpoints of FPN load; missing are only those with ``.block.`` in their
    names (with ``extra_blocks`` also the extra scales, with ``last`` the blocks that stand for 3x3 convolutions).

    Not in the paper, or not known to be: heads of 32 channels as in the backbone, the ratios, the start as the
    identity, ``output``, and which of the positions is the paper's final one.

    Args:
        in_channels: Of the maps of the backbone.
        out_channels: Of the pyramid.
        num_outs: Number of scales.
        *args: Of mmdet's ``FPN``.
        position: ``lateral``: on the maps of the backbone, before the 1x1 convolution, with the backbone's channels;
            ``lateral_rev``: behind it, with the pyramid's, for backbones as wide as ResNet; ``output``: behind the sum,
            before the 3x3 convolution; ``last``: behind the sum, in its place, which does not start as FPN.
        levels: Scales that have a block, 0 is the finest; default: all. A block at stride 4 with 256 channels costs
            three quarters of all four together; the paper leaves that scale out.
        extra_blocks: Make the extra scales by patch embeddings and blocks, as the paper, not by FPN's convolutions.
        split_ratio: Part of a block's channels in its global stream, the paper's alpha.
        inter_scale_align: Whether the streams of a block attend to each other.
        head_dim: Channels of a head; it divides those of each block's global stream.
        global_ratios: Of each scale that FPN builds, finest first; default: as many tokens as the coarsest map has
            positions, ``(8, 4, 2, 1)`` of four. Extra scales have 1.
        mlp_ratio: Hidden channels of the feed-forward networks over those of the block.
        zero_init: Let the blocks start as the identity, so that DS-FPN starts as FPN.
        block_norm_cfg: Config of the norms of maps in the blocks. With few images a GPU use SyncBN or GN.
        with_cp: Recompute blocks in backward to save memory.
        no_norm_on_lateral: Of mmdet's ``FPN``, as those below.
        conv_cfg: Of the convolutions.
        norm_cfg: Of the convolutions.
        act_cfg: Of the convolutions.
        **kwargs: Of mmdet's ``FPN``.

    Raises:
        ValueError: A level that is not there, an unknown position, not one ratio a scale, heads that do not divide the
            channels, or ``extra_blocks`` without extra convolutions.
    """

    def __init__(
        self,
        in_channels: list[int],
        out_channels: int,
        num_outs: int,
        *args,
        position: str = 'lateral',
        levels: Sequence[int] | None = None,
        extra_blocks: bool = False,
        split_ratio: float = 0.5,
        inter_scale_align: bool = True,
        head_dim: int = 32,
        global_ratios: Sequence[int] | None = None,
        mlp_ratio: float = 4,
        zero_init: bool = True,
        block_norm_cfg: dict = dict(type='BN'),  # noqa: B006
        with_cp: bool = False,
        no_norm_on_lateral: bool = False,
        conv_cfg: dict | None = None,
        norm_cfg: dict | None = None,
        act_cfg: dict | None = None,
        **kwargs,
    ) -> None:
        options = dict(conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=act_cfg)
        super().__init__(
            in_channels, out_channels, num_outs, *args, no_norm_on_lateral=no_norm_on_lateral, **options, **kwargs
        )
        scales = len(self.lateral_convs)
        ratios = [2**i for i in reversed(range(scales))] if global_ratios is None else global_ratios
        if len(ratios) != scales:
            raise ValueError(f'global_ratios={global_ratios} needs one entry a scale, {scales}')
        levels = range(scales) if levels is None else levels
        if not set(levels) <= set(range(scales)):
            raise ValueError(f'levels={levels}: FPN builds {scales} scales, 0 to {scales - 1}')
        if position not in ('lateral', 'lateral_rev', 'output', 'last'):
            raise ValueError(f"position={position!r} is not 'lateral', 'lateral_rev', 'output' or 'last'")
        if extra_blocks and len(self.fpn_convs) == scales:
            raise ValueError('extra_blocks=True is for the scales of add_extra_convs, and there are none')
        block = partial(
            build_block,
            head_dim=head_dim,
            split_ratio=split_ratio,
            inter_scale_align=inter_scale_align,
            mlp_ratio=mlp_ratio,
            norm_cfg=block_norm_cfg,
            with_cp=with_cp,
        )
        # The host's arguments of the convolutions, for those that are replaced.
        options['inplace'] = False
        lateral = {**options, 'norm_cfg': None} if no_norm_on_lateral else options
        for level in set(levels):
            self._put_block(level, position, partial(block, ratio=ratios[level]), lateral, options)
        if extra_blocks:
            for i, conv in enumerate(self.fpn_convs[scales:], start=scales):
                self.fpn_convs[i] = PatchScale(conv.in_channels, out_channels, block(out_channels, ratio=1))
        self.lateral_convs = ConvsWithBlocks(self.lateral_convs, zero_init)
        self.fpn_convs = ConvsWithBlocks(self.fpn_convs, zero_init)
        for convs in (self.lateral_convs, self.fpn_convs):
            convs.init_weights()

    def _put_block(
        self, level: int, position: str, block: Callable[[int], DSBlock], lateral: dict, options: dict
    ) -> None:
        """Put a block beside a convolution of a scale, or in its place.

        Args:
            level: The scale.
            position: See the class.
            block: Builds the block of so many channels.
            lateral: Options of a lateral convolution.
            options: Options of a 3x3 convolution.
        """
        ins, outs = self.lateral_convs[level].in_channels, self.out_channels
        if position == 'lateral':
            self.lateral_convs[level] = BlockThenConv(ins, outs, 1, block=block(ins), **lateral)
        elif position == 'lateral_rev':
            self.lateral_convs[level] = ConvThenBlock(ins, outs, 1, block=block(outs), **lateral)
        elif position == 'output':
            self.fpn_convs[level] = BlockThenConv(outs, outs, 3, padding=1, block=block(outs), **options)
        else:
            self.fpn_convs[level] = block(outs)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return maps ``(B, out_channels, H_i, W_i)`` of all scales.

        Args:
            inputs: ``(B, in_channels[i], H_i, W_i)`` of the backbone, finest first.
        """
        # Compiled ops of the host (RoIAlign, …) read the memory as it lies, also of channels-last maps.
        return tuple(y.contiguous() for y in super().forward(inputs))
