"""The experiments behind the numbers: the digit images, the measures, both ways of the decoder, what the claims say."""

import json

import pytest
import torch

pytest.importorskip('sklearn', reason='the digit scans come with scikit-learn')

from experiments.frame.benchmark import Options
from experiments.frame.claims import Found, to_json
from experiments.frame.tasks import Job
from experiments.metr import benchmark
from experiments.metr.claims import ARMS, claims
from experiments.metr.data import DIGITS, NEW, SETS, Painter, make_sets
from experiments.metr.decoder_case import QUICK, DecoderCase
from experiments.metr.evaluate import box_iou


def test_no_scan_is_in_training_and_test(bccd):
    train, test = (Painter(split, bccd, 0) for split in ('train', 'val'))
    scans = [{scan.tobytes() for of_digit in painter.scans.values() for scan in of_digit} for painter in (train, test)]
    assert not scans[0] & scans[1]
    assert sum(map(len, scans)) > 1790  # of 1,797


def test_annotations_of_a_set_are_of_its_names_only(bccd, tmp_path):
    make_sets(tmp_path, bccd, scale=0.02)
    for key, (names, _, _) in SETS.items():
        coco = json.loads((tmp_path / f'{key}.json').read_text())
        assert [category['name'] for category in coco['categories']] == list(names)
        assert {a['category_id'] for a in coco['annotations']} <= {category['id'] for category in coco['categories']}
        for annotation in coco['annotations']:
            x, y, width, height = annotation['bbox']
            assert min(x, y) >= 0 and max(x + width, y + height) <= 96 and min(width, height) > 3


def test_the_new_names_are_not_shown_in_pretraining():
    for key in ('old_a', 'old_b'):
        assert not set(NEW) & set(SETS[key][1])


def test_box_iou():
    first = torch.tensor([[0.0, 0.0, 4.0, 4.0]])
    second = torch.tensor([[0.0, 0.0, 4.0, 4.0], [2.0, 0.0, 4.0, 4.0], [8.0, 8.0, 2.0, 2.0]])
    assert box_iou(first, second).tolist()[0] == pytest.approx([1, 1 / 3, 0])


# AP50 of an arm where every direction is as claimed.
SCORES = dict.fromkeys(ARMS, 0.4) | dict(joint=0.6, finetune=0.6)


def verdicts(**changes: float) -> list[str]:
    results = {}
    for arm, score in (SCORES | changes).items():
        for seed, noise in enumerate((-0.01, 0.0, 0.01)):
            value = score + noise * (1 + (arm in ('joint', 'finetune')))
            ap50 = dict.fromkeys(DIGITS, value)
            results[Job('detect', arm, seed)] = dict(
                ap50=ap50,
                all_names=dict(ap50=ap50),
                confusion=1 - value,
                best_wrong=1 - value,
                kept_recall=value,
                cem_recall={str(k): k / 10 for k in range(1, 11)},
            )
    return [to_json(claim)['verdict'] for claim in claims(Found(results))]


def test_claims_hold_where_every_direction_is_right():
    assert verdicts() == ['holds'] * 6


@pytest.mark.parametrize(
    ('arm', 'claim'),
    [('joint_unmasked', 0), ('half_a', 1), ('only_b', 2), ('blind', 3), ('random', 4), ('scratch_long', 5)],
)
def test_a_claim_fails_where_another_arm_is_better(arm, claim):
    found = verdicts(**{arm: 0.9})
    assert found.pop(claim) == 'does not hold' and set(found) == {'holds'}


def test_no_worse_allows_a_slack():
    # The shared names must be better, so the claim is undecided, but not refuted.
    assert verdicts(half_a=0.59)[1] != 'does not hold'


def test_one_memory_is_kept_and_not_k():
    case = DecoderCase(64, 'cpu', **QUICK)
    assert case.memory_side('ours') / case.memory_side('plain') == pytest.approx(1 / QUICK['groups'], rel=0.01)


@pytest.mark.slow
def test_check_of_the_benchmark_sees_a_difference(monkeypatch):
    benchmark.check(Options('cpu', True, None, None))
    monkeypatch.setattr(DecoderCase, 'gradients', lambda self, arm: (torch.tensor(float(arm == 'ours')),))
    with pytest.raises(AssertionError):
        benchmark.check(Options('cpu', True, None, None))


def test_details_quote_the_benchmark(repo):
    folder = repo / 'projects/metr'
    measured = json.loads((folder / 'results/benchmark.json').read_text())['measured']['start on 2,000,000 boxes']
    section = (folder / 'DETAILS.md').read_text().partition('## Start on a large set')[2].partition('\n## ')[0]
    for arm in ('first', 'mmdet'):
        assert f'{measured[arm]["seconds"]:.1f} s' in section
        assert f'{measured[arm]["peak"] / 2**20:,.0f} MiB' in section
    assert f'{1000 * measured["further"]["seconds"]:.1f} ms' in section
    assert f'{measured["further"]["peak"] / 2**20:.1f} MiB' in section
