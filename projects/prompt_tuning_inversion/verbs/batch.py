"""The job behind ``batch``: a list of images, of which none is lost and none ends the run."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from mmplugins.utils.atomic import write_text

from ..editor import InversionEditor
from ..evaluation.gallery import write_gallery
from .editing import edit_batch, make_loader, settings_of
from .report import identify, kept_report, save_sample, summarize, summary_line

# What one image may cause: a broken file, a loss that is no number, too little memory.
FAILURES = (ValueError, OSError, ArithmeticError, RuntimeError)


class BatchRun:
    """Edits all images of a list into a folder each, and keeps a page and a report of the run up to date.

    An image whose folder holds the result of the same file, prompts and settings is not edited again. One that fails is
    a row of the report. Images of one size that follow each other are done together.

    Args:
        editor: On its device.
        pairs: Of :func:`~mmplugins.prompt_tuning_inversion.pairs.lists.read_pairs`.
        args: Of the command.
    """

    def __init__(self, editor: InversionEditor, pairs: Sequence[dict], args: argparse.Namespace) -> None:
        self.editor, self.pairs, self.args, self.out = editor, pairs, args, Path(args.out)
        self.load = make_loader(editor, args)
        self.rows: dict[str, dict] = {}

    def run(self) -> list[str]:
        """Edit all; return the ids of those that failed."""
        batch: list[dict] = []
        for pair in self.pairs:
            try:
                identity = identify(pair, settings_of(self.editor, self.args), self.editor.etas)
                kept = kept_report(self.out / pair['sample_id'], identity)
                item = None if kept else dict(self.load(pair), identity=identity)
            except FAILURES as error:
                self.fail(pair['sample_id'], error)
                continue
            if kept:
                self.done(pair['sample_id'], kept, 'kept')
                continue
            if batch and (len(batch) == self.args.batch_size or batch[0]['inputs'].shape != item['inputs'].shape):
                self.edit(batch)
                batch = []
            batch.append(item)
        if batch:
            self.edit(batch)
        self.write()
        return [name for name, row in self.rows.items() if 'error' in row]

    def edit(self, items: list[dict]) -> None:
        """Edit images together; one by one if that fails, as one of them may be the reason."""
        try:
            for item, made in zip(items, edit_batch(self.editor, items, self.args), strict=True):
                sample = item['data_samples']
                report = save_sample(sample, self.out / sample.sample_id, dict(item['identity'], **made))
                self.done(sample.sample_id, report, summary_line(report))
        except FAILURES as error:
            if len(items) == 1:
                self.fail(items[0]['data_samples'].sample_id, error)
            else:
                for item in items:
                    self.edit([item])
        self.write()

    def done(self, name: str, report: dict, text: str) -> None:
        """Note an edited image."""
        self.rows[name] = dict(report, sample_id=name)
        print(f'{len(self.rows)}/{len(self.pairs)} {name}: {text}')

    def fail(self, name: str, error: Exception) -> None:
        """Note an image that cannot be edited."""
        self.rows[name] = dict(sample_id=name, error=f'{type(error).__name__}: {error}')
        print(f'{name}: {error}', file=sys.stderr)

    def write(self) -> None:
        """Write the page and the report of what is done so far, in the order of the list."""
        rows = [self.rows[pair['sample_id']] for pair in self.pairs if pair['sample_id'] in self.rows]
        entries = [
            ('', row['sample_id'], row['error'])
            if 'error' in row
            else (f'{row["sample_id"]}/compare.png', row['prompt'], summary_line(row))
            for row in rows
        ]
        write_gallery(self.out / 'index.html', entries)
        write_text(self.out / 'report.json', json.dumps(summarize(rows), indent=1) + '\n')
