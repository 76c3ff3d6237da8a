"""DS-FPN: mmdet's feature pyramid with a DS-Block at each scale (section 3.4).

The text of the paper was not available to us. A public reading note (github.com/wavce/cv_papers, backbones/DSNet.md)
retells the section: blocks on the lateral connections; without the finest map of the backbone; extra scales by a patch
embedding of 2x2 and a block; and as variants blocks before or behind the 1x1 convolution. The rest is ours, see below.
"""

from collections.abc import Iterable, Sequence

from mmdet.models.necks import FPN
from mmdet.registry import MODELS
from mmengine.model import constant_init, xavier_init
from torch import Tensor, nn

from .block import DSBlock
from .dsnet import PatchEmbed


def block_before(conv: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    """Forward pre-hook of a convolution that holds a block."""
    return (conv.block(inputs[0]),)


def block_behind(conv: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
    """Forward hook of a convolution that holds a block."""
    return conv.block(output)


class ConvsWithBlocks(nn.ModuleList):
    """Convolutions of a pyramid, some with a `DSBlock` as their attribute ``block``.

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
        for block in (conv.block for conv in self if hasattr(conv, 'block')):
            for module in block.modules():
                if isinstance(module, nn.Linear):
                    xavier_init(module, distribution='uniform')
            if self.zero_init:
                for conv in (block.pos_conv, block.local_out, block.global_out, block.ffn.fc2):
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
    names (with ``extra_blocks`` also the extra scales).

    Not in the paper, or not known to be: heads of 32 channels as in the backbone, the ratios, the start as the
    identity, ``output``, and which of the positions is the paper's final one.

    Args:
        *args: Of mmdet's ``FPN``.
        position: ``lateral``: on the maps of the backbone, before the 1x1 convolution, with the backbone's channels;
            ``lateral_rev``: behind it, with the pyramid's, for backbones as wide as ResNet; ``output``: behind the sum,
            before the 3x3 convolution.
        levels: Scales that have a block, 0 is the finest; default: all. A block at stride 4 with 256 channels costs
            three quarters of all four together; the paper leaves that scale out.
        extra_blocks: Make the extra scales by patch embeddings and blocks, as the paper, not by FPN's convolutions.
        head_dim: Channels of a head; it divides half of the channels of each block.
        global_ratios: Of each scale that FPN builds, finest first; default: as many tokens as the coarsest map has
            positions, ``(8, 4, 2, 1)`` of four. Extra scales have 1.
        mlp_ratio: Hidden channels of the feed-forward networks over those of the block.
        zero_init: Let the blocks start as the identity, so that DS-FPN starts as FPN.
        block_norm_cfg: Config of the norms of maps in the blocks. With few images a GPU use SyncBN or GN.
        with_cp: Recompute blocks in backward to save memory.
        **kwargs: Of mmdet's ``FPN``.

    Raises:
        ValueError: A level that is not there, an unknown position, not one ratio a scale, heads that do not divide the
            channels, or ``extra_blocks`` without extra convolutions.
    """

    def __init__(
        self,
        *args,
        position: str = 'lateral',
        levels: Sequence[int] | None = None,
        extra_blocks: bool = False,
        head_dim: int = 32,
        global_ratios: Sequence[int] | None = None,
        mlp_ratio: float = 4,
        zero_init: bool = True,
        block_norm_cfg: dict = dict(type='BN'),  # noqa: B006
        with_cp: bool = False,
        **kwargs,
    ) -> None:
        super().__init__(*args, **kwargs)
        scales = len(self.lateral_convs)
        ratios = [2**i for i in reversed(range(scales))] if global_ratios is None else global_ratios
        if len(ratios) != scales:
            raise ValueError(f'global_ratios={global_ratios} needs one entry a scale, {scales}')
        levels = range(scales) if levels is None else levels
        if not set(levels) <= set(range(scales)):
            raise ValueError(f'levels={levels}: FPN builds {scales} scales, 0 to {scales - 1}')
        if position not in ('lateral', 'lateral_rev', 'output'):
            raise ValueError(f"position={position!r} is not 'lateral', 'lateral_rev' or 'output'")
        if extra_blocks and len(self.fpn_convs) == scales:
            raise ValueError('extra_blocks=True is for the scales of add_extra_convs, and there are none')

        def make_block(channels: int, ratio: int) -> DSBlock:
            if channels % (2 * head_dim):
                raise ValueError(f'head_dim={head_dim} does not divide half of the {channels} channels of a block')
            heads = channels // 2 // head_dim
            return DSBlock(channels, heads, ratio, mlp_ratio=mlp_ratio, norm_cfg=block_norm_cfg, with_cp=with_cp)

        for level in sorted(set(levels)):
            conv = (self.fpn_convs if position == 'output' else self.lateral_convs)[level]
            # The convolution holds its block, and the hooks find it there: weights keep their names, copies work.
            if position == 'lateral_rev':
                conv.block = make_block(conv.out_channels, ratios[level])
                conv.register_forward_hook(block_behind)
            else:
                conv.block = make_block(conv.in_channels, ratios[level])
                conv.register_forward_pre_hook(block_before)
        if extra_blocks:
            for i, conv in enumerate(self.fpn_convs[scales:], start=scales):
                block = make_block(self.out_channels, 1)
                self.fpn_convs[i] = PatchScale(conv.in_channels, self.out_channels, block)
        self.lateral_convs = ConvsWithBlocks(self.lateral_convs, zero_init)
        self.fpn_convs = ConvsWithBlocks(self.fpn_convs, zero_init)
        for convs in (self.lateral_convs, self.fpn_convs):
            convs.init_weights()
