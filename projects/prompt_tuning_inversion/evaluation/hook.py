"""Pictures of a test run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ..pairs.sample import EditDataSample
from ..pictures import as_saved
from .gallery import COVERED, save_strip, write_gallery
from .nearness import psnr


@HOOKS.register_module()
class SaveEditGridHook(Hook):
    """Writes a strip of pictures (of samples with images ``(3, H, W)``) for each edit, and a page that shows all.

    Args:
        out_dir: Under the run's log folder.
        max_images: Strips to write; None for all.
    """

    def __init__(self, out_dir: str = 'edits', max_images: int | None = None) -> None:
        self.out_dir, self.max_images = out_dir, max_images
        self.entries: list[tuple[str, str, str]] = []

    def before_test_epoch(self, runner: Runner) -> None:
        """Start a new page."""
        self.entries = []

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: Sequence[EditDataSample] = ()
    ) -> None:
        """Write the strips of a batch."""
        for sample in outputs:
            if self.max_images is not None and len(self.entries) >= self.max_images:
                return
            name = f'{sample.sample_id}.png'
            save_strip(sample, Path(runner.log_dir, self.out_dir, name))
            near = psnr(as_saved(sample.recon), sample.source, sample.get('mask'))
            note = COVERED if math.isnan(near) else f'reconstruction {near:.1f} dB'
            self.entries.append((name, sample.prompt, note))

    @master_only
    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Write the page; with several processes that of the first."""
        write_gallery(Path(runner.log_dir, self.out_dir, 'index.html'), self.entries, runner.experiment_name)
