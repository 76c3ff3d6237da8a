"""DS-FPN: mmdet's feature pyramid with a DS-Block at each scale.

The paper carries its two streams into the pyramid; no code of it is public and its structure was not available to us.
So this design is ours: where the blocks stand, heads, ratios, expansion and the zero start.
"""

from collections.abc import Sequence

from mmdet.models.necks import FPN
from mmdet.registry import MODELS
from mmengine.model import constant_init, trunc_normal_init
from torch import Tensor, nn

from .block import DSBlock


def block_behind(conv: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
    """Forward hook of a convolution that holds a block."""
    return conv.block(output)


def block_before(conv: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    """Forward pre-hook of a convolution that holds a block."""
    return (conv.block(inputs[0]),)


class ConvsWithBlocks(nn.ModuleList):
    """Convolutions of a pyramid, some with a `DSBlock` as their attribute ``block``.

    It takes the place of the host's plain list because that has no ``init_weights``: called from that of the pyramid,
    behind the host's initialization of all convolutions and before pretrained weights are loaded.

    Args:
        convs: All convolutions.
        zero_init: Let blocks start as the identity.
    """

    def __init__(self, convs: nn.ModuleList, zero_init: bool) -> None:
        super().__init__(convs)
        self.zero_init = zero_init

    def init_weights(self) -> None:
        """Initialize the blocks."""
        for block in (conv.block for conv in self if hasattr(conv, 'block')):
            for module in block.modules():
                if isinstance(module, nn.Conv2d):
                    module.reset_parameters()
                elif isinstance(module, nn.Linear):
                    trunc_normal_init(module, std=0.02)
            if self.zero_init:
                for conv in (block.pos_conv, block.proj_out, block.ffn.fc2):
                    constant_init(conv, 0)


@MODELS.register_module()
class DSFPN(FPN):
    """FPN with a `DSBlock` at each scale. Takes maps ``(B, in_channels[i], H_i, W_i)``, returns as FPN does.

    The weights of FPN keep their names, so checkpoints of FPN load; missing are only those with ``.block.`` in their
    names.

    Not in the paper, or not known to be: all defaults here. A block at P2 costs three quarters of all four together;
    ``levels=(1, 2, 3)`` leaves it out.

    Args:
        *args: Of mmdet's ``FPN``.
        num_heads: Heads of the attention.
        global_ratios: Of each scale that FPN builds, finest first; default: as many tokens as the coarsest map has
            positions, ``(8, 4, 2, 1)`` of four.
        mlp_ratio: Hidden channels of the feed-forward networks over ``out_channels``.
        levels: Scales that have a block, 0 is the finest; default: all. The extra levels of FPN never have one.
        position: ``lateral``: behind the 1x1 convolution, before the sum; ``output``: behind the sum, before the 3x3
            convolution.
        zero_init: Let the blocks start as the identity, so that DS-FPN starts as FPN.
        block_norm_cfg: Config of the norms of maps in the blocks. With few images a GPU use SyncBN or GN.
        with_cp: Recompute blocks in backward to save memory.
        **kwargs: Of mmdet's ``FPN``.

    Raises:
        ValueError: A level that is not there, an unknown position, not one ratio a scale, or what `DSBlock` refuses.
    """

    def __init__(
        self,
        *args,
        num_heads: int = 8,
        global_ratios: Sequence[int] | None = None,
        mlp_ratio: float = 1,
        levels: Sequence[int] | None = None,
        position: str = 'lateral',
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
        if position not in ('lateral', 'output'):
            raise ValueError(f"position={position!r} is not 'lateral' or 'output'")
        name = 'lateral_convs' if position == 'lateral' else 'fpn_convs'
        convs = getattr(self, name)
        for level in sorted(set(levels)):
            convs[level].block = DSBlock(
                self.out_channels,
                num_heads=num_heads,
                global_ratio=ratios[level],
                mlp_ratio=mlp_ratio,
                norm_cfg=block_norm_cfg,
                with_cp=with_cp,
            )
            # Hooks find the block by the module that they are given, so copies of the neck use their own blocks.
            if position == 'lateral':
                convs[level].register_forward_hook(block_behind)
            else:
                convs[level].register_forward_pre_hook(block_before)
        setattr(self, name, ConvsWithBlocks(convs, zero_init))
        getattr(self, name).init_weights()
