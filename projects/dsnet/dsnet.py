"""DS-Net backbone: four stages of DS-Blocks at strides 4, 8, 16, 32.

For the paper and whose code the layout follows see ``streams.py``.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmpretrain.models.backbones.base_backbone import BaseBackbone
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from mmplugins.utils.stages import Stages

from .block import DSBlock


class PatchEmbed(nn.Module):
    """Convolution without overlap; the map is padded right and below to a multiple of the patch.

    Args:
        in_channels: Of the map.
        out_channels: Of the embedding.
        patch_size: Side of a patch in pixels, and the stride.
    """

    def __init__(self, in_channels: int, out_channels: int, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.projection = nn.Conv2d(in_channels, out_channels, patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to ``(B, out_channels, ceil(H / patch_size), ceil(W / patch_size))``."""
        height, width = x.shape[2:]
        # Not by %, which torch 2.11 cannot compile for free sizes, nor by -(-width // size), which ONNX rounds to zero.
        size = self.patch_size
        right = (width + size - 1) // size * size - width
        below = (height + size - 1) // size * size - height
        # A captured graph has to pad whatever its example needed: it is for all sizes.
        if torch.jit.is_tracing() or torch.compiler.is_compiling() or right or below:
            x = F.pad(x, (0, right, 0, below))
        return self.projection(x)


@MODELS.register_module()
class DSNet(Stages, BaseBackbone):
    """DS-Net. Takes images ``(B, 3, H, W)`` of any size, returns maps of the stages in ``out_indices``.

    The published parameter counts are those of ``inter_scale_align=True``, in the paper's tables the names with a star.

    Args:
        arch: ``tiny``, ``small``, ``base``, or a dict with, for each stage, ``embed_dims``, ``depths``, ``num_heads``,
            ``global_ratios`` (see `DSBlock`) and optionally ``patch_sizes`` (4, then 2). ``global_ratios=(8, 4, 2, 1)``
            would be the paper's text, tokens of stride 32 everywhere; the public code and weights have 2 in the end.
        in_channels: Channels of the image.
        mlp_ratio: Hidden channels of the feed-forward networks over those of the stage.
        split_ratio: Part of the channels in the global stream.
        inter_scale_align: Whether the streams attend to each other.
        attn_drop_rate: Dropout of attention weights; 0.1 in the public code.
        drop_path_rate: Of the last block; it grows linearly from 0 over all blocks.
        legacy_drop_path: Every stage starts at 0 again, with the same steps, as in the public code.
        out_indices: Stages whose outputs are returned, in this order. -1 is the last.
        out_norm: Which outputs have a norm: ``last`` (of the last stage, as in the public code), ``all`` or ``none``.
        frozen_stages: -1: nothing is frozen; 0: the first embedding; ``n``: the first ``n`` stages with embeddings.
        norm_cfg: Config of the norms of maps.
        norm_eval: Keep batch norms in eval mode while training.
        with_cp: Recompute blocks in backward to save memory.
        init_cfg: Of mmengine. By default linear layers are truncated normals (0.02), convolutions as torch does it.

    Attributes:
        feature_info: Of each output, as timm says it: ``num_chs``, ``reduction`` (the stride), ``module`` (the stage).

    Raises:
        ValueError: Unknown ``arch`` or ``out_norm``, or an index or stage that is not there.
    """

    arch_settings = {
        name: dict(embed_dims=(64, 128, 320, 512), depths=depths, num_heads=(1, 2, 5, 8), global_ratios=(8, 4, 2, 2))
        for name, depths in dict(tiny=(2, 2, 4, 1), small=(3, 4, 8, 3), base=(3, 4, 28, 3)).items()
    }

    def __init__(
        self,
        arch: str | dict = 'tiny',
        in_channels: int = 3,
        mlp_ratio: float = 4,
        split_ratio: float = 0.5,
        inter_scale_align: bool = True,
        attn_drop_rate: float = 0.1,
        drop_path_rate: float = 0.1,
        legacy_drop_path: bool = False,
        out_indices: int | Sequence[int] = -1,
        out_norm: str = 'last',
        frozen_stages: int = -1,
        norm_cfg: dict = dict(type='BN'),  # noqa: B006
        norm_eval: bool = False,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = dict(type='TruncNormal', layer='Linear', std=0.02),  # noqa: B006
    ) -> None:
        super().__init__(init_cfg)
        arch = self._parse_arch(arch)
        dims, depths = arch['embed_dims'], arch['depths']
        self._set_stages(dims, np.cumprod(arch['patch_sizes']).tolist(), out_indices, frozen_stages, norm_eval)
        if out_norm not in ('last', 'all', 'none'):
            raise ValueError(f"out_norm={out_norm!r} is not 'last', 'all' or 'none'")
        rates = np.linspace(0, drop_path_rate, sum(depths)).tolist()  # not of torch: there may be a fake mode
        self.patch_embeds = nn.ModuleList()
        self.stages = nn.ModuleList()
        for stage, depth in enumerate(depths):
            before = dims[stage - 1] if stage else in_channels
            self.patch_embeds.append(PatchEmbed(before, dims[stage], arch['patch_sizes'][stage]))
            first = 0 if legacy_drop_path else sum(depths[:stage])
            blocks = [
                DSBlock(
                    dims[stage],
                    num_heads=arch['num_heads'][stage],
                    global_ratio=arch['global_ratios'][stage],
                    mlp_ratio=mlp_ratio,
                    split_ratio=split_ratio,
                    inter_scale_align=inter_scale_align,
                    attn_drop_rate=attn_drop_rate,
                    drop_path_rate=rate,
                    norm_cfg=norm_cfg,
                    with_cp=with_cp,
                )
                for rate in rates[first : first + depth]
            ]
            self.stages.append(nn.Sequential(*blocks))
        for index in sorted(set(self.out_indices)):
            if out_norm == 'all' or out_norm == 'last' and index == self.num_stages - 1:
                self.add_module(f'norm{index}', build_norm_layer(norm_cfg, dims[index])[1])
        self._freeze_stages()

    def _parse_arch(self, arch: str | dict) -> dict[str, tuple[int, ...]]:
        """Return the settings of the stages, checked."""
        if isinstance(arch, str):
            if arch not in self.arch_settings:
                raise ValueError(f'arch={arch!r} is not one of {", ".join(self.arch_settings)}, and no dict')
            arch = self.arch_settings[arch]
        needed = {'embed_dims', 'depths', 'num_heads', 'global_ratios'}
        arch = {'patch_sizes': (4, *[2] * (len(arch.get('embed_dims', (1,))) - 1)), **arch}
        if arch.keys() != needed | {'patch_sizes'} or len({len(values) for values in arch.values()}) != 1:
            raise ValueError(
                f'arch={arch} needs {", ".join(sorted(needed))}, one entry a stage, at most patch_sizes too'
            )
        return {key: tuple(values) for key, values in arch.items()}

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return maps of the stages in ``out_indices``.

        Args:
            x: ``(B, 3, H, W)``.

        Returns:
            ``(B, embed_dims[i], H_i, W_i)`` each, with sides ``H / 4, H / 8, …``, every time rounded up.
        """
        # In this layout the tokens of a map are views of it, and a CPU is faster at most things. What leaves is in the
        # usual one: compiled ops of the hosts (RoIAlign, …) read the memory as it lies.
        x = x.contiguous(memory_format=torch.channels_last)
        outputs = {}
        for index, (embed, stage) in enumerate(zip(self.patch_embeds, self.stages, strict=True)):
            x = stage(embed(x))
            if index in self.out_indices:
                norm = getattr(self, f'norm{index}', None)
                outputs[index] = (x if norm is None else norm(x)).contiguous()
        return tuple(outputs[index] for index in self.out_indices)

    def _first_stages(self, count: int) -> list[nn.Module]:
        return [*self.patch_embeds[: max(count, 1)], *self.stages[:count]]
