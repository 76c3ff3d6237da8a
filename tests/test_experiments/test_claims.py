"""From results to entries of claims.json, tables and the figure."""

import json

import pytest

from experiments.frame.claims import Claim, Found, Row, after_looks, to_json
from experiments.frame.figure import draw_claims
from experiments.frame.report import claims_section, markdown_table, verdict_lines, verdict_table
from experiments.frame.tasks import Job
from experiments.frame.verdict import Comparison


@pytest.fixture
def found():
    scores = dict(ours=(0.5, 0.6, 0.7), theirs=(0.4, 0.52, 0.58))
    return Found({
        Job('photos', arm, seed): dict(
            ap=value, inner=dict(deep=-value), cpu_seconds=30 * (seed + 1), seconds=60.0, date=f'2026-01-0{3 - seed}',
            machine='m',
        )
        for arm, values in scores.items()
        for seed, value in enumerate(values)
    })  # fmt: skip


@pytest.fixture
def entry(found):
    judged = [found.compare('photos', 'ours', 'theirs', 'ap', 'AP')]
    return to_json(Claim('Ours is better', 'abstract', 'above', judged, found.rows('photos', 'ap', 'AP')))


def test_processor_time_is_compared_on_one_machine(found):
    assert [row.values for row in found.time_over('photos', 'theirs')] == [{0: 1.0, 1: 1.0, 2: 1.0}]
    found.results['photos']['ours'][0].update(machine='another')
    found.results['photos']['ours'][1].update(cpu_seconds=90)
    (row,) = found.time_over('photos', 'theirs', ('ours', 'theirs', 'not run'))
    assert (row.name, row.values) == ('ours', {1: 1.5, 2: 1.0})
    assert found.time_over('photos', 'not run') == []


def test_found_pairs_seeds(found):
    assert found.values('photos', 'ours', 'inner.deep') == {0: -0.5, 1: -0.6, 2: -0.7}
    assert found.difference('photos', 'ours', 'theirs', 'ap') == pytest.approx({0: 0.1, 1: 0.08, 2: 0.12})
    assert found.cost() == {'photos': {'ours': 1.0, 'theirs': 1.0}}
    assert found.seconds() == 360
    assert found.origin() == dict(date='2026-01-01 to 2026-01-03', machine='m')
    assert Found({Job('photos', 'ours', 0): dict(ap=1.0)}).origin() == {}  # of an older result


def test_entry_has_every_value_and_follows_the_rule(entry):
    (judged,) = entry['judged']
    assert judged['values'] == pytest.approx({'0': 0.1, '1': 0.08, '2': 0.12})
    assert judged['interval'] == pytest.approx([0.0503, 0.1497], abs=1e-4)  # 0.1 ± 4.303 · 0.02 / √3
    assert (entry['verdict'], judged['verdict'], judged['needed']) == ('holds', 'holds', None)
    assert entry['arms'][0] == dict(
        name='ours', metric='AP', mean=0.6, std=0.1, values={'0': 0.5, '1': 0.6, '2': 0.7}
    )  # fmt: skip
    assert json.loads(json.dumps(entry)) == entry


def judge(*values, earlier=()):
    """The comparison of a claim with one value a seed."""
    compared = Comparison('a minus b', 'AP', dict(enumerate(values)), above=0)
    entry = to_json(after_looks(Claim('a is better', 'ours', 'above', [compared]), earlier))
    return entry, entry['judged'][0]


def test_seeds_added_to_what_was_undecided_are_judged_by_wider_intervals():
    first, undecided = judge(0.1, 0.5, 0.9)
    second, again = judge(0.1, 0.5, 0.9, 0.5, 0.5, earlier=[first])
    assert (undecided['verdict'], undecided['looks'], again['looks']) == ('undecided', [], [3])
    assert judge(0.1, 0.5, 0.9, 0.5, 0.5, earlier=[second])[1] == again  # judged anew it is the same look
    (low, high), (wide_low, wide_high) = judge(0.1, 0.5, 0.9, 0.5, 0.5)[1]['interval'], again['interval']
    assert wide_low < low < high < wide_high
    assert verdict_table([second]).count('] (97.5 %)') == 1
    # One arm was run again, on another machine; what is left of the record is rounded.
    assert judge(0.1, 0.47, 0.92, 0.5, earlier=[first])[1]['looks'] == [3]
    assert judge(0.1000004, 0.47, 0.92, 0.5, earlier=[first])[1]['looks'] == [3]
    # No looks: at other values, at one value, at what was decided.
    assert judge(0.2, 0.4, 0.8, 0.5, earlier=[first])[1]['looks'] == []
    assert judge(0.1, 0.5, earlier=[judge(0.1)[0]])[1]['looks'] == []
    assert judge(0.1, 0.11, 0.9, earlier=[judge(0.1, 0.11)[0]])[1]['looks'] == []


def test_table_shows_the_comparison_that_decides(entry):
    weak = Comparison('ours minus best', 'AP', {0: -0.1, 1: 0.3, 2: 0.1}, above=0)
    claim = to_json(Claim('Ours is best', 'ours', 'above', [Comparison('x', 'AP', {0: 1, 1: 1.1}, above=0), weak]))
    table = verdict_table([entry, claim]).splitlines()
    assert table[2].endswith('ours minus theirs, AP: 0.1 [0.0503, 0.15] | holds |')
    assert 'ours minus best, AP: 0.1 [' in table[3]
    assert table[3].endswith('(least certain of 2) | undecided; 24 seeds would decide |')


def test_as_many_seeds_are_named_as_decide_all_comparisons():
    near = Comparison('near', 'AP', {0: -0.1, 1: 0.3, 2: 0.1}, above=0.1)
    far = Comparison('far', 'AP', {0: -1.0, 1: 3.0, 2: 1.4}, above=0)
    numbers = [judged.needed() for judged in (near, far)]
    row = verdict_table([to_json(Claim('c', 'ours', '', [near, far]))]).splitlines()[2]
    assert max(numbers) == 1000 and min(numbers) < 1000 and 'more than 1,000 seeds would decide' in row
    alone = Comparison('alone', 'AP', {0: 1.0}, above=0)
    assert verdict_table([to_json(Claim('c', 'ours', '', [far, alone]))]).endswith('| undecided |')


def test_what_is_no_number_was_not_measured(found):
    found.results['photos']['ours'][1]['ap'] = float('nan')
    assert found.values('photos', 'ours', 'ap') == {0: 0.5, 2: 0.7}
    assert found.compare('photos', 'ours', 'theirs', 'ap', 'AP').verdict() == 'undecided'


def test_what_is_left_of_a_difference_by_rounding_is_no_number():
    equal = Comparison('ours minus theirs', 'AP', {0: 0.1, 1: 0.2, 2: 0.1 - 0.4 + 0.1 - 0.1}, above=0)
    assert 0 < abs(equal.mean) < 1e-15
    assert 'ours minus theirs, AP: 0 [-' in verdict_table([to_json(Claim('', '', '', [equal]))])


def test_page_says_that_a_record_is_older_than_the_code(entry):
    record = dict(command='c', seconds=1, machine='m', versions={'torch': '2'}, date='d', claims=[entry])
    assert '**' not in claims_section(record) and 'claims.png' in claims_section(record)
    older = claims_section({**record, 'older': 'Before the frame.'})
    assert '**Before the frame.** `c`' in older and 'claims.png' not in older


def test_an_older_claim_without_differences_is_shown_as_that(entry):
    claim = {**entry, 'judged': [], 'verdict': 'undecided'}
    assert verdict_table([claim]).endswith('| paired differences were not kept | undecided |')


def test_lines_for_a_terminal(entry):
    assert verdict_lines([entry])[1:] == [
        'HOLDS: Ours is better',
        '  expected: above',
        '  ours minus theirs, AP: 0.1 [0.0503, 0.15], holds',
    ]


def test_empty_columns_are_left_out():
    assert markdown_table(('a', 'b'), [['1', ''], ['2', '']]) == '| a |\n| --- |\n| 1 |\n| 2 |'


def test_what_could_not_be_measured_is_undecided(tmp_path):
    found = Found({Job('t', arm, 0): dict(error=None, cpu_seconds=1, seconds=1) for arm in 'ab'})
    rows, judged = found.rows('t', 'error', 'degrees'), [found.compare('t', 'a', 'b', 'error', 'degrees')]
    claim = to_json(Claim('Less error', 'ours', 'below', judged, rows))
    assert (claim['verdict'], claim['judged'][0]['mean'], claim['arms'][0]['mean']) == ('undecided', None, None)
    assert 'a minus b, degrees: nothing, no interval | undecided' in verdict_table([claim])
    draw_claims([claim], tmp_path / 'claims.png')


def test_figure_is_a_picture_also_for_one_value(entry, tmp_path):
    single = to_json(Claim('One', 'ours', 'x', [Comparison('a', 'b', {0: 1.0}, above=0)], [Row('a', 'b', {0: 1.0})]))
    draw_claims([entry, single], tmp_path / 'claims.png')
    assert (tmp_path / 'claims.png').read_bytes().startswith(b'\x89PNG')
