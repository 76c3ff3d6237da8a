"""The encoder after pretraining: for fine-tuning, and as the base of the dense tasks.

Shapes: images (B, 3, H, W); tokens (B, 1 + N, D), class token first; N = h * w patches in raster order.
"""

from __future__ import annotations

import math

from mmpretrain.registry import MODELS
from torch import Tensor

from ..relative_position import resize_bias_table
from ..tokens import grid_of_table, is_sincos, sincos_table
from ..vit import CAEViT


@MODELS.register_module()
class CAEFinetuneViT(CAEViT):
    """The pretrained encoder for fine-tuning: mean of the patch tokens, relative position bias, any image size.

    A pretraining checkpoint loads as it is: ``init_cfg=dict(type='Pretrained', checkpoint=…, prefix='backbone.')``.
    Each point is as in the authors' fine-tuning: the fixed sin-cos table is kept; the bias for relative positions
    starts from zero, so the first features are those of the pretraining; the final norm of the pretraining becomes
    the norm of the pooled tokens. Probes need none of it and take :class:`CAEViT`.

    Args:
        arch: As in :class:`CAEViT`.
        img_size: Size (H, W) or one number, in pixels, for which tables are made. Images of any other size work too.
        out_type: ``'avg_featmap'`` (B, D), ``'cls_token'`` (B, D), ``'raw'`` (B, 1 + N, D), ``'featmap'``
            (B, D, h, w).
        final_norm: Whether the tokens pass the final norm of the pretraining.
        use_rel_pos_bias: Whether each block has a bias for relative positions.
        pos_resize: For an image of another grid than ``img_size``: ``'bicubic'`` resizes the position table,
            ``'rebuild'`` computes the sin-cos table of the image's own grid; a learned table is then an error.
        **kwargs: Other arguments of :class:`CAEViT`.
    """

    def __init__(
        self,
        arch: str | dict = 'base',
        img_size: int | tuple[int, int] = 224,
        *,
        out_type: str = 'avg_featmap',
        final_norm: bool = False,
        use_rel_pos_bias: bool = True,
        pos_resize: str = 'bicubic',
        **kwargs,
    ) -> None:
        if pos_resize not in ('bicubic', 'rebuild'):
            raise ValueError(f"pos_resize is 'bicubic' or 'rebuild', not {pos_resize!r}")
        super().__init__(
            arch,
            img_size,
            out_type=out_type,
            final_norm=final_norm,
            use_rel_pos_bias=use_rel_pos_bias,
            **kwargs,
        )
        self.pos_resize = pos_resize

    def position_table(self, grid: tuple[int, int]) -> Tensor:
        """Position table (1, 1 + h * w, D) of a grid (h, w)."""
        if self.pos_resize == 'rebuild' and tuple(grid) != self.patch_resolution:
            return sincos_table(grid, self.embed_dims).to(self.pos_embed)
        return super().position_table(grid)

    def _prepare_state_dict(self, state_dict: dict, prefix: str) -> None:
        """Fit norms and tables of a pretraining, or of another image size, in place."""
        self._prepare_norms(state_dict, prefix)
        super()._prepare_state_dict(state_dict, prefix)
        self._prepare_bias_tables(state_dict, prefix)

    def fit_table(self, table: Tensor, own: tuple[int, int] | None = None) -> Tensor:
        """Resize, or compute anew, a position table (1, 1 + N, D) for this model's grid.

        Raises:
            ValueError: The table is to be computed anew, but the one of the weights was learned or resized.
        """
        if self.pos_resize == 'bicubic':
            return super().fit_table(table, own)
        if not is_sincos(table, grid_of_table(table, own)):
            raise ValueError(
                "pos_resize='rebuild' computes sine-cosine tables, but the pos_embed of the weights is no such table: "
                "set pos_resize='bicubic' in the backbone"
            )
        return sincos_table(self.patch_resolution, self.embed_dims).to(self.pos_embed)

    def _prepare_norms(self, state_dict: dict, prefix: str) -> None:
        """Let the final norm of the pretraining be that of the pooled tokens; mmpretrain's config loses it."""
        for name in ('weight', 'bias'):
            if self.final_norm or f'{prefix}ln1.{name}' not in state_dict:
                continue
            value = state_dict.pop(f'{prefix}ln1.{name}')
            if self.out_type == 'avg_featmap':
                state_dict.setdefault(f'{prefix}ln2.{name}', value)

    def _prepare_bias_tables(self, state_dict: dict, prefix: str) -> None:
        """Resize loaded bias tables of another grid."""
        rows, columns = self.patch_resolution
        for name in [name for name in state_dict if name.startswith(prefix) and 'relative_position' in name]:
            if name.endswith('index') or not self.use_rel_pos_bias:
                del state_dict[name]
            elif len(table := state_dict[name]) != (2 * rows - 1) * (2 * columns - 1) + 3:
                side = math.isqrt(len(table) - 3)  # 2h - 1
                if side**2 != len(table) - 3:
                    raise ValueError(
                        f'{name} is not of a square grid, so its grid is not known: build the model with the img_size '
                        f'of the checkpoint (images of other sizes work too)'
                    )
                state_dict[name] = resize_bias_table(table, (side // 2 + 1,) * 2, (rows, columns))
        for i, layer in enumerate(self.layers if self.use_rel_pos_bias else ()):
            # Made when the model is built; not in a pretraining checkpoint, where it is not worth a warning.
            state_dict[f'{prefix}layers.{i}.attn.relative_position_index'] = layer.attn.relative_position_index
