"""Files that show edits: a strip of pictures for each, and a page with all of a run."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from mmplugins.utils.atomic import replacing, write_text

from ..pairs.sample import EditDataSample
from ..pictures import strip, to_image
from .metrics import psnr, ssim

STYLE = (
    'body{font:15px sans-serif;margin:2em;max-width:1200px}figure{margin:0 0 2em}img{max-width:100%;'
    'image-rendering:pixelated}figcaption{margin:.3em 0}small{color:#555}'
)


def nearness(sample: EditDataSample) -> dict[str, dict[str, float]]:
    """PSNR (dB) and SSIM to the image, of the decoded latents, the reconstruction and each edit."""
    pictures = dict(vae=sample.vae, recon=sample.recon)
    if 'ddim' in sample:
        pictures['ddim'] = sample.ddim
    pictures.update({f'edit_eta{eta:.2f}': edit for eta, edit in zip(sample.etas, sample.edits, strict=True)})
    mask = sample.get('mask')
    judged = dict(psnr=psnr, ssim=ssim)
    found = {
        name: {key: round(judge(picture, sample.source, mask), 4) for key, judge in judged.items()}
        for name, picture in pictures.items()
    }
    # The autoencoder bounds what any method can reach; this one is not bounded by it.
    found['recon']['psnr_to_vae'] = round(psnr(sample.recon, sample.vae), 4)
    return found


def pictures_of(sample: EditDataSample) -> dict[str, tuple[str, Image.Image]]:
    """File name: label and picture, in the order of the strip."""
    found = {'source': ('image', sample.source), 'vae': ('autoencoder', sample.vae)}
    if 'ddim' in sample:
        found['ddim'] = ('DDIM + guidance', sample.ddim)
    found['recon'] = ('reconstruction', sample.recon)
    for eta, edit in zip(sample.etas, sample.edits, strict=True):
        found[f'edit_eta{eta:.2f}'] = (f'eta {eta:g}', edit)
    return {name: (label, to_image(picture)) for name, (label, picture) in found.items()}


def save_strip(sample: EditDataSample, path: Path) -> None:
    """Write the labelled strip of a sample."""
    with replacing(path) as temporary:
        strip(list(pictures_of(sample).values())).save(temporary)


def write_gallery(path: Path, entries: Sequence[tuple[str, str, str]], title: str = 'Prompt Tuning Inversion') -> None:
    """Write a page that needs nothing but its pictures.

    Args:
        path: The HTML file.
        entries: Strip (from the folder of ``path``), prompt and a note, for each edit.
        title: Of the page.
    """
    figures = ''.join(
        f'<figure><figcaption><b>{html.escape(prompt)}</b> <small>{html.escape(note)}</small></figcaption>'
        f'<img src="{html.escape(picture)}" alt="{html.escape(prompt)}" loading="lazy"></figure>\n'
        for picture, prompt, note in entries
    )
    title = html.escape(title)
    write_text(
        path,
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>\n'
        f'<h1>{title}</h1>\n{figures}</html>\n',
    )
