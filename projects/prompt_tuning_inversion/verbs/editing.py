"""The jobs behind the verbs: read, invert, edit, write files."""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Sequence

import torch
from tqdm import tqdm

from ..cache import InversionCache
from ..editor import InversionEditor
from ..inversion import Inversion
from ..pairs.dataset import LoadEditImage
from ..pairs.sample import EditDataSample, prompts_of


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


def settings_of(editor: InversionEditor, args: argparse.Namespace) -> dict:
    """All that the pictures of an image depend on besides itself and its prompts; JSON."""
    size = editor.parts.image_size if args.size is None else args.size
    control = getattr(editor, 'attention', None)
    return dict(
        editor.settings(),
        edit_guidance=editor.edit_guidance,
        attention=control and control.settings(),
        resize=args.resize,
        image_size=size,
    )


def make_loader(editor: InversionEditor, args: argparse.Namespace) -> LoadEditImage:
    """What reads images as the model takes them."""
    size = editor.parts.image_size if args.size is None else args.size
    return LoadEditImage(size, editor.parts.factor, args.resize)


def open_cache(args: argparse.Namespace) -> InversionCache:
    """The cache of the arguments."""
    return InversionCache(args.cache_dir, int(args.cache_gib * 2**30))


def invert(
    editor: InversionEditor, images: torch.Tensor, samples: Sequence[EditDataSample], args: argparse.Namespace
) -> tuple[Inversion, list[bool]]:
    """Inversion of images ``(B, 3, H, W)``, from the cache where it has them; and whether it had."""
    bars = Bars()
    try:
        if args.no_cache:
            return editor.invert(images, *prompts_of(samples), bars), [False] * len(samples)
        return open_cache(args).invert(editor, images, *prompts_of(samples), bars)
    finally:
        bars.close()


def add_prompt_alone(editor: InversionEditor, samples: Sequence[EditDataSample], inversion: Inversion) -> None:
    """Put what the prompt alone gives, the edit of eta 1, into samples that have their edits."""
    if getattr(editor, 'attention', None) is not None:  # no edit is without the maps of the image
        return
    if 1.0 in editor.etas:
        pictures = [sample.edits[editor.etas.index(1.0)] for sample in samples]
    else:
        pictures = editor.edit(inversion, [sample.prompt for sample in samples], 1.0).cpu()
    for sample, picture in zip(samples, pictures, strict=True):
        sample.prompt_alone = picture


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
        add_prompt_alone(editor, samples, inversion)
    seconds = dict(invert=round(inverted - start, 2), edit=round(time.time() - inverted, 2))
    losses = inversion.losses.mean(0) if len(inversion.losses) else inversion.losses.new_zeros(2, len(samples))
    return [
        dict(
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
