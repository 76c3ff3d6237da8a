"""What follows from made-up results of the arms."""

import pytest

from experiments.frame.claims import Found, to_json
from experiments.frame.tasks import Job
from experiments.prompt_tuning_inversion import arms
from experiments.prompt_tuning_inversion.claims import FREE, claims
from experiments.prompt_tuning_inversion.figure import draw, points


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
    """Results of two groups of six images.

    Args:
        shown: Strengths at which an arm shows the new color, in the place of those where every direction is as claimed.
        shifts: Added to the PSNR of arms, by their first word.
    """
    results = {}
    for name, config in {FREE: {}, **arms.arms()}.items():
        for group in range(2):
            value = level(name) + shifts.get(name.split()[0], 0.0)
            row = dict(psnr=[value + image / 100 + group / 50 for image in range(6)])
            if 'etas' in config:
                # The color changes from the middle on, ours earlier and with a shape that is nearer.
                late, near = (0.3, 2.0) if name.startswith('PTI') else (0.5, 0.0)
                colored = (shown or {}).get(name, [eta for eta in config['etas'] if eta >= late])
                row['edits'] = {
                    str(eta): dict(
                        color=[eta in colored] * 6,
                        digit=[True] * 6,
                        shape=[30 - 10 * eta + near + image / 100 for image in range(6)],
                    )
                    for eta in config['etas']
                }
            results[Job('edit', name, group)] = row
    return Found(results)


def verdicts(found: Found) -> list[str]:
    return [to_json(claim)['verdict'] for claim in claims(found)]


def test_claims_hold_where_every_direction_is_right():
    assert verdicts(found_with()) == ['holds'] * 12


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
    assert judged and all(len(comparison.values) == 6 for comparison in judged)


def test_points_are_means_over_groups():
    assert points(found_with(), 'SDEdit w5')[0.5] == pytest.approx((1.0, 1.0, 25.025))


def test_figure_is_drawn(tmp_path):
    draw(found_with(), tmp_path / 'trade_off.png')
    assert (tmp_path / 'trade_off.png').read_bytes().startswith(b'\x89PNG')
