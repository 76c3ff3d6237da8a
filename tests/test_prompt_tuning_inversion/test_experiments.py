"""What follows from made-up results of the arms."""

import zlib

import numpy as np
import pytest

from experiments.frame.claims import Found, to_json
from experiments.frame.tasks import Job
from experiments.prompt_tuning_inversion import arms, scenes
from experiments.prompt_tuning_inversion.claims import FREE, claims, trade_off
from experiments.prompt_tuning_inversion.figure import draw
from experiments.prompt_tuning_inversion.scene_pictures import draw_trade_off

IMAGES = 200  # of a group


def generator(*key: object) -> np.random.Generator:
    """Of each key another, for differences that are equal everywhere tell nothing of their spread."""
    return np.random.default_rng(zlib.crc32(repr(key).encode()))


def near(value: float, *key: object) -> list[float]:
    """Nearly the same of all images."""
    return (value + generator(*key).normal(0, 1e-3, IMAGES)).tolist()


def but_three(value: bool, *key: object) -> list[bool]:
    """The same of all images but three."""
    others = set(generator(*key).choice(IMAGES, 3, replace=False).tolist())
    return [value != (image in others) for image in range(IMAGES)]


def level(name: str) -> float:
    """PSNR of an arm where every direction is as claimed."""
    if name == FREE:
        return 30.0
    guidance = float(name.split('w')[-1].split(' ')[0])
    if name.startswith('PTI'):
        start = dict(target=0.0, source=0.3, null=0.6)[name.split()[1]]
        return 28 + start - {'N1': 2.0, 'N3': 1.0}.get(name.split()[-1], 0.0)
    return 27.0 if name.startswith('n') else 25 - guidance


def found_with(shown: dict[str, tuple] | None = None, **shifts: float) -> Found:
    """Results of two groups of images.

    Args:
        shown: Strengths at which an arm shows the new color, in the place of those where every direction is as claimed.
        shifts: Added to the PSNR of arms, by their first word.
    """
    results = {}
    for name, config in {FREE: {}, **arms.arms()}.items():
        for group in range(2):
            value = level(name) + shifts.get(name.split()[0], 0.0)
            row = dict(psnr=near(value + group / 50, name, group))
            if 'etas' in config:
                # The color changes from the middle on, ours earlier and with a shape that is nearer.
                late, ahead = (0.3, 2.0) if name.startswith('PTI') else (0.5, 0.0)
                colored = (shown or {}).get(name, [eta for eta in config['etas'] if eta >= late])
                row['edits'] = {
                    str(eta): dict(
                        color=but_three(eta in colored, name, eta, group),
                        digit=but_three(True, name, eta, group, 'digit'),
                        shape=near(30 - 10 * eta + ahead, name, eta, group),
                    )
                    for eta in config['etas']
                }
            results[Job('edit', name, group)] = row
    return Found(results)


def verdicts(found: Found) -> list[str]:
    return [to_json(claim)['verdict'] for claim in claims(found)]


def test_claims_hold_where_every_direction_is_right():
    assert verdicts(found_with()) == ['holds'] * 12 + ['undecided'] * 7


@pytest.mark.parametrize(
    ('arm', 'shift', 'claim'), [('PTI', -10, 1), ('PTI', -10, 2), ('DDIM', 20, 0), ('null-text', -20, 11)]
)
def test_a_claim_fails_where_its_direction_is_wrong(arm, shift, claim):
    assert verdicts(found_with(**{arm: shift}))[claim] == 'does not hold'


@pytest.mark.parametrize(
    ('arm', 'etas', 'claim'),
    [
        ('PTI target w5', (0.3, 1.0), 3),  # more at 1 than at 0, but not with each tenth
        ('PTI target w5', (0.9, 1.0), 10),  # the empty start turns the color earlier,
        ('PTI null w5', (0.9, 1.0), 10),  # or later
    ],
)
def test_a_claim_on_colors_fails_where_they_turn_elsewhere(arm, etas, claim):
    assert verdicts(found_with({arm: etas}))[claim] == 'does not hold'


@pytest.mark.parametrize(('rival', 'claim'), [('DDIM null w5', 6), ('negative-prompt w5', 7)])
def test_a_claim_on_edits_fails_where_a_rival_keeps_the_shape_at_an_early_strength(rival, claim):
    first = arms.arms()[rival]['etas'][0]
    assert verdicts(found_with({rival: (first,)}))[claim] == 'does not hold'


def test_an_eta_is_judged_on_other_images_than_it_is_chosen_by():
    judged = [comparison for claim in claims(found_with())[4:8] for comparison in claim.judged]
    assert judged and all(len(comparison.values) == IMAGES for comparison in judged)


def test_images_of_groups_that_one_arm_lacks_are_not_paired():
    found = found_with()
    del found.results['edit']['DDIM null w5'][0]
    edits = trade_off(found)
    assert [*edits.values('DDIM null w5', 0.5, 'shape')] == [*range(IMAGES, 2 * IMAGES)]
    assert [*edits.values('PTI null w5', 0.5, 'shape', skip=1)] == [*range(IMAGES, 2 * IMAGES)]


def test_points_are_means_over_groups():
    assert trade_off(found_with()).points('SDEdit w5')[0.5] == pytest.approx((0.985, 0.985, 25.0), abs=1e-3)


def test_figure_is_drawn(tmp_path):
    draw(found_with(), trade_off(found_with()), tmp_path / 'trade_off.png')
    assert (tmp_path / 'trade_off.png').read_bytes().startswith(b'\x89PNG')


def scenes_with(turns: dict[str, float] | None = None, ahead: dict[str, float] | None = None) -> Found:
    """Results of one model and three groups of scenes.

    Args:
        turns: Of an arm, the strength from which on its edits succeed, in the place of that where all is as claimed.
        ahead: Added to the PSNR of an arm's backgrounds.
    """
    results = {}
    for name in (scenes.PERFECT, *scenes.EDITORS):
        etas = (1.0,) if name == scenes.PERFECT else scenes.EDITORS[name]['etas']
        ours = name.startswith('PTI')
        turn = (turns or {}).get(name, 0.0 if name == scenes.PERFECT else 0.3 if ours else 0.5)
        level = 22 + 2 * ours + (ahead or {}).get(name, 0.0)
        edits = {
            str(eta): dict(
                color=but_three(turn <= eta, name, eta, 'color'),
                # Without tuning, the strongest edit does too much.
                success=but_three(turn <= eta and (eta < 1 or name == scenes.PERFECT), name, eta),
                background=near(level - 8 * eta, name, eta, 'background'),
            )
            for eta in etas
        }
        if name == 'DDIM target':  # guided sampling does too much in most of the images
            edits['1.0']['success'] = [image % 3 == 0 for image in range(IMAGES)]
        groups = [dict(psnr=near(level, name, group), edits=edits) for group in range(3)]
        results[Job(scenes.TASK, name, 0)] = dict(groups=groups)
    return Found(results)


def scene_verdicts(found: Found) -> list[str]:
    return [to_json(claim)['verdict'] for claim in scenes.claims(found)]


def test_claims_on_scenes_hold_where_every_direction_is_right():
    assert scene_verdicts(scenes_with()) == ['holds'] * 7


@pytest.mark.parametrize(
    ('turns', 'ahead', 'claim'),
    [
        ({scenes.PERFECT: 2.0}, {}, 0),  # what the model cannot show
        ({}, {'DDIM target': 9.0}, 1),
        ({'PTI target': 0.1}, {}, 2),  # colored at every strength
        ({'PTI target': 2.0}, {}, 3),
        ({}, {'DDIM null': 9.0}, 4),
        ({}, {'SDEdit': 9.0}, 5),
        ({}, {'edit-friendly': 9.0}, 6),
        ({'PTI target': 2.0, 'PTI null': 2.0}, {}, 6),  # nearest, without any success
    ],
)
def test_a_claim_on_scenes_does_not_hold_where_its_direction_is_wrong(turns, ahead, claim):
    assert scene_verdicts(scenes_with(turns, ahead))[claim] != 'holds'


def test_an_untuned_start_at_the_prompt_of_the_edit_has_one_strength():
    assert arms.arms()['DDIM target w5']['etas'] == scenes.EDITORS['DDIM target']['etas'] == (1.0,)
    judged = [comparison.name for claim in claims(scenes_with()) for comparison in claim.judged]
    assert any(name.endswith('minus DDIM target, eta 1') for name in judged)


def test_scenes_are_judged_on_other_groups_than_choose(tmp_path):
    judged = [comparison for claim in scenes.claims(scenes_with())[3:] for comparison in claim.judged]
    assert judged and all(len(comparison.values) == 2 * IMAGES for comparison in judged)
    draw_trade_off(scenes_with(), tmp_path / 'trade_off.png')
    assert (tmp_path / 'trade_off.png').read_bytes().startswith(b'\x89PNG')


def test_claims_without_results_have_no_value():
    for claim in claims(Found({})):
        assert not any(one['values'] for one in (*to_json(claim)['judged'], *to_json(claim)['arms']))
