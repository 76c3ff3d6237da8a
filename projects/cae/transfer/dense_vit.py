"""CAE's encoder for detection and segmentation: maps of several blocks and resolutions, learning rates by depth.

A plain ViT has one resolution. As BEiT does it, and CAE after it, features of four blocks are scaled by 4, 2, 1 and
1/2 with deconvolutions and a max pooling; for patches of 8 pixels by 2, 1, 1/2 and 1/4.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule
from mmpretrain.engine.optimizers import LearningRateDecayOptimWrapperConstructor
from mmpretrain.registry import MODELS, OPTIM_WRAPPER_CONSTRUCTORS
from torch import Tensor, nn

from ..sizes import arch_of
from .finetune_vit import CAEFinetuneViT

TAPS = {12: (3, 5, 7, 11), 24: (7, 11, 15, 23)}  # the authors' configs, by the number of blocks


@MODELS.register_module()
class CAEDenseViT(CAEFinetuneViT):
    """Feature maps of some blocks, for images of any size, square or not.

    Detection and segmentation take it as ``type='mmpretrain.CAEDenseViT'``. Segmentation: relative position bias,
    position table resized to the crop. Detection: ``use_rel_pos_bias=False, pos_resize='rebuild'``, the sin-cos table
    is computed for the grid of the image. Both as in the authors' code.

    Args:
        arch: As in :class:`CAEViT`.
        img_size: Size (H, W) or one number, in pixels, for which the bias tables are made; the crop size.
        out_indices: Blocks whose output is taken. Default: of 12 blocks 3, 5, 7, 11, of 24 blocks 7, 11, 15, 23.
        final_norm: Whether the last block's output passes the final norm of the pretraining. Default: False.
        **kwargs: Arguments of :class:`CAEFinetuneViT`.

    ``forward`` maps (B, 3, H, W) to one (B, D, h, w) a block, h and w being H and W over the patch size, rounded up.

    Raises:
        ValueError: There is no default for this number of blocks.
    """

    def __init__(
        self,
        arch: str | dict = 'base',
        img_size: int | tuple[int, int] = 512,
        *,
        out_indices: Sequence[int] | None = None,
        final_norm: bool = False,
        **kwargs,
    ) -> None:
        if out_indices is None:
            num_layers = arch_of(arch)['num_layers']
            if num_layers not in TAPS:
                raise ValueError(f'set out_indices: there is no default for {num_layers} blocks')
            out_indices = TAPS[num_layers]
        super().__init__(
            arch,
            img_size,
            out_indices=list(out_indices),
            final_norm=final_norm,
            out_type='featmap',
            **kwargs,
        )


@MODELS.register_module()
class ViTPyramid(BaseModule):
    """Scale feature maps of one resolution by powers of two, up with deconvolutions, down with max pooling.

    Equal to mmseg's ``Feature2Pyramid``, which a detector without mmseg does not have. Put mmdet's ``FPN`` behind it:
    ``neck=[dict(type='mmpretrain.ViTPyramid', …), dict(type='FPN', …)]``.

    Args:
        in_channels: Channels of every input, D.
        scales: Factor for each input, of 4, 2, 1, 0.5 and 0.25.
        norm_cfg: Norm between the two deconvolutions of factor 4.
        init_cfg: Initialization.
    """

    def __init__(
        self,
        in_channels: int,
        scales: Sequence[float] = (4, 2, 1, 0.5),
        norm_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        norm_cfg = norm_cfg or dict(type='SyncBN', requires_grad=True)
        if unknown := set(scales) - {4, 2, 1, 0.5, 0.25}:
            raise ValueError(f'scales are of 4, 2, 1, 0.5 and 0.25, not {sorted(unknown)}')
        self.ops = nn.ModuleList(self._op(scale, in_channels, norm_cfg) for scale in scales)

    @staticmethod
    def _op(scale: float, channels: int, norm_cfg: dict) -> nn.Module:
        def double() -> nn.Module:
            return nn.ConvTranspose2d(channels, channels, kernel_size=2, stride=2)

        if scale == 4:
            return nn.Sequential(double(), build_norm_layer(norm_cfg, channels)[1], nn.GELU(), double())
        if scale == 2:
            return double()
        return nn.Identity() if scale == 1 else nn.MaxPool2d(round(1 / scale), round(1 / scale))

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Scale.

        Args:
            inputs: Tensors (B, D, h, w), as many as ``scales``.

        Returns:
            Tensors (B, D, h * scale, w * scale).
        """
        return tuple(op(x) for op, x in zip(self.ops, inputs, strict=True))


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class BackboneLayerDecayOptimWrapperConstructor(LearningRateDecayOptimWrapperConstructor):
    """mmpretrain's layer decay for a model whose backbone, not itself, tells the depth of a parameter.

    mmpretrain's asks the whole model, which mmdet's and mmseg's cannot answer; theirs know backbones by name. What is
    not in the backbone gets the full learning rate. ``paramwise_cfg`` is that of the base class.
    """

    def add_params(self, params: list[dict], module: nn.Module, prefix: str = '', get_layer_depth=None, **kwargs):
        """Add the parameters of ``module`` to ``params``, as the base class does, with the backbone's depths."""
        if get_layer_depth is None:
            get_layer_depth = partial(module.backbone.get_layer_depth, prefix='backbone.')
        super().add_params(params, module, prefix=prefix, get_layer_depth=get_layer_depth, **kwargs)
