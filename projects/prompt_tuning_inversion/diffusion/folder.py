"""What a diffusers folder or pipeline holds, and whether this plugin can use it."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

TINY = Path(__file__).parents[1] / 'tiny'
PARTS = ('tokenizer', 'text_encoder', 'vae', 'unet', 'scheduler')
SECOND = ('tokenizer_2', 'text_encoder_2')  # of SDXL
SUPPORTED = 'Stable Diffusion 1.x, 2.x and SDXL are supported'

_SD = dict(
    sample_size=64,
    block_out_channels=(320, 640, 1280, 1280),
    layers_per_block=2,
    down_block_types=('CrossAttnDownBlock2D',) * 3 + ('DownBlock2D',),
    up_block_types=('UpBlock2D',) + ('CrossAttnUpBlock2D',) * 3,
)
# The UNets of the families; heads and projections are those of the published configs.
SKELETONS = {
    'sd1': dict(**_SD, cross_attention_dim=768, attention_head_dim=8),
    'sd2': dict(**_SD, cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20), use_linear_projection=True),
    'sdxl': dict(
        sample_size=128,
        block_out_channels=(320, 640, 1280),
        layers_per_block=2,
        down_block_types=('DownBlock2D',) + ('CrossAttnDownBlock2D',) * 2,
        up_block_types=('CrossAttnUpBlock2D',) * 2 + ('UpBlock2D',),
        cross_attention_dim=2048,
        attention_head_dim=(5, 10, 20),
        transformer_layers_per_block=(1, 2, 10),
        use_linear_projection=True,
        addition_embed_type='text_time',
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    ),
}
# Inputs of a UNet that this plugin does not give, by the key of its config.
OTHER_INPUTS = {
    'class_embed_type': 'a class or an image embedding',
    'num_class_embeds': 'a class or a level of noise',
    'encoder_hid_dim_type': 'the embedding of an image (IP-Adapter, Kandinsky)',
    'time_cond_proj_dim': 'the guidance as a number, as it is distilled to few steps (LCM)',
}


def resolve(pretrained: str | Path) -> Path:
    """The folder or file that a name means; ``'tiny'`` is the folder in this package."""
    return TINY if str(pretrained) == 'tiny' else Path(pretrained).expanduser()


def check_folder(folder: Path, arch: str | None = None) -> bool:
    """Look at a folder's configs.

    Returns:
        Whether it holds SDXL.

    Raises:
        FileNotFoundError: The folder, a part of it or a config is missing.
        ValueError: It is of a kind that this plugin cannot use, or not of ``arch``.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f'no diffusers folder {folder}')
    index = _read(folder / 'model_index.json')
    parts = [name for name, value in index.items() if isinstance(value, list) and value[0] is not None]
    kind = index.get('_class_name', '?')
    check_parts(str(folder), kind, parts)
    for part in needed(parts):
        if part not in parts or not (folder / part).is_dir():
            raise FileNotFoundError(f'{folder} has no {part.replace("_", " ")}: the folder {part}/ is missing')
    check_configs(str(folder), _read(folder / 'unet/config.json'), _read(folder / 'vae/config.json'), parts, arch)
    return 'text_encoder_2' in parts


def check_pipeline(pipeline: DiffusionPipeline, arch: str | None = None) -> None:
    """Look at a pipeline, as :func:`check_folder` does at a folder.

    Raises:
        ValueError: It is of a kind that this plugin cannot use, or not of ``arch``.
    """
    kind = type(pipeline).__name__
    parts = [name for name, part in pipeline.components.items() if part is not None]
    check_parts(f'the {kind}', kind, parts)
    lacking = [part for part in needed(parts) if part not in parts]
    if lacking:
        raise ValueError(f'the {kind} has no {lacking[0].replace("_", " ")}')
    if any(hasattr(part, '_hf_hook') for part in pipeline.components.values()):
        raise ValueError(f'the {kind} moves its parts by itself (offload): make it without, and take low_mem here')
    check_configs(f'the {kind}', pipeline.unet.config, pipeline.vae.config, parts, arch)


def needed(parts: Collection[str]) -> tuple[str, ...]:
    """The parts that a model must have, which has ``parts``."""
    return PARTS + SECOND if 'text_encoder_2' in parts else PARTS


def check_parts(name: str, kind: str, parts: Collection[str]) -> None:
    """Refuse other kinds of pipelines.

    Args:
        name: As messages name the model.
        kind: Class of the pipeline.
        parts: Names of what is in it.
    """
    if 'transformer' in parts or 'StableDiffusion' not in kind:
        raise ValueError(f'{name} is of the kind {kind}; {SUPPORTED}')
    if 'controlnet' in parts:
        raise ValueError(f'{name} has a ControlNet, which wants an image of its own; {SUPPORTED}, without it')
    if 'text_encoder_2' in parts and 'text_encoder' not in parts:
        raise ValueError(f'{name} is the refiner of SDXL: take the base model')


def check_configs(name: str, unet: Mapping, vae: Mapping, parts: Collection[str], arch: str | None) -> None:
    """Refuse a UNet that takes more than latents and a prompt, or is not of ``arch``."""
    channels = unet.get('in_channels', 4), vae.get('latent_channels', 4)
    if channels[0] != channels[1]:
        raise ValueError(
            f'the UNet of {name} takes {channels[0]} channels, its latents have {channels[1]} (an inpainting or '
            f'depth model?); {SUPPORTED}'
        )
    for key, what in OTHER_INPUTS.items():
        if unet.get(key):
            raise ValueError(f'the UNet of {name} wants {what}; {SUPPORTED}')
    expected = 'text_time' if 'text_encoder_2' in parts else None
    if unet.get('addition_embed_type') != expected:
        raise ValueError(f'the UNet of {name} and its text encoders are not of one family; {SUPPORTED}')
    width = unet.get('cross_attention_dim')
    wanted = width if arch is None else SKELETONS[arch]['cross_attention_dim']
    if width != wanted:
        raise ValueError(f'{name} is not of arch {arch!r}: its embeddings are {width} wide, not {wanted}')


def variant_of(folder: Path) -> str | None:
    """The word in the names of the weights, as in ``*.fp16.safetensors``, if a part has no weights without one."""
    for part in ('unet', 'vae', 'text_encoder', 'text_encoder_2'):
        names = [path.name for path in (folder / part).glob('*') if path.suffix in ('.safetensors', '.bin')]
        words = {'.'.join(re.sub(r'-\d+-of-\d+', '', name).split('.')[1:-1]) for name in names}
        if words and '' not in words:
            return min(words)
    return None


def _read(path: Path) -> dict:
    """A JSON file of a folder."""
    try:
        return json.loads(path.read_text(encoding='utf-8'))
    except FileNotFoundError:
        raise FileNotFoundError(f'{path} is missing: is {path.parent} part of a diffusers folder?') from None
    except json.JSONDecodeError as error:
        raise ValueError(f'{path} is not JSON: {error}') from None
