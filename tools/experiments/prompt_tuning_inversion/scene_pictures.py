"""The trade-off of edited scenes, and strips of edits by every method."""

from __future__ import annotations

from pathlib import Path

from experiments.frame.claims import Found
from experiments.frame.tasks import Context
from experiments.prompt_tuning_inversion import arms, scenes
from experiments.prompt_tuning_inversion.strips import stack
from mmplugins.prompt_tuning_inversion.pictures import strip, to_image
from mmplugins.utils.atomic import replacing

ROWS = 4


def draw(found: Found, context: Context, folder: Path) -> None:
    """Draw both of what was run."""
    draw_trade_off(found, folder / 'scenes_trade_off.png')
    draw_edits(found, context, folder / 'scenes_edits.png')


def draw_trade_off(found: Found, path: Path) -> None:
    """Success against the PSNR of the background, a curve a method; the strength grows from right to left."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    edits = scenes.trade_off(found)
    figure, panel = pyplot.subplots(figsize=(6, 4), layout='constrained')
    for arm in (scenes.PERFECT, *scenes.EDITORS):
        points = edits.points(arm).values()
        style = 'k*' if arm == scenes.PERFECT else 'o-' if arm.startswith('PTI') else 'o--'
        panel.plot([near for _, near in points], [share for share, _ in points], style, ms=4, label=arm)
    panel.set(xlabel=scenes.LABELS['background'], ylabel=scenes.LABELS['success'])
    panel.legend(fontsize=7)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=80)
    pyplot.close(figure)


def draw_edits(found: Found, context: Context, path: Path) -> None:
    """Each method's edits at the strength that edits best in the first group, of scenes of the last group."""
    edits = scenes.trade_off(found)
    seed = min(found.results[scenes.TASK][scenes.MODEL])
    parts = scenes.parts_of(seed, context)
    tasks = scenes.groups_of_tasks(2 if context.quick else scenes.IMAGES)[-1][:ROWS]
    columns = {'image': [task['image'] for task in tasks], 'perfect edit': [task['wanted'].picture() for task in tasks]}
    for arm in scenes.EDITORS:
        if success := edits.success(arm):
            eta = max(success, key=success.get)
            editor = scenes.build(arm, parts, context)
            inversion = arms.invert(editor, tasks)
            columns.setdefault('autoencoder', editor.parts.decode(inversion.source))
            columns[f'{arm}\n{eta:g}'] = editor.edit(inversion, [task['prompt'] for task in tasks], eta)
    rows = [[(label, to_image(column[number])) for label, column in columns.items()] for number in range(len(tasks))]
    stack([strip(row, 64) for row in rows]).save(path, optimize=True)
