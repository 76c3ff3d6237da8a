"""Strips of four edits by prompt tuning inversion, and by the prompt without tuning."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from experiments.prompt_tuning_inversion import arms
from mmplugins.prompt_tuning_inversion.pictures import strip, to_image


def draw_edits(path: Path) -> None:
    """Write the picture."""
    tasks = arms.make_tasks(0, 12)[2:12:3]
    editor = arms.build('PromptTuningInversion')
    inversion = arms.invert(editor, tasks)
    prompts = [task['prompt'] for task in tasks]
    columns = {
        'image': torch.stack([task['image'] for task in tasks]),
        'autoencoder': editor.parts.decode(inversion.source),
        'eta 0': editor.reconstruct(inversion),
        **{f'eta {eta:g}': editor.edit(inversion, prompts, eta) for eta in (0.3, 0.5, 0.7)},
        'eta 1\n(no tuning)': editor.edit(inversion, prompts, 1.0),
    }
    rows = []
    for number, task in enumerate(tasks):
        labels = [task['prompt'] if label == 'image' else label for label in columns]
        pictures = [to_image(column[number]) for column in columns.values()]
        rows.append(strip(list(zip(labels, pictures, strict=True)), 96))
    stack(rows).save(path, optimize=True)


def stack(rows: Sequence[Image.Image]) -> Image.Image:
    """Put pictures below each other."""
    sheet = Image.new('RGB', (max(row.width for row in rows), sum(row.height for row in rows)), 'white')
    for number, row in enumerate(rows):
        sheet.paste(row, (0, sum(row.height for row in rows[:number])))
    return sheet
