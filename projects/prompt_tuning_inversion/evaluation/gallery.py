"""Files that show edits: a strip of pictures for each, and a page with all of a run."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from torch import Tensor

from mmplugins.utils.atomic import replacing, write_text

from ..pairs.sample import EditDataSample
from ..pictures import as_saved, eta_text, strip, to_image
from .nearness import psnr, ssim

EDIT = 'edit_eta'  # names of the pictures of edits start so
COVERED = 'the mask covers the whole picture: nothing is compared'
STYLE = (
    'body{font:15px sans-serif;margin:2em;max-width:1200px}figure{margin:0 0 2em}img{max-width:100%;'
    'image-rendering:pixelated}figcaption{margin:.3em 0}small{color:#555}'
)


def nearness(sample: EditDataSample) -> dict[str, dict[str, float | None]]:
    """PSNR (dB) and SSIM to the image, outside the mask if there is one, of all other pictures of a sample."""
    mask = sample.get('mask')
    judged = dict(psnr=psnr, ssim=ssim)
    found = {
        name: {key: rounded(judge(as_saved(picture), sample.source, mask)) for key, judge in judged.items()}
        for name, (_, picture) in named_pictures(sample).items()
        if name != 'source'
    }
    # The autoencoder bounds what any method can reach; this one is not bounded by it.
    found['recon']['psnr_to_vae'] = rounded(psnr(sample.recon, sample.vae))
    return found


def rounded(value: float) -> float | None:
    """Four digits after the point; None for what is no number, which JSON does not know."""
    return None if math.isnan(value) else round(value, 4)


def named_pictures(sample: EditDataSample) -> dict[str, tuple[str, Tensor]]:
    """File name: label and picture ``(3, H, W)``, in the order of the strip."""
    found = {'source': ('image', sample.source), 'vae': ('autoencoder', sample.vae)}
    if 'prompt_alone' in sample:  # eta 1, whatever the method
        found['prompt_alone'] = ('prompt alone', sample.prompt_alone)
    found['recon'] = ('reconstruction', sample.recon)
    for eta, edit in zip(sample.etas, sample.edits, strict=True):
        found[f'{EDIT}{eta_text(eta)}'] = (f'eta {eta:g}', edit)
    return found


def pictures_of(sample: EditDataSample) -> dict[str, tuple[str, Image.Image]]:
    """File name: label and picture, in the order of the strip."""
    return {name: (label, to_image(picture)) for name, (label, picture) in named_pictures(sample).items()}


def save_strip(sample: EditDataSample, path: Path) -> None:
    """Write the labelled strip of a sample."""
    with replacing(path) as temporary:
        strip(list(pictures_of(sample).values())).save(temporary)


def write_gallery(path: Path, entries: Sequence[tuple[str, str, str]], title: str = 'Prompt Tuning Inversion') -> None:
    """Write a page that needs nothing but its pictures.

    Args:
        path: The HTML file.
        entries: Strip (from the folder of ``path``; empty where there is none), prompt and a note, for each edit.
        title: Of the page.
    """
    figures = ''.join(
        f'<figure><figcaption><b>{html.escape(prompt)}</b> <small>{html.escape(note)}</small></figcaption>'
        + (f'<img src="{html.escape(picture)}" alt="{html.escape(prompt)}" loading="lazy">' if picture else '')
        + '</figure>\n'
        for picture, prompt, note in entries
    )
    title = html.escape(title)
    write_text(
        path,
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>\n'
        f'<h1>{title}</h1>\n{figures}</html>\n',
    )
