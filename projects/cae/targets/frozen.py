"""Targets from a frozen image encoder: CLIP's image tower, or any backbone of mmpretrain or timm.

CAE v2 (arXiv 2211.09799) compares with CLIP ViT-B/16: last block, normalization and projection, for each token.

Shapes: ``B`` images, ``N`` patches of a grid ``(h, w)``, ``C`` channels.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch
from mmengine.model import BaseModule
from mmengine.runner import CheckpointLoader
from mmpretrain.models.utils import resize_pos_embed, to_2tuple
from mmpretrain.models.utils.clip_generator_helper import VisionTransformer
from mmpretrain.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F


def read_weights(path: str) -> dict[str, Tensor]:
    """Read a state dict: of mmengine, of plain torch, or of a TorchScript archive, as OpenAI's CLIP files are."""
    if Path(path).is_file() and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            is_script = any(name.endswith('/constants.pkl') for name in archive.namelist())
        if is_script:
            return torch.jit.load(path, map_location='cpu').state_dict()
    checkpoint = CheckpointLoader.load_checkpoint(path, map_location='cpu')
    for key in ('state_dict', 'model'):
        checkpoint = checkpoint.get(key, checkpoint)
    return checkpoint


def load_all(module: nn.Module, weights: dict[str, Tensor], prefix: str, source: str) -> None:
    """Load every weight of a frozen module; the host's loading would only log what does not fit.

    Args:
        module: The module.
        weights: A state dict; what does not start with ``prefix`` is left out, if anything does.
        prefix: As ``'backbone.'``.
        source: Named in the error.

    Raises:
        ValueError: A weight is missing, or has another shape.
    """
    if any(name.startswith(prefix) for name in weights):
        weights = {name[len(prefix) :]: value for name, value in weights.items() if name.startswith(prefix)}
    wrong = []
    for name, own in module.state_dict().items():
        found = tuple(weights[name].shape) if name in weights else 'nothing'
        if found != tuple(own.shape):
            wrong.append(f'{name}: {tuple(own.shape)} expected, {found} found')
    if wrong:
        text = '; '.join(wrong[:3])
        raise ValueError(f'{source} does not fit {type(module).__name__}: {len(wrong)} weights differ ({text}, …)')
    module.load_state_dict({name: weights[name] for name in module.state_dict()})


def is_pretrained(init_cfg: dict | list | None) -> bool:
    """Tell whether ``init_cfg`` names a file."""
    return isinstance(init_cfg, dict) and init_cfg.get('type') == 'Pretrained'


def grid_of(num_patches: int, image_size: tuple[int, int]) -> tuple[int, int]:
    """Return the grid ``(h, w)`` of ``num_patches`` that has the shape of the image ``(H, W)``.

    Raises:
        ValueError: There is none.
    """
    height = round((num_patches * image_size[0] / image_size[1]) ** 0.5)
    width = num_patches // max(height, 1)
    if not num_patches or height * width != num_patches or height * image_size[1] != width * image_size[0]:
        raise ValueError(f'{num_patches} patches do not make a grid of the shape of an image of {image_size}')
    return height, width


@MODELS.register_module()
class FrozenFeatureTarget(BaseModule):
    """Features of a frozen network, ViT or CNN; ``(B, 3, H, W)`` to ``(B, 1 + N, C)``.

    Args:
        backbone: Of mmpretrain, also ``TIMMBackbone``. Its last output is taken: tokens ``(B, extra + N', C)``
            (mmpretrain: ``out_type='raw'``) or a map ``(B, C, h', w')``.
        grid_size: Grid ``(h, w)`` of the student; the features are resized to it. None: as they come.
        init_cfg: ``dict(type='Pretrained', checkpoint=…)``: all weights of the backbone must be in it, with or
            without ``backbone.`` before their names.

    The CLS token is the network's own if it has one, else the mean of the patches.
    """

    def __init__(self, backbone: dict, grid_size: tuple[int, int] | None = None, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg=init_cfg)
        self.backbone = MODELS.build(backbone) if isinstance(backbone, dict) else backbone
        self.grid_size = None if grid_size is None else tuple(grid_size)
        self.requires_grad_(False)

    def init_weights(self) -> None:
        """Read the file of ``init_cfg``, or initialize the backbone as its own config says."""
        if not is_pretrained(self.init_cfg):
            return super().init_weights()
        source = self.init_cfg['checkpoint']
        return load_all(self.backbone, read_weights(source), self.init_cfg.get('prefix', 'backbone.'), source)

    def train(self, mode: bool = True) -> FrozenFeatureTarget:
        """Stay in evaluation mode."""
        return super().train(False)

    @property
    def num_extra_tokens(self) -> int:
        """Tokens of the backbone that are no patches."""
        model = getattr(self.backbone, 'timm_model', self.backbone)
        return getattr(model, 'num_extra_tokens', getattr(model, 'num_prefix_tokens', 0))

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Return ``(B, 1 + N, C)`` of images ``(B, 3, H, W)``."""
        out = self.backbone(x)
        out = out[-1] if isinstance(out, (list, tuple)) else out
        cls_token = None
        if out.dim() == 3:
            extra = self.num_extra_tokens
            cls_token, out = (out[:, :1] if extra else None), out[:, extra:]
            out = out.transpose(1, 2).unflatten(2, grid_of(out.size(1), tuple(x.shape[-2:])))
        if out.dim() != 4:
            name = type(self.backbone).__name__
            raise ValueError(f'{name} gives {tuple(out.shape)}: neither tokens (set out_type="raw") nor a feature map')
        if self.grid_size not in (None, tuple(out.shape[-2:])):
            out = F.interpolate(out.float(), self.grid_size, mode='bilinear', antialias=True, align_corners=False)
        patches = out.flatten(2).transpose(1, 2)
        cls_token = patches.mean(dim=1, keepdim=True) if cls_token is None else cls_token
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
        init_cfg: ``dict(type='Pretrained', checkpoint=…)``: OpenAI's file, or any state dict with its names.

    Raises:
        ValueError: ``arch`` is unknown, its patches do not divide ``resolution``, or the file is for another one.
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
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        if isinstance(arch, str) and arch not in self.archs:
            raise ValueError(f'arch={arch!r}; one of {sorted(self.archs)}, or a dict')
        self.arch = arch
        sizes = self.archs[arch] if isinstance(arch, str) else arch
        self.resolution = tuple(to_2tuple(sizes['input_resolution'] if resolution is None else resolution))
        if any(side % sizes['patch_size'] for side in self.resolution):
            raise ValueError(f'patches of {sizes["patch_size"]} pixels do not divide resolution={self.resolution}')
        self.tower = CLIPTower(**sizes)
        self.requires_grad_(False)

    def init_weights(self) -> None:
        """Read the file of ``init_cfg``."""
        if is_pretrained(self.init_cfg):
            source = self.init_cfg['checkpoint']
            load_all(self.tower, read_weights(source), 'visual.', f'{source}, read as CLIP {self.arch},')

    def train(self, mode: bool = True) -> CLIPVisionTarget:
        """Stay in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Return ``(B, 1 + N, C)`` of images ``(B, 3, H, W)``, normalized with CLIP's mean and deviation."""
        if tuple(x.shape[-2:]) != self.resolution:
            raise ValueError(f'images of {tuple(x.shape[-2:])} pixels for a target with resolution={self.resolution}')
        return self.tower(x)
