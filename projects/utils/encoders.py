"""Image networks of mmpretrain, timm and transformers as teachers: what they give, read as one thing.

Not in any paper: a teacher is frozen, comes from wherever its authors published it, and its last features are wanted
as class token and patches. A reading that is wrong in silence (channels last, register tokens among the patches) costs
a whole training, so what is not known is an error.

Shapes: ``B`` images, ``C`` channels, ``E`` tokens in front of the patches (class token, registers), ``(h, w)`` the
grid.
"""

from __future__ import annotations

import inspect
from typing import NamedTuple

from mmengine.model import BaseModule
from mmpretrain.registry import MODELS
from torch import Tensor, nn

# Names in transformers, and torchvision's.
EXTRA_TOKENS = ('cls_token', 'class_embedding', 'distillation_token', 'register_tokens', 'class_token')


class Features(NamedTuple):
    """Last features of a network: ``extra`` ``(B, E, C)``, the class token first, and ``patches`` ``(B, C, h, w)``."""

    extra: Tensor
    patches: Tensor


def features_of(network: nn.Module, images: Tensor) -> Features:
    """Run a network and read its last output.

    Args:
        network: Gives, maybe as the last of several, tokens ``(B, E + h w, C)``, whose ``E`` it says as
            ``num_extra_tokens`` (mmpretrain) or ``num_prefix_tokens`` (timm), or a map ``(B, C, h, w)``; a map
            ``(B, h, w, C)`` if it says ``output_fmt='NHWC'`` (timm's Swin). ``TIMMBackbone`` is looked into.
        images: ``(B, 3, H, W)``.

    Raises:
        ValueError: The output is neither, or has not the shape of the images.
    """
    out = network(images)
    out = out[-1] if isinstance(out, (list, tuple)) else out
    owner, name = getattr(network, 'timm_model', network), type(network).__name__
    if out.dim() == 3:
        count = getattr(owner, 'num_extra_tokens', getattr(owner, 'num_prefix_tokens', 0))
        extra, patches = out[:, :count], out[:, count:]
        grid = grid_of(patches.size(1), tuple(images.shape[-2:]))
        return Features(extra, patches.transpose(1, 2).unflatten(2, grid))
    if out.dim() != 4:
        raise ValueError(f'{name} gives {tuple(out.shape)}: neither tokens (set out_type="raw") nor a feature map')
    if getattr(owner, 'output_fmt', 'NCHW') == 'NHWC':
        out = out.permute(0, 3, 1, 2)
    (height, width), (rows, columns) = images.shape[-2:], out.shape[-2:]
    if abs(rows * width / height - columns) > 1:
        raise ValueError(
            f'{name} makes {tuple(out.shape)} of images of {height} x {width} pixels: if its channels are last, say '
            f"so with an attribute output_fmt='NHWC'"
        )
    return Features(out.flatten(2).transpose(1, 2)[:, :0], out)


def count_extra_tokens(network: nn.Module) -> int | None:
    """Return how many tokens a network says to have in front of its patches; None if it says nothing.

    Args:
        network: Of mmpretrain or timm, which say a number, or of transformers or torchvision, by names of parameters.
    """
    owner = getattr(network, 'timm_model', network)
    for attribute in ('num_extra_tokens', 'num_prefix_tokens'):
        if hasattr(owner, attribute):
            return getattr(owner, attribute)
    tokens = [value for name, value in owner.named_parameters() if name.rpartition('.')[2] in EXTRA_TOKENS]
    if tokens or hasattr(owner, 'config'):  # transformers' networks have one
        return sum(value.shape[1] if value.dim() == 3 else 1 for value in tokens)
    return None


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
class HuggingFaceBackbone(BaseModule):
    """Image tower of a model of transformers: ``(B, 3, H, W)`` to a tuple of one tensor ``(B, E + h w, C)``.

    Tokens after the last normalization; of CLIP also after the projection, as CAE v2 wants them. Images of any size
    that the model takes. For CLIP, SigLIP, DINOv2 and DINOv3, ViT, BEiT and the like.

    Args:
        source: Name on the hub, or folder with ``config.json`` and weights.
        pretrained: False: only the config is read, the weights are random.
        init_cfg: Not needed.

    Raises:
        ImportError: There is no transformers.
        ValueError: Weights are missing in the source.
    """

    def __init__(self, source: str, pretrained: bool = True, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg=init_cfg)
        try:
            import transformers
        except ImportError as error:
            raise ImportError('HuggingFaceBackbone needs `pip install transformers`') from error
        config = transformers.AutoConfig.from_pretrained(source)
        kind = {
            'clip': transformers.CLIPVisionModelWithProjection,
            'clip_vision_model': transformers.CLIPVisionModelWithProjection,
            'siglip': transformers.SiglipVisionModel,
            'siglip_vision_model': transformers.SiglipVisionModel,
        }.get(config.model_type) or transformers.AutoModel._model_mapping[type(config)]
        # The pooler of ViT and BEiT is in few of the published files.
        own = {'add_pooling_layer': False} if 'add_pooling_layer' in inspect.signature(kind).parameters else {}
        if pretrained:
            self.model, found = kind.from_pretrained(source, output_loading_info=True, **own)
            if found['missing_keys'] or found['mismatched_keys']:
                missing = sorted(map(str, [*found['missing_keys'], *found['mismatched_keys']]))
                raise ValueError(f'{source} lacks {len(missing)} weights of {kind.__name__}, as {missing[:3]}')
        else:
            self.model = kind(getattr(config, 'vision_config', config), **own)
        self._is_init = pretrained  # or mmengine would initialize it anew
        self.num_extra_tokens = count_extra_tokens(self.model)

    def init_weights(self) -> None:
        """Do nothing: transformers has initialized the model, or read it."""

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """Return ``((B, E + h w, C),)`` of images ``(B, 3, H, W)``."""
        own = {}
        size = getattr(self.model.config, 'image_size', None)
        size = (size, size) if isinstance(size, int) else size
        if 'interpolate_pos_encoding' in inspect.signature(self.model.forward).parameters:
            own['interpolate_pos_encoding'] = tuple(images.shape[-2:]) != tuple(size or ())
        if hasattr(self.model, 'visual_projection'):
            tower = self.model.vision_model
            tokens = tower(images, **own).last_hidden_state
            return (self.model.visual_projection(tower.post_layernorm(tokens)),)
        return (self.model(images, **own).last_hidden_state,)


def is_published(network: nn.Module) -> bool:
    """Tell whether the weights of a network that was just built can be had again from where it took them.

    Such weights need not be in the checkpoints of what is trained beside it.
    """
    return network.is_init or is_pretrained(network.init_cfg) if isinstance(network, BaseModule) else False


def is_pretrained(init_cfg: dict | list | None) -> bool:
    """Tell whether ``init_cfg`` is one entry, and names a file."""
    return isinstance(init_cfg, dict) and pretrained_of(init_cfg) is not None


def pretrained_of(init_cfg: dict | list | None) -> dict | None:
    """Return the entry of ``init_cfg``, one or a list of them, that names a file; None if there is none."""
    entries = [init_cfg] if isinstance(init_cfg, dict) else init_cfg or ()
    return next((entry for entry in entries if entry.get('type') == 'Pretrained'), None)
