"""The jobs behind the commands: invert, edit, write files."""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from mmplugins.utils.atomic import write_text

from .cache import InversionCache
from .editor import InversionEditor
from .gallery import save_sample, write_gallery
from .inversion import Inversion
from .pictures import fit, read_image, to_tensor
from .sample import EditDataSample


class Bars:
    """Progress bars on the error output, one a stage; the progress callback of the editors."""

    LABELS = {'invert': 'inversion', 'tune': 'tuning'}

    def __init__(self) -> None:
        self.bar: tqdm | None = None
        self.stage = ''

    def __call__(self, stage: str, done: int, total: int, loss: float) -> None:
        """Show ``done`` of ``total``."""
        if stage not in self.LABELS:
            return
        if stage != self.stage:
            self.close()
            self.stage, self.bar = stage, tqdm(total=total, desc=self.LABELS[stage], file=sys.stderr)
        if stage == 'tune':
            self.bar.set_postfix(loss=f'{loss:.2e}', refresh=False)
        self.bar.update(done - self.bar.n)
        if done == total:
            self.close()

    def close(self) -> None:
        """End the bar of a stage."""
        if self.bar is not None:
            self.bar.close()
        self.bar, self.stage = None, ''


def peak_mib(device: torch.device) -> float:
    """Most memory so far in MiB: of the GPU, else of the process."""
    if device.type == 'cuda':
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == 'darwin' else 2**10)


def load_pair(pair: dict, editor: InversionEditor, args: argparse.Namespace) -> tuple[torch.Tensor, EditDataSample]:
    """The image ``(3, H, W)`` of a pair, as the model takes it, and its data sample."""
    size = args.size or editor.parts.image_size
    image = fit(read_image(pair['img_path']), size, editor.parts.factor, args.resize)
    metainfo = {key: pair.get(key) for key in ('img_path', 'sample_id', 'edit_type')}
    prompts = dict(prompt=pair['prompt'], source_prompt=pair.get('source_prompt'))
    return to_tensor(image), EditDataSample(metainfo=metainfo, **prompts)


def invert(
    editor: InversionEditor, images: torch.Tensor, samples: Sequence[EditDataSample], args: argparse.Namespace
) -> tuple[Inversion, list[bool]]:
    """Inversion of images ``(B, 3, H, W)``, from the cache where it has them; and whether it had."""
    prompts = [sample.prompt for sample in samples]
    known = all(sample.get('source_prompt') is not None for sample in samples)
    sources = [sample.source_prompt for sample in samples] if known else None
    bars = Bars()
    try:
        if args.no_cache:
            return editor.invert(images, prompts, sources, bars), [False] * len(samples)
        return InversionCache(args.cache_dir).invert(editor, images, prompts, sources, bars)
    finally:
        bars.close()


def edit_batch(
    editor: InversionEditor,
    images: torch.Tensor,
    samples: Sequence[EditDataSample],
    args: argparse.Namespace,
    edits: bool = True,
) -> list[dict]:
    """Invert and edit images ``(B, 3, H, W)``; pictures go into the samples.

    Returns:
        For each image what its report says about how it was made.
    """
    if images.device != editor.parts.device:
        images = images.to(editor.parts.device)
    start = time.time()
    inversion, hits = invert(editor, images, samples, args)
    inverted = time.time()
    prompts = [sample.prompt for sample in samples]
    etas = editor.etas if edits else ()
    pictures = dict(source=images, vae=editor.parts.decode(inversion.source), recon=editor.reconstruct(inversion))
    if edits:
        pictures['ddim'] = editor.edit(inversion, prompts, 1.0)
    edited = [editor.edit(inversion, prompts, eta).cpu() for eta in etas]
    seconds = dict(invert=round(inverted - start, 2), edit=round(time.time() - inverted, 2))
    for number, sample in enumerate(samples):
        for name, picture in pictures.items():
            sample.set_field(picture[number].cpu(), name)
        sample.set_data(dict(etas=etas, edits=[edit[number] for edit in edited]))
    losses = inversion.losses.mean(0) if len(inversion.losses) else inversion.losses.new_zeros(2, len(samples))
    return [
        dict(
            settings={**inversion.settings, 'edit_guidance': editor.edit_guidance, 'resize': args.resize},
            size=list(images.shape[2:]),
            from_cache=hits[number],
            updates=0 if hits[number] else int(inversion.updates[number]),
            loss=dict(zip(('before', 'after'), losses[:, number].tolist(), strict=True)),
            batch=len(samples),
            seconds=seconds,
            peak_memory_mib=round(peak_mib(editor.parts.device)),
            device=str(editor.parts.device),
        )
        for number in range(len(samples))
    ]


def summary_line(report: dict) -> str:
    """What is printed about an edit."""
    near = report['metrics']
    text = f'reconstruction {near["recon"]["psnr"]:.1f} dB (autoencoder alone {near["vae"]["psnr"]:.1f}'
    if 'ddim' in near:
        text += f', the prompt without tuning {near["ddim"]["psnr"]:.1f}'
    source = 'from the cache' if report['from_cache'] else f'{report["updates"]} updates'
    return f'{text}), {source}, {sum(report["seconds"].values()):.0f} s'


def edit_many(editor: InversionEditor, pairs: Sequence[dict], args: argparse.Namespace) -> list[str]:
    """Edit all images of a list into a folder each, and write the page and the report of the run.

    Images that cannot be read are said and left out. Images of one size that follow each other are done together.

    Returns:
        What went wrong, a line an image.
    """
    out, failed, reports, batch = Path(args.out), [], [], []

    def flush() -> None:
        if not batch:
            return
        images, samples = zip(*batch, strict=True)
        for sample, made in zip(samples, edit_batch(editor, torch.stack(images), samples, args), strict=True):
            report = save_sample(sample, out / sample.sample_id, made)
            reports.append(dict(sample_id=sample.sample_id, **report))
            print(f'{len(reports)}/{len(pairs)} {sample.sample_id}: {summary_line(report)}')
        batch.clear()
        entries = [(f'{one["sample_id"]}/compare.png', one['prompt'], summary_line(one)) for one in reports]
        write_gallery(out / 'index.html', entries)

    for pair in pairs:
        try:
            item = load_pair(pair, editor, args)
        except (ValueError, OSError) as error:
            failed.append(f'{pair["sample_id"]}: {error}')
            print(failed[-1], file=sys.stderr)
            continue
        if batch and (len(batch) == args.batch_size or batch[0][0].shape != item[0].shape):
            flush()
        batch.append(item)
    flush()
    write_text(out / 'report.json', json.dumps(summarize(reports, failed), indent=1) + '\n')
    return failed


def summarize(reports: Sequence[dict], failed: Sequence[str]) -> dict:
    """Means over images of each metric of each picture, and what failed."""
    means: dict[str, dict[str, float]] = {}
    for picture in reports[0]['metrics'] if reports else ():
        values = [report['metrics'][picture] for report in reports]
        means[picture] = {key: round(sum(value[key] for value in values) / len(values), 4) for key in values[0]}
    return dict(images=len(reports), failed=list(failed), mean=means, samples=[one['sample_id'] for one in reports])
