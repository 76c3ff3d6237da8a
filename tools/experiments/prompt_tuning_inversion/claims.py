"""Does prompt tuning inversion reconstruct and edit better than its neighbors? The tiny model on held-out digits.

Tinted digits that the model was not trained on are inverted in groups of twelve by every method and setting, and their
color is changed; 20 steps, 10 updates a step, none stopped early. A group of images stands where others have a seed:
the methods draw nothing, but for the noise of SDEdit.

The judges are a support vector machine for the digit and the hue for the color; the shape is the brightest channel.
"""

from __future__ import annotations

from pathlib import Path

from experiments.frame.claims import Claim, Found, Row, Values, minus
from experiments.frame.experiment import Experiment
from experiments.frame.tasks import Context, Task
from experiments.frame.verdict import Comparison
from experiments.prompt_tuning_inversion import arms, scene_pictures, scenes
from experiments.prompt_tuning_inversion.arms import ETAS, GUIDANCES, INITS, STRENGTHS, UNTUNED
from experiments.prompt_tuning_inversion.figure import PSNR, W, draw
from experiments.prompt_tuning_inversion.strips import draw_edits
from experiments.prompt_tuning_inversion.trade_off import CHOOSE, DIFFERENCE, TradeOff, by_image
from mmplugins.prompt_tuning_inversion.tinted_digits.judge import DigitJudge

IMAGES = 12
GUIDED = tuple(guidance for guidance in GUIDANCES if guidance > 1)
FREE = 'unconditional'
OURS, NULL, SDEDIT = f'PTI target {W}', f'PTI null {W}', f'SDEdit {W}'
NEIGHBORS = tuple(f'{method} {W}' for method in ('null-text', 'negative-prompt', 'edit-friendly'))
LABELS = dict(color='new color shown', digit='digit kept', shape='PSNR of the shape, dB')


def edit(arm: str, group: int, context: Context) -> dict:
    """Invert and edit a group of images."""
    tasks = arms.make_tasks(group, 2 if context.quick else IMAGES)
    less = dict(num_steps=2) if context.quick else {}
    if arm == FREE:
        return dict(psnr=arms.unconditional(tasks, **less))
    return arms.run_arm({**arms.arms()[arm], **less}, tasks, DigitJudge())


def groups_of(found: Found, arm: str) -> dict[int, dict]:
    """Results of an arm, by group; none if it was not run."""
    return found.results.get('edit', {}).get(arm, {})


def images(found: Found, arm: str) -> Values:
    """PSNR of each image, by its number over all groups."""
    return by_image({number: group['psnr'] for number, group in groups_of(found, arm).items()})


def trade_off(found: Found) -> TradeOff:
    """The edits of digits."""
    return TradeOff(lambda arm: groups_of(found, arm), LABELS)


def claims(found: Found) -> list[Claim]:
    """What follows for digits on black, then for scenes; everything is paired over images."""
    edits = trade_off(found)

    def nearer(ours: str, theirs: str, above: float = 0) -> Comparison:
        values = minus(images(found, ours), images(found, theirs))
        return Comparison(f'{ours} minus {theirs}', PSNR, values, above=above, unit='images')

    def rows(*names: str) -> list[Row]:
        return [Row(name, PSNR, images(found, name)) for name in names]

    def change(arm: str, low: float, high: float, key: str, **side: float) -> Comparison:
        values = minus(edits.values(arm, high, key), edits.values(arm, low, key))
        limits = None if key == edits.fidelity else DIFFERENCE
        return Comparison(
            f'{arm}, eta {high:g} minus {low:g}', LABELS[key], values, unit='images', limits=limits, **side
        )

    strongest, target = GUIDED[-1], [f'DDIM target w{g:g}' for g in GUIDANCES]
    few = [f'PTI target {W} N{n}' for n in (1, 3)] + [OURS]
    return [
        Claim(
            'Guided sampling after DDIM inversion reconstructs worse the stronger the guidance',
            'abstract, by a reading note',
            'PSNR falls from each guidance to the next, and all are below sampling without prompt and guidance',
            [nearer(less, more) for less, more in zip([FREE, *target], target, strict=False)],
            rows(FREE, *(f'DDIM {init} w{g:g}' for init in ('target', 'source') for g in GUIDANCES)),
        ),
        Claim(
            'Prompt tuning inversion reconstructs better than guided sampling without tuning',
            'abstract',
            'at every guidance above 1',
            [nearer(f'PTI target w{g:g}', f'DDIM target w{g:g}') for g in GUIDED],
            rows(*(f'PTI target w{g:g}' for g in GUIDANCES)),
        ),
        Claim(
            'It stays near what sampling without guidance reconstructs',
            'abstract',
            f'at most 3 dB below, at guidance {strongest:g}',
            [nearer(f'PTI target w{strongest:g}', FREE, above=-3)],
            rows(FREE, f'PTI target w{strongest:g}'),
        ),
        Claim(
            'Eta trades fidelity for editability',
            'abstract, figure 2',
            'with each tenth the share of new colors rises (within 0.05) and the PSNR of the shape falls',
            [
                change(OURS, 0.0, 1.0, 'color', above=0),
                *(change(OURS, low, high, 'color', above=-0.05) for low, high in zip(ETAS, ETAS[1:], strict=False)),
                *(change(OURS, low, high, 'shape', below=0) for low, high in zip(ETAS, ETAS[1:], strict=False)),
            ],
            edits.rows(OURS, ETAS),
        ),
        Claim(
            'Some eta edits better than guided sampling of the prompt from the inverted noise (eta 1)',
            'abstract: trade-off between editability and fidelity',
            'as many new colors, as many digits kept (5 of 100 fewer at most), and a shape that is nearer',
            edits.better((OURS, edits.best_eta(OURS, (OURS, 1.0))), (OURS, 1.0)),
        ),
        Claim(
            'For every strength of SDEdit that shows the new color in half of the images, some eta edits better',
            'abstract: trade-off between editability and fidelity',
            'as many new colors, as many digits kept (5 of 100 fewer at most), and a shape that is nearer',
            [
                each
                for strength, point in edits.points(SDEDIT, CHOOSE).items()
                if point[0] >= 0.5
                for each in edits.better((OURS, edits.best_eta(OURS, (SDEDIT, strength))), (SDEDIT, strength))
            ],
            edits.rows(SDEDIT, STRENGTHS),
        ),
        Claim(
            'Tuning edits better than the same start without it',
            'abstract: trade-off between editability and fidelity',
            f'against {UNTUNED}: as many new colors, as many digits kept (5 of 100 fewer at most), and a shape that is '
            'nearer',
            [each for init in ('target', 'null') for each in edits.rival(f'PTI {init} {W}', f'DDIM {init} {W}')],
            [*edits.rows(f'DDIM target {W}', (1.0,)), *edits.rows(f'DDIM null {W}', ETAS)],
        ),
        Claim(
            'It edits better than its neighbors, from the better of its two starts',
            'abstract: trade-off between editability and fidelity; the neighbors are ours to choose',
            'against the best strength of null-text, negative-prompt and edit-friendly inversion, all told what is in '
            'the image: as many new colors, as many digits kept (5 of 100 fewer at most), and a shape that is nearer',
            [each for other in NEIGHBORS for each in edits.rival(edits.best_arm(OURS, NULL), other)],
            [row for other in NEIGHBORS for row in edits.rows(other, STRENGTHS if other.startswith('edit') else ETAS)],
        ),
        Claim(
            'More updates a step reconstruct better',
            'ours',
            'PSNR rises from 1 to 3 to 10 updates',
            [nearer(more, less) for less, more in zip(few, few[1:], strict=False)],
            rows(*few),
        ),
        Claim(
            'The empty start reconstructs best, that of the image next, that of the edit last',
            'ours',
            'null above source above target at every guidance above 1',
            [
                nearer(f'PTI {one} w{g:g}', f'PTI {other} w{g:g}')
                for g in GUIDED
                for one, other in (('null', 'source'), ('source', 'target'))
            ],
            rows(*(f'PTI {init} w{g:g}' for g in GUIDED for init in INITS)),
        ),
        Claim(
            'The edits of the empty start are close to those of the prompt of the edit',
            'ours',
            'shares of new colors differ by at most 0.1 from eta 0.5 on',
            [
                Comparison(
                    f'{NULL} minus {OURS}, eta {eta:g}',
                    LABELS['color'],
                    minus(edits.values(NULL, eta, 'color'), edits.values(OURS, eta, 'color')),
                    unit='images',
                    limits=DIFFERENCE,
                    **side,
                )
                for eta in ETAS
                if eta >= 0.5
                for side in (dict(above=-0.1), dict(below=0.1))
            ],
            edits.rows(NULL, ETAS),
        ),
        Claim(
            'Null-text inversion, which is told what is in the image, reconstructs better than guided sampling too',
            'arXiv 2211.09794; a check of what both share',
            'at every guidance above 1, against the prompt of the image',
            [nearer(f'null-text w{g:g}', f'DDIM source w{g:g}') for g in GUIDED],
            [*rows(*(f'null-text w{g:g}' for g in GUIDED)), *edits.rows(f'null-text {W}', (0.5, 1.0))],
        ),
        *scenes.claims(found),
    ]


def pictures(found: Found, context: Context, folder: Path) -> None:
    """The trade-offs, and strips of edits, of what was run."""
    if 'edit' in found.results:
        draw(found, trade_off(found), folder / 'trade_off.png')
        draw_edits(folder / 'edits.png')
    if scenes.TASK in found.results:
        scene_pictures.draw(found, context, folder)


EXPERIMENT = Experiment(
    tasks={'edit': Task(edit, (FREE, *arms.arms()), (0, 1, 2), minutes=0.7), **scenes.TASKS},
    claims=claims,
    finish=pictures,
    packages=('diffusers', 'transformers', 'scikit-learn', 'mlxtend'),
)
