"""Targets from a frozen image encoder: CLIP's image tower, or any network of mmpretrain, timm or transformers.

CAE v2 (arXiv 2211.09799) compares with CLIP ViT-B/16: last block, normalization and projection, for each token.

Shapes: ``B`` images, ``N`` patches of a grid ``(h, w)``, ``C`` channels.
"""

from __future__ import annotations

import torch
from mmengine.model import BaseModule
from mmpretrain.models.utils import resize_pos_embed, to_2tuple
from mmpretrain.models.utils.clip_generator_helper import VisionTransformer
from mmpretrain.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F

from mmplugins.utils.encoders import features_of, is_published, pretrained_of
from mmplugins.utils.weights import is_torchscript, load_strictly, read_weights


@MODELS.register_module()
class FrozenFeatureTarget(BaseModule):
    """Features of a frozen network, ViT or CNN; ``(B, 3, H, W)`` to ``(B, 1 + N, C)``.

    The CLS token is the network's own if it has one, else the mean of the patches; registers are left out.

    Args:
        backbone: Of mmpretrain (a ViT with ``out_type='raw'``), of timm (``dict(type='TIMMBackbone', model_name=…,
            pretrained=True)``) or of transformers (``dict(type='HuggingFaceBackbone', source=…)``).
        grid_size: Grid ``(h, w)`` of the student; the features are resized to it. None: as they come.
        init_cfg: ``dict(type='Pretrained', checkpoint=…)``: a file with all weights of the backbone, also
            ``.safetensors``; see :func:`mmplugins.utils.weights.read_weights`.

    Raises:
        ValueError: The file does not fit, or see :func:`mmplugins.utils.encoders.features_of`.
    """

    def __init__(self, backbone: dict, grid_size: tuple[int, int] | None = None, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg=init_cfg)
        self.backbone = MODELS.build(backbone) if isinstance(backbone, dict) else backbone
        self.published = bool(pretrained_of(init_cfg)) or (isinstance(backbone, dict) and is_published(self.backbone))
        self.grid_size = None if grid_size is None else tuple(grid_size)
        self.requires_grad_(False)

    def init_weights(self) -> None:
        """Read the file of ``init_cfg``, or initialize the backbone as its own config says."""
        file = pretrained_of(self.init_cfg)
        if not file:
            return super().init_weights()
        source = file['checkpoint']
        network = getattr(self.backbone, 'timm_model', self.backbone)
        return load_strictly(network, read_weights(source), source, file.get('prefix'))

    def train(self, mode: bool = True) -> FrozenFeatureTarget:
        """Stay in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Return ``(B, 1 + N, C)`` of images ``(B, 3, H, W)``."""
        extra, maps = features_of(self.backbone, x)
        if self.grid_size not in (None, tuple(maps.shape[-2:])):
            maps = F.interpolate(maps.float(), self.grid_size, mode='bilinear', antialias=True, align_corners=False)
        patches = maps.flatten(2).transpose(1, 2)
        cls_token = extra[:, :1] if extra.size(1) else patches.mean(dim=1, keepdim=True)
        return torch.cat([cls_token.to(patches.dtype), patches], dim=1)


class CLIPTower(VisionTransformer):
    """The host's image tower of CLIP, for any grid, and without the attention weights of the last layer.

    ``(B, 3, H, W)`` to ``(B, 1 + N, C)``.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return all tokens after the last normalization and projection."""
        x = self.conv1(x)
        grid, native = x.shape[-2:], self.input_resolution // self.conv1.stride[0]
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x.flatten(2).transpose(1, 2)], dim=1)
        x = x + resize_pos_embed(self.positional_embedding[None], (native, native), grid)
        x = self.ln_pre(x).transpose(0, 1)
        for block in self.transformer.resblocks:
            block.return_attention = False  # the host sets it for the last one
            x = block(x)
        return self.ln_post(x.transpose(0, 1)) @ self.proj


@MODELS.register_module()
class CLIPVisionTarget(BaseModule):
    """Tokens of CLIP's image tower; ``(B, 3, H, W)`` to ``(B, 1 + N, C)``.

    The host's ``CLIPGenerator`` keeps the text tower, always makes the attention weights of the last layer, has one
    resolution and is built from a file. Here the file is read by ``init_weights``, and must fit ``arch``.

    Args:
        arch: ``'ViT-B/16'``, ``'ViT-B/32'``, ``'ViT-L/14'``, ``'ViT-L/14@336px'``, or a dict with
            ``input_resolution``, ``patch_size``, ``width``, ``layers``, ``heads`` and ``output_dim`` (``C``).
        resolution: Size of the images, ``(H, W)`` or one number; the position embedding is resized. For a student
            with a grid of 14 x 14, a tower with patches of 14 needs 196. None: that of ``arch``.
        activation: ``'quick_gelu'`` (OpenAI's, and models of open_clip with ``quickgelu`` in their name) or ``'gelu'``
            (the other models of open_clip, as those of LAION and DataComp). No weight shows it, and the wrong one
            loads in silence. None: that of OpenAI, whose own file, a TorchScript archive, is expected.
        init_cfg: ``dict(type='Pretrained', checkpoint=…)``: OpenAI's file, or a file with its names, as open_clip's.

    Raises:
        ValueError: ``arch`` or ``activation`` is unknown, or must be said; the patches do not divide ``resolution``;
            or the file is for another ``arch``.
    """

    archs = {
        name: dict(
            zip(('input_resolution', 'patch_size', 'width', 'layers', 'heads', 'output_dim'), sizes, strict=True)
        )
        for name, sizes in {
            'ViT-B/32': (224, 32, 768, 12, 12, 512),
            'ViT-B/16': (224, 16, 768, 12, 12, 512),
            'ViT-L/14': (224, 14, 1024, 24, 16, 768),
            'ViT-L/14@336px': (336, 14, 1024, 24, 16, 768),
        }.items()
    }

    def __init__(
        self,
        arch: str | dict = 'ViT-B/16',
        resolution: int | tuple[int, int] | None = None,
        activation: str | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        if activation not in (None, 'quick_gelu', 'gelu'):
            raise ValueError(f"activation={activation!r}; 'quick_gelu' or 'gelu'")
        if isinstance(arch, str) and arch not in self.archs:
            raise ValueError(f'arch={arch!r}; one of {sorted(self.archs)}, or a dict')
        self.arch, self.activation = arch, activation
        sizes = self.archs[arch] if isinstance(arch, str) else arch
        self.resolution = tuple(to_2tuple(sizes['input_resolution'] if resolution is None else resolution))
        if any(side % sizes['patch_size'] for side in self.resolution):
            raise ValueError(f'patches of {sizes["patch_size"]} pixels do not divide resolution={self.resolution}')
        self.tower = CLIPTower(**sizes)
        if activation == 'gelu':
            for block in self.tower.transformer.resblocks:
                block.mlp.gelu = nn.GELU()
        self.requires_grad_(False)

    def init_weights(self) -> None:
        """Read the file of ``init_cfg``."""
        if file := pretrained_of(self.init_cfg):
            source = file['checkpoint']
            if self.activation is None and not is_torchscript(source):
                raise ValueError(
                    f"{source} is not OpenAI's own archive and does not say its activation: set activation='gelu' "
                    f"(open_clip: LAION, DataComp) or 'quick_gelu' (OpenAI; open_clip: *-quickgelu)"
                )
            load_strictly(self.tower, read_weights(source), f'{source}, read as CLIP {self.arch},')

    def train(self, mode: bool = True) -> CLIPVisionTarget:
        """Stay in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Return ``(B, 1 + N, C)`` of images ``(B, 3, H, W)``, normalized with CLIP's mean and deviation."""
        if tuple(x.shape[-2:]) != self.resolution:
            raise ValueError(f'images of {tuple(x.shape[-2:])} pixels for a target with resolution={self.resolution}')
        return self.tower(x)
