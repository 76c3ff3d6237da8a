"""What a verb says about its edits: the pictures and report of each, a line for the terminal, means over all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mmplugins.utils.atomic import replacing, write_text

from ..evaluation.gallery import nearness, pictures_of, save_strip
from ..pairs.sample import EditDataSample

PACKAGES = ('torch', 'diffusers', 'transformers', 'safetensors', 'mmengine', 'onedl-mmengine', 'mmplugins')


def versions() -> dict[str, str]:
    """Versions of the packages that an edit depends on."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def save_sample(sample: EditDataSample, folder: Path, made: dict) -> dict:
    """Write pictures, strip and ``report.json`` of a sample.

    Args:
        sample: With its pictures.
        folder: To write to.
        made: What the report says about how they were made.

    Returns:
        The whole report.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, (_, picture) in pictures_of(sample).items():
        with replacing(folder / f'{name}.png') as temporary:
            picture.save(temporary)
    save_strip(sample, folder / 'compare.png')
    path = Path(sample.img_path)
    report = dict(
        image=str(path),
        image_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        prompt=sample.prompt,
        source_prompt=sample.source_prompt,
        etas=list(sample.etas),
        metrics=nearness(sample),
        **made,
        versions=versions(),
    )
    write_text(folder / 'report.json', json.dumps(report, indent=1) + '\n')
    return report


def summary_line(report: dict) -> str:
    """What is printed about an edit."""
    near = report['metrics']
    text = f'reconstruction {near["recon"]["psnr"]:.1f} dB (autoencoder alone {near["vae"]["psnr"]:.1f}'
    if 'ddim' in near:
        text += f', the prompt without tuning {near["ddim"]["psnr"]:.1f}'
    source = 'from the cache' if report['from_cache'] else f'{report["updates"]} updates'
    return f'{text}), {source}, {sum(report["seconds"].values()):.0f} s'


def summarize(reports: Sequence[dict], failed: Sequence[str]) -> dict:
    """Means over images of each metric of each picture, and what failed."""
    means: dict[str, dict[str, float]] = {}
    for picture in reports[0]['metrics'] if reports else ():
        values = [report['metrics'][picture] for report in reports]
        means[picture] = {key: round(sum(value[key] for value in values) / len(values), 4) for key in values[0]}
    return dict(images=len(reports), failed=list(failed), mean=means, samples=[one['sample_id'] for one in reports])
