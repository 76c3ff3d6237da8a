"""The scripts behind the numbers of the README: their measures, and a short run of each."""

import json
import sys

import pytest
import torch


@pytest.fixture
def parts(repo, monkeypatch):
    """Return the modules of tools/claims/dsnet_parts by name."""
    pytest.importorskip('sklearn', reason='pip install scikit-learn')
    monkeypatch.syspath_prepend(str(repo / 'tools/claims'))
    from dsnet_parts import arms, classify, pairs, report

    return dict(arms=arms, classify=classify, pairs=pairs, report=report)


def test_controls_have_the_weights_of_the_aligned_arm(parts):
    arms = parts['arms']
    sizes = {name: arms.count(arms.Classifier(name, parts['classify'].ARCH, 3, 10)) for name in arms.ARMS}
    assert sizes[arms.ALIGNED] <= sizes['two streams, wider'] < 1.01 * sizes[arms.ALIGNED]
    assert sizes['local only (alpha 0)'] < sizes['two streams'] < sizes[arms.ALIGNED]
    aligned, single = (
        arms.count(arms.Classifier(name, parts['pairs'].ARCH, 1, 2)) for name in (arms.ALIGNED, 'global only (alpha 1)')
    )
    assert aligned <= single < 1.01 * aligned


def test_arms_have_the_streams_of_their_names(parts):
    arms = parts['arms']
    keys = {
        name: '\n'.join(arms.Classifier(name, parts['classify'].ARCH, 3, 10).state_dict()) for name in arms.ARMS
    }  # fmt: skip
    assert [name for name, text in keys.items() if '.glob.' not in text] == ['local only (alpha 0)']
    assert [name for name, text in keys.items() if '.local.' not in text] == ['global only (alpha 1)']
    assert [name for name, text in keys.items() if '.align.' in text] == [arms.ALIGNED]


def test_pairs_of_digits(parts):
    from sklearn.datasets import load_digits

    pairs = parts['pairs']
    canvases, labels = pairs.make_pairs(40, True, 0)
    assert canvases.shape == (40, 1, 8, 40) and labels.sum() == 20
    assert torch.equal(canvases, pairs.make_pairs(40, True, 0)[0])
    scans = torch.from_numpy(load_digits().images).float() / 16
    kinds = torch.from_numpy(load_digits().target)
    for training, chosen in ((True, slice(None, 1200)), (False, slice(1200, None))):
        canvases, labels = pairs.make_pairs(40, training, 0)
        assert not canvases[..., 8:-8].any()  # far apart
        for canvas, label in zip(canvases[:, 0], labels, strict=True):
            ends = [
                kinds[chosen][(scans[chosen] == end).all(-1).all(-1)] for end in (canvas[:, :8], canvas[:, -8:])
            ]  # fmt: skip
            assert (ends[0][0] == ends[1][0]) == bool(label)


def test_augmentation_only_flips_and_moves(parts):
    x = torch.arange(2 * 3 * 24 * 24.0).view(2, 3, 24, 24)
    y = parts['classify'].augment(x, torch.Generator().manual_seed(0))
    assert y.shape == x.shape
    middle = y[0, 0, 4:20, 4:20]
    assert (middle[1, 0] - middle[0, 0]).item() == 24.0
    assert abs((middle[0, 1] - middle[0, 0]).item()) == 1.0


def test_no_images(parts, tmp_path):
    with pytest.raises(FileNotFoundError, match='no images in'):
        parts['classify'].load_images(tmp_path / 'train', 32)


@pytest.mark.parametrize(
    ('scores', 'holds'),
    [
        (dict(a=[3.0, 3.0], b=[1.0, 2.0], c=[2.0, 1.0]), True),
        (dict(a=[3.0, 3.0], b=[1.0, 2.0], c=[1.0, 4.0]), None),
        (dict(a=[3.0, 3.0], b=[1.0, 2.0], c=[4.0, 4.0]), False),
        (dict(a=[3.0, 3.0], b=[3.0, 3.0], c=[1.0, 1.0]), False),
    ],
    ids=['every seed', 'mean only', 'worse', 'equal'],
)
def test_when_a_claim_holds(parts, scores, holds):
    results = {name: {seed: dict(score=s) for seed, s in enumerate(values)} for name, values in scores.items()}
    claim = parts['report'].compare(results, 'top-1', [('a', 'b'), ('a', 'c')])
    assert claim['holds'] is holds
    assert [arm['name'] for arm in claim['arms']] == ['a minus b', 'a minus c']
    assert claim['arms'][0]['mean'] == pytest.approx(3.0 - sum(scores['b']) / 2)


@pytest.mark.parametrize(('published', 'holds'), [((10.5, 1.8), True), ((10.6, 1.8), False), ((10.5, 1.5), False)])
def test_sizes_are_compared_with_the_published_ones(parts, published, holds):
    claim = parts['report'].size_claim(dict(tiny=published))
    assert claim['holds'] is holds
    assert claim['arms'][0]['mean'] == 10.5343
    assert parts['report'].PUBLISHED['tiny'] == (10.5, 1.8)


@pytest.mark.slow
def test_claims_run(repo, run, tmp_path):
    pytest.importorskip('sklearn', reason='pip install scikit-learn')
    command = [
        sys.executable,
        repo / 'tools/claims/dsnet.py',
        '--quick',
        '--seeds=0',
        '--detection-seeds=0',
        '--processes=1',
    ]
    run(*command, '--work-dir', tmp_path, '--out', tmp_path, timeout=900)
    claims = json.loads((tmp_path / 'claims.json').read_text())
    assert len(claims) == 5
    keys = {'claim', 'source', 'expected', 'holds', 'arms', 'command', 'seconds', 'machine', 'versions', 'date'}
    for claim in claims:
        assert set(claim) == keys
        assert all(set(arm) == {'name', 'metric', 'mean', 'std', 'seeds'} for arm in claim['arms'])
    assert (tmp_path / 'claims.png').stat().st_size < 150_000


@pytest.mark.slow
def test_benchmark_runs(repo, run, tmp_path):
    pytest.importorskip('timm')
    out = tmp_path / 'benchmark.json'
    networks = ('DS-Net-T', 'DS-Net-T literal', 'Conformer-T', 'pvt_v2_b1')
    run(
        *(sys.executable, repo / 'tools/benchmarks/dsnet.py', f'--out={out}', '--side=64', '--batch=2', '--repeats=1'),
        *('--memory-size', '128', '192', '--networks', *networks),
    )
    data = json.loads(out.read_text())
    assert set(data['networks']) == set(networks)
    assert data['networks']['DS-Net-T']['parameters'] == 10_534_312
    assert data['difference'] < 1e-4  # the literal version computes the same
    assert data['memory']['block']['ours']['mib'] < data['memory']['block']['literal']['mib']
    assert 'DS-Net-T, time over literal, forward+backward, batch 2' in data['bounds']
    assert data['table'].count('| DS-Net-T |') >= 1
