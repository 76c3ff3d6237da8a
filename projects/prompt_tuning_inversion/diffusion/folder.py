"""What a diffusers folder holds, and whether this plugin can use it."""

from __future__ import annotations

import json
from pathlib import Path

TINY = Path(__file__).parents[1] / 'tiny'
PARTS = ('tokenizer', 'text_encoder', 'vae', 'unet', 'scheduler')
SUPPORTED = 'Stable Diffusion 1.x and 2.x folders are supported'

_SD = dict(
    sample_size=64,
    block_out_channels=(320, 640, 1280, 1280),
    layers_per_block=2,
    down_block_types=('CrossAttnDownBlock2D',) * 3 + ('DownBlock2D',),
    up_block_types=('UpBlock2D',) + ('CrossAttnUpBlock2D',) * 3,
)
# The UNets of the two families; heads and projections are those of the published configs.
SKELETONS = {
    'sd1': dict(**_SD, cross_attention_dim=768, attention_head_dim=8),
    'sd2': dict(**_SD, cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20), use_linear_projection=True),
}


def resolve(pretrained: str | Path) -> Path:
    """The folder that a name means; ``'tiny'`` is the one in this package."""
    return TINY if str(pretrained) == 'tiny' else Path(pretrained).expanduser()


def check_folder(folder: Path, arch: str | None = None) -> dict:
    """Look at a folder's configs.

    Returns:
        The config of its scheduler.

    Raises:
        FileNotFoundError: The folder, a part of it or a config is missing.
        ValueError: It is of a kind that this plugin cannot use, or not of ``arch``.
    """
    if not folder.is_dir():
        hint = ' (a folder is wanted, not a single checkpoint file)' if folder.is_file() else ''
        raise FileNotFoundError(f'no diffusers folder {folder}{hint}')
    index = _read(folder / 'model_index.json')
    kind = index.get('_class_name', '?')
    if 'text_encoder_2' in index or 'XL' in kind:
        raise ValueError(f'{folder} is an SDXL folder ({kind}): its two text encoders are not supported; {SUPPORTED}')
    if 'transformer' in index or 'StableDiffusion' not in kind:
        raise ValueError(f'{folder} is a folder of {kind}; {SUPPORTED}')
    for part in PARTS:
        if not (folder / part).is_dir():
            raise FileNotFoundError(f'{folder} has no {part.replace("_", " ")}: the folder {part}/ is missing')
    unet, vae = _read(folder / 'unet/config.json'), _read(folder / 'vae/config.json')
    channels = unet.get('in_channels', 4), vae.get('latent_channels', 4)
    if channels[0] != channels[1]:
        raise ValueError(
            f'the UNet of {folder} takes {channels[0]} channels, its latents have {channels[1]} (an inpainting or '
            f'depth model?); {SUPPORTED}'
        )
    if unet.get('addition_embed_type') or unet.get('class_embed_type'):
        raise ValueError(f'the UNet of {folder} needs more inputs than a prompt; {SUPPORTED}')
    width = unet.get('cross_attention_dim')
    wanted = width if arch is None else SKELETONS[arch]['cross_attention_dim']
    if width != wanted:
        raise ValueError(f'{folder} is not of arch {arch!r}: its embeddings are {width} wide, not {wanted}')
    scheduler = _read(folder / 'scheduler/scheduler_config.json')
    return scheduler


def _read(path: Path) -> dict:
    """A JSON file of a folder."""
    try:
        return json.loads(path.read_text(encoding='utf-8'))
    except FileNotFoundError:
        raise FileNotFoundError(f'{path} is missing: is {path.parent} part of a diffusers folder?') from None
    except json.JSONDecodeError as error:
        raise ValueError(f'{path} is not JSON: {error}') from None
