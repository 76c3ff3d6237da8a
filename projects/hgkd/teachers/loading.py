"""The network of a teacher: built, filled without leaving holes, and known again by its weights.

Not in the paper (arXiv 2309.09571): all of it.
"""

from __future__ import annotations

import copy
import hashlib

import torch
from mmpretrain.registry import MODELS
from torch import nn

from ...utils.encoders import is_pretrained, is_published
from ...utils.weights import load_strictly, read_weights
from .naming import to_mmpretrain

WEIGHTS = ('pretrained', 'weights', 'checkpoint_path')  # arguments of timm and torchvision
SOURCES = (*WEIGHTS, 'init_cfg', 'pretrained_model_name_or_path')  # where weights come from, not what they are for
READING = ('.from_pretrained', 'CLIPGenerator')  # types that read weights whatever their arguments
# What mmpretrain's ViTs resize while they load it.
RESIZED = ('pos_embed', 'relative_position_index', 'bias_table')


def build_teacher(teacher: dict | nn.Module, checkpoint: str | None = None) -> nn.Module:
    """Return a network with its weights, on the CPU.

    Args:
        teacher: Config of a network in mmpretrain's ``MODELS``, in another host's as ``mmdet.ResNet``, or of anything
            that can be imported and returns a network: ``timm.create_model``, ``torchvision.models.swin_t``,
            ``transformers.Dinov2Model.from_pretrained``; or the network itself.
        checkpoint: File with all its weights; see ``GenerativeDistillHook`` for when it is not needed.

    Raises:
        ValueError: Nothing says where the weights come from, or the checkpoint does not fill the network.
    """
    prefix = None
    if not isinstance(teacher, nn.Module):
        cfg = {'_scope_': 'mmpretrain', **copy.deepcopy(teacher)}  # building writes into a config
        init_cfg = cfg.get('init_cfg')
        if checkpoint is None and is_pretrained(init_cfg):
            # Not by `init_weights`: that of MAEViT draws new patch and position embeddings after loading.
            checkpoint, prefix = init_cfg['checkpoint'], init_cfg.get('prefix')
            prefix = f'{prefix}.' if prefix and not prefix.endswith('.') else prefix
        teacher = MODELS.build(cfg)
        if checkpoint is None and not brings_weights(cfg, teacher):
            raise ValueError(
                f'the teacher {cfg["type"]} would have random weights: give `checkpoint`, an init_cfg of type '
                'Pretrained, or what its library has for it, as `pretrained=True` or `weights`'
            )
    if checkpoint is not None:
        weights = read_weights(checkpoint)
        if type(teacher).__module__.startswith('mmpretrain.'):
            weights = to_mmpretrain(weights)
        load_strictly(teacher, weights, str(checkpoint), prefix, RESIZED)
    return teacher


def brings_weights(cfg: dict, network: nn.Module) -> bool:
    """Tell whether a network came with weights of its own.

    Args:
        cfg: That it was built from.
        network: Of mmengine's classes, which say so; of others the config is asked.
    """
    if is_published(network):
        return True
    return any(cfg.get(key) for key in WEIGHTS) or str(cfg['type']).endswith(READING)


def without_sources(teacher: dict | str | None) -> dict | str | None:
    """Return the config of a teacher without what only says where its weights come from; a name as it is."""
    return {k: v for k, v in teacher.items() if k not in SOURCES} if isinstance(teacher, dict) else teacher


def fingerprint(teacher: nn.Module) -> str:
    """Return the sha256 of all weights and buffers of a network, with their names and dtypes, in hexadecimal."""
    digest = hashlib.sha256()
    for name, value in sorted(teacher.state_dict().items()):
        value = value.detach().cpu().contiguous()
        digest.update(f'{name} {value.dtype} {tuple(value.shape)}'.encode())
        digest.update(value.flatten().view(torch.uint8).numpy().tobytes())  # numpy has no bfloat16
    return digest.hexdigest()
