"""The scripts behind the numbers of METR's README: the digit images, the measures, and a short run of each script."""

import json
import sys

import pytest
import torch

pytest.importorskip('sklearn', reason='the digit scans come with scikit-learn')


@pytest.fixture
def parts(repo, monkeypatch):
    """Return the modules of tools/claims/metr_parts by name."""
    monkeypatch.syspath_prepend(str(repo / 'tools/claims'))
    from metr_parts import claims, data, evaluate

    return dict(claims=claims, data=data, evaluate=evaluate)


def test_no_scan_is_in_training_and_test(parts, bccd):
    train, test = (parts['data'].Painter(split, bccd, 0) for split in ('train', 'val'))
    scans = [{scan.tobytes() for of_digit in painter.scans.values() for scan in of_digit} for painter in (train, test)]
    assert not scans[0] & scans[1]
    assert sum(map(len, scans)) > 1790  # of 1,797


def test_annotations_of_a_set_are_of_its_names_only(parts, bccd, tmp_path):
    parts['data'].make_sets(tmp_path, bccd, scale=0.02)
    for key, (names, _, _) in parts['data'].SETS.items():
        coco = json.loads((tmp_path / f'{key}.json').read_text())
        assert [category['name'] for category in coco['categories']] == list(names)
        assert {a['category_id'] for a in coco['annotations']} <= {category['id'] for category in coco['categories']}
        for annotation in coco['annotations']:
            x, y, width, height = annotation['bbox']
            assert min(x, y) >= 0 and max(x + width, y + height) <= 96 and min(width, height) > 3


def test_the_new_names_are_not_shown_in_pretraining(parts):
    data = parts['data']
    for key in ('old_a', 'old_b'):
        assert not set(data.NEW) & set(data.SETS[key][1])


def test_box_iou(parts):
    first = torch.tensor([[0.0, 0.0, 4.0, 4.0]])
    second = torch.tensor([[0.0, 0.0, 4.0, 4.0], [2.0, 0.0, 4.0, 4.0], [8.0, 8.0, 2.0, 2.0]])
    assert parts['evaluate'].box_iou(first, second).tolist()[0] == pytest.approx([1, 1 / 3, 0])


@pytest.mark.parametrize(
    ('better', 'worse', 'holds'),
    [
        pytest.param({0: 0.5, 1: 0.6}, {0: 0.4, 1: 0.5}, True, id='every seed'),
        pytest.param({0: 0.5, 1: 0.9}, {0: 0.6, 1: 0.5}, None, id='mean only'),
        pytest.param({0: 0.5, 1: 0.4}, {0: 0.6, 1: 0.5}, False, id='no'),
        pytest.param({0: None, 1: 0.4}, {0: 0.6, 1: 0.5}, None, id='unknown'),
    ],
)
def test_when_a_claim_holds(parts, better, worse, holds):
    evidence = parts['claims'].Evidence({})
    evidence.add('c', 'higher', [('ours', 'AP50', better)], [(better, worse, 0)])
    assert evidence.claims[0]['holds'] is holds


@pytest.mark.slow
def test_claims_run(repo, run, tmp_path):
    command = [sys.executable, repo / 'tools/claims/metr.py', '--quick', '--work-dir', tmp_path, '--out', tmp_path]
    run(*command, timeout=900)
    claims = json.loads((tmp_path / 'claims.json').read_text())
    assert len(claims) == 5
    keys = {'claim', 'source', 'expected', 'holds', 'arms', 'command', 'seconds', 'machine', 'versions', 'date'}
    for claim in claims:
        assert set(claim) == keys
        assert all(set(arm) == {'name', 'metric', 'mean', 'std', 'seeds'} for arm in claim['arms'])
    assert (tmp_path / 'claims.png').stat().st_size < 150_000


@pytest.mark.slow
def test_benchmark_runs(repo, run, tmp_path):
    sizes = dict(groups=3, queries=10, dims=32, layers=2, image_size=128, matching_images=1, max_boxes=4, repeats=1)
    options = [f'--{key.replace("_", "-")}={value}' for key, value in sizes.items()]
    out = tmp_path / 'benchmark.json'
    widths = ('--ffn', '32', '64')
    run(sys.executable, repo / 'tools/benchmarks/metr.py', '--device=cpu', f'--out={out}', *options, *widths)
    result = json.loads(out.read_text())['results']['cpu']
    for width in ('32', '64'):
        decoder = result['decoder'][width]
        assert decoder['max_difference'] < 1e-4
        assert decoder['memory_side_ratio'] == pytest.approx(1 / 3, rel=0.01)
        assert decoder['query_side_ratio'] == 1
    assert result['matching']['equal_to_brute_force']
