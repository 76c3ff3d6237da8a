"""The jobs behind the verbs: read, invert, edit, write files."""

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

from ..cache import InversionCache
from ..editor import InversionEditor
from ..evaluation.gallery import write_gallery
from ..inversion import Inversion
from ..pairs.dataset import LoadEditImage
from ..pairs.sample import EditDataSample, prompts_of
from .report import save_sample, summarize, summary_line


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


def make_loader(editor: InversionEditor, args: argparse.Namespace) -> LoadEditImage:
    """What reads images as the model takes them."""
    return LoadEditImage(args.size or editor.parts.image_size, editor.parts.factor, args.resize)


def invert(
    editor: InversionEditor, images: torch.Tensor, samples: Sequence[EditDataSample], args: argparse.Namespace
) -> tuple[Inversion, list[bool]]:
    """Inversion of images ``(B, 3, H, W)``, from the cache where it has them; and whether it had."""
    bars = Bars()
    try:
        if args.no_cache:
            return editor.invert(images, *prompts_of(samples), bars), [False] * len(samples)
        return InversionCache(args.cache_dir).invert(editor, images, *prompts_of(samples), bars)
    finally:
        bars.close()


def edit_batch(
    editor: InversionEditor, items: Sequence[dict], args: argparse.Namespace, edits: bool = True
) -> list[dict]:
    """Invert and edit what a loader gave, of one size; pictures go into the data samples.

    Returns:
        For each image what its report says about how it was made.
    """
    images = torch.stack([item['inputs'] for item in items]).to(editor.parts.device)
    samples = [item['data_samples'] for item in items]
    start = time.time()
    inversion, hits = invert(editor, images, samples, args)
    inverted = time.time()
    editor.edit_samples(samples, images, inversion, editor.etas if edits else ())
    if edits:
        prompt_alone = editor.edit(inversion, prompts_of(samples)[0], 1.0)
        for sample, picture in zip(samples, prompt_alone, strict=True):
            sample.ddim = picture.cpu()
    seconds = dict(invert=round(inverted - start, 2), edit=round(time.time() - inverted, 2))
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


def edit_many(editor: InversionEditor, pairs: Sequence[dict], args: argparse.Namespace) -> list[str]:
    """Edit all images of a list into a folder each, and write the page and the report of the run.

    Images that cannot be read are said and left out. Images of one size that follow each other are done together.

    Returns:
        What went wrong, a line an image.
    """
    out, failed, reports, batch = Path(args.out), [], [], []
    load = make_loader(editor, args)

    def flush() -> None:
        if not batch:
            return
        for item, made in zip(batch, edit_batch(editor, batch, args), strict=True):
            sample = item['data_samples']
            report = save_sample(sample, out / sample.sample_id, made)
            reports.append(dict(sample_id=sample.sample_id, **report))
            print(f'{len(reports)}/{len(pairs)} {sample.sample_id}: {summary_line(report)}')
        batch.clear()
        entries = [(f'{one["sample_id"]}/compare.png', one['prompt'], summary_line(one)) for one in reports]
        write_gallery(out / 'index.html', entries)

    for pair in pairs:
        try:
            item = load(dict(pair, mask=None))  # reports are about whole pictures
        except (ValueError, OSError) as error:
            failed.append(f'{pair["sample_id"]}: {error}')
            print(failed[-1], file=sys.stderr)
            continue
        if batch and (len(batch) == args.batch_size or batch[0]['inputs'].shape != item['inputs'].shape):
            flush()
        batch.append(item)
    flush()
    write_text(out / 'report.json', json.dumps(summarize(reports, failed), indent=1) + '\n')
    return failed
