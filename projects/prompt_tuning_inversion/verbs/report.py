"""What a verb says about its edits: the pictures and report of each, a line for the terminal, means over all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import fmean

from mmplugins.utils.atomic import replacing, write_text

from ..evaluation.gallery import COVERED, EDIT, nearness, pictures_of, save_strip
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
        made: What the report says about how they were made, :func:`identify` first.

    Returns:
        The whole report.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures = pictures_of(sample)
    path = folder / 'report.json'
    path.unlink(missing_ok=True)  # last to be written: with it the folder is whole
    for old in folder.glob(f'{EDIT}*.png'):  # of an earlier run, with other strengths
        if old.stem not in pictures:
            old.unlink()
    for name, (_, picture) in pictures.items():
        with replacing(folder / f'{name}.png') as temporary:
            picture.save(temporary)
    save_strip(sample, folder / 'compare.png')
    report = dict(**made, metrics=nearness(sample), versions=versions())
    write_text(path, json.dumps(report, indent=1) + '\n')
    return report


def identify(pair: Mapping, settings: dict, etas: Sequence[float]) -> dict:
    """What the pictures of an image follow from; a report begins with it.

    Args:
        pair: Of :func:`~mmplugins.prompt_tuning_inversion.pairs.lists.read_pairs`.
        settings: Of the editor and of how images are read.
        etas: Strengths.
    """
    path, mask = Path(pair['img_path']), pair.get('mask')
    if not path.is_file():
        raise FileNotFoundError(f'no image {path}')
    return dict(
        image=str(path),
        image_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        mask_sha256=None if mask is None else hashlib.sha256(json.dumps(mask).encode()).hexdigest(),
        prompt=pair['prompt'],
        source_prompt=pair['source_prompt'],
        etas=list(etas),
        settings=settings,
    )


def kept_report(folder: Path, identity: dict) -> dict | None:
    """The report of an earlier run in a folder, if it is of the same image and settings and its pictures are there."""
    try:
        report = json.loads((folder / 'report.json').read_text(encoding='utf-8'))
        same = all(report[key] == value for key, value in identity.items())
        names = ['compare', 'source', *report['metrics']]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return report if same and all((folder / f'{name}.png').is_file() for name in names) else None


def summary_line(report: dict) -> str:
    """What is printed about an edit."""
    near = report['metrics']
    if near['recon']['psnr'] is None:
        return COVERED
    text = f'reconstruction {near["recon"]["psnr"]:.1f} dB (autoencoder alone {near["vae"]["psnr"]:.1f}'
    if 'prompt_alone' in near:
        text += f', the prompt alone {near["prompt_alone"]["psnr"]:.1f}'
    source = 'from the cache' if report['from_cache'] else f'{report["updates"]} updates'
    return f'{text}), {source}, {sum(report["seconds"].values()):.0f} s'


def summarize(rows: Sequence[dict]) -> dict:
    """Means over images of each metric of each picture, and a row an image: its id, and what failed.

    Values that are not there, as where a mask covers all, are left out of the mean.
    """
    reports = [row for row in rows if 'error' not in row]
    values: dict[str, dict[str, list[float]]] = {}
    for report in reports:
        for picture, found in report['metrics'].items():
            for key, value in found.items():
                if value is not None:
                    values.setdefault(picture, {}).setdefault(key, []).append(value)
    return dict(
        images=len(reports),
        failed=len(rows) - len(reports),
        mean={picture: {key: round(fmean(all_), 4) for key, all_ in each.items()} for picture, each in values.items()},
        samples=[{key: row[key] for key in ('sample_id', 'error') if key in row} for row in rows],
    )
