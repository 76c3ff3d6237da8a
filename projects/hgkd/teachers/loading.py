"""The network of a teacher: built, filled without leaving holes, and known again by its weights.

Not in the paper (arXiv 2309.09571): all of it.
"""

from __future__ import annotations

import copy
import hashlib

import torch
from mmengine.logging import print_log
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from ..weights import read_checkpoint


def build_teacher(teacher: dict | nn.Module, checkpoint: str | None = None) -> nn.Module:
    """Return a network with its weights, on the CPU.

    Args:
        teacher: Config of a network in ``MODELS``, or the network itself.
        checkpoint: File with all its weights; see ``GenerativeDistillHook`` for when it is not needed.

    Raises:
        ValueError: Nothing says where the weights come from, or the checkpoint does not fill the network.
    """
    prefix = None
    if not isinstance(teacher, nn.Module):
        cfg = copy.deepcopy(teacher)  # building writes into a config
        init_cfg = cfg.get('init_cfg') or {}
        if checkpoint is None and isinstance(init_cfg, dict) and init_cfg.get('type') == 'Pretrained':
            # Not by `init_weights`: that of MAEViT draws new patch and position embeddings after loading.
            checkpoint, prefix = init_cfg['checkpoint'], init_cfg.get('prefix')
            prefix = f'{prefix}.' if prefix and not prefix.endswith('.') else prefix
        if checkpoint is None and cfg['type'].rpartition('.')[2] != 'CLIPGenerator':
            raise ValueError(
                f'the teacher {cfg["type"]} would have random weights: give `checkpoint`, or an init_cfg of type '
                'Pretrained'
            )
        teacher = MODELS.build(cfg)
    if checkpoint is not None:
        load_strictly(teacher, read_checkpoint(checkpoint)['state_dict'], checkpoint, prefix)
    return teacher


def load_strictly(module: nn.Module, weights: dict[str, Tensor], source: str, prefix: str | None = None) -> None:
    """Fill every parameter and buffer of a module; weights that it has no place for are named in the log.

    Args:
        module: To fill.
        weights: By name.
        source: Where they come from, for messages.
        prefix: Only weights that start with it, which is cut off. None: ``'backbone.'`` or ``'module.'`` if the names
            of the module are found only behind it, else ``''``.

    Raises:
        ValueError: A weight is missing or has another shape.
    """
    expected = module.state_dict()
    if prefix is None:
        prefix = max(
            ('', 'backbone.', 'module.', 'module.backbone.'), key=lambda p: sum(p + key in weights for key in expected)
        )
    found = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
    missing = [key for key in expected if key not in found]
    # The position embedding of mmpretrain's ViTs is resized while it is loaded.
    wrong = [
        f'{key} {tuple(found[key].shape)} instead of {tuple(value.shape)}'
        for key, value in expected.items()
        if key in found
        and found[key].shape != value.shape
        and not key.endswith(('pos_embed', 'relative_position_index', 'bias_table'))
    ]
    if missing or wrong:
        raise ValueError(
            f'{source} does not fill a {type(module).__name__} (names taken behind the prefix {prefix!r}): '
            f'{len(missing)} weights are missing, as {missing[:5]}; {len(wrong)} have another shape, as {wrong[:3]}'
        )
    unused = [key for key in weights if key.removeprefix(prefix) not in expected or not key.startswith(prefix)]
    if unused:
        print_log(f'{source}: {len(unused)} weights are not used, as {unused[:5]}', logger='current')
    module.load_state_dict({key: found[key] for key in expected}, strict=True)


def fingerprint(teacher: nn.Module) -> str:
    """Return the sha256 of all weights and buffers of a network, with their names and dtypes, in hexadecimal."""
    digest = hashlib.sha256()
    for name, value in sorted(teacher.state_dict().items()):
        value = value.detach().cpu().contiguous()
        digest.update(f'{name} {value.dtype} {tuple(value.shape)}'.encode())
        digest.update(value.flatten().view(torch.uint8).numpy().tobytes())  # numpy has no bfloat16
    return digest.hexdigest()
