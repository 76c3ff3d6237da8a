"""The part of a UNet that does not see the prompt, evaluated once for latents and a timestep that stay.

Ours, not in the paper: while the embedding of a step is tuned, both branches of guidance and all updates share the
embedding of the timestep and all that lies before the keys of the first cross-attention. In Stable Diffusion one of the
five self-attentions at full resolution is among it. ``B`` images, ``C`` channels, ``h, w`` a latent.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

from torch import Tensor, nn

from ..extras import require
from .forwards import Forward, replaced_forwards


def unprompted_modules(unet: nn.Module) -> list[nn.Module]:
    """Modules of a ``UNet2DConditionModel`` whose outputs depend on latents and timestep alone.

    SDXL adds the prompt to the embedding of the timestep, so there it is little.
    """
    if unet.config.addition_embed_type:
        first = unet.down_blocks[0].resnets[0]
        return [unet.time_embedding, unet.conv_in, first.norm1, first.conv1]
    resnet_type = require('diffusers.models.resnet').ResnetBlock2D
    timed = [module.time_emb_proj for module in unet.modules() if isinstance(module, resnet_type)]
    first = unet.down_blocks[0]
    found = [unet.time_embedding, *timed, unet.conv_in, first.resnets[0]]
    if hasattr(first, 'attentions'):
        transformer = first.attentions[0]
        block = transformer.transformer_blocks[0]
        # Of the first cross-attention the queries too.
        found += [transformer.norm, transformer.proj_in, block.norm1, block.attn1, block.norm2, block.attn2.to_q]
    return found


def evaluated_once(modules: list[nn.Module]) -> AbstractContextManager[None]:
    """Within the context each module is evaluated when it is first called and gives the same output ever after.

    The caller answers for inputs that stay and for weights without gradients.
    """
    return replaced_forwards(dict.fromkeys(modules, first_output))


def first_output(forward: Forward) -> Forward:
    """Wrap a function that returns ``(B, C, h, w)`` or any other tensor: calls after the first return its result."""
    found: list[Tensor] = []

    def wrapped(*args, **kwargs) -> Tensor:
        if not found:
            found.append(forward(*args, **kwargs))
        return found[0]

    return wrapped
