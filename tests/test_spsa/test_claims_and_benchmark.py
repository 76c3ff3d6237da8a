"""The scripts behind the numbers of the README: their measures, and a short run of each."""

import json
import sys

import pytest
import torch
from torch import nn


@pytest.fixture
def parts(repo, monkeypatch):
    """Return the modules of tools/claims/spsa_parts by name."""
    monkeypatch.syspath_prepend(str(repo / 'tools/claims'))
    from spsa_parts import approximate, classify, report

    return dict(approximate=approximate, classify=classify, report=report)


def test_exact_attention_is_torchs(parts):
    approximate = parts['approximate']
    x = torch.randn(2, 64, 4, 5, dtype=torch.float64)
    tokens = approximate.split(x)
    _, dot = approximate.exact(x).values()
    expected = nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)
    torch.testing.assert_close(dot @ tokens, expected)


def test_rank_correlation_is_scipys(parts):
    from scipy.stats import spearmanr

    a, b = torch.randn(2, 50, dtype=torch.float64)
    assert parts['approximate'].ranks_agree(a, b).item() == pytest.approx(spearmanr(a, b).statistic)
    assert parts['approximate'].ranks_agree(a, a.exp()).item() == pytest.approx(1)


@pytest.mark.slow
def test_approximation_of_attention(parts, repo):
    """On features of real images: direction of errors and ranks, against softmax attention over correlations."""
    near = parts['approximate'].measure(repo / 'tests/data/clothing10/val', 48, limit=2)
    found = near[parts['approximate'].EXACT[0]]
    assert found['error']['agg'] < found['error']['mean token'] < 1
    assert found['rank'][0] > 0.6


def test_augmentation_only_flips_and_moves(parts):
    x = torch.arange(2 * 3 * 8 * 8.0).view(2, 3, 8, 8)
    y = parts['classify'].augment(x, torch.Generator().manual_seed(0), 2)
    assert y.shape == x.shape
    middle = y[0, 0, 2:6, 2:6]
    steps = {(middle[0, 1] - middle[0, 0]).item(), (middle[1, 0] - middle[0, 0]).item()}
    assert steps <= {1.0, -1.0, 8.0}


def test_arms_differ_in_the_mixer_only(parts):
    classify = parts['classify']
    states = {}
    for name in classify.MIXERS:
        torch.manual_seed(0)
        states[name] = {
            key: value for key, value in classify.build(name, 10).state_dict().items() if '.mixer.' not in key
        }
    for name in ('SPSA gate', 'SPSA agg', 'SimAM'):
        for key, value in states['Identity'].items():
            assert torch.equal(states[name][key], value)
    assert all(state.keys() == states['Identity'].keys() for state in states.values())


def test_no_images(parts, tmp_path):
    with pytest.raises(FileNotFoundError, match='no images in'):
        parts['classify'].load_images(tmp_path / 'train', 32)


@pytest.mark.parametrize(
    ('differences', 'holds'),
    [([0.5, 0.1], True), ([0.5, -0.1], None), ([-0.5, 0.1], False), ([0.0, 0.0], False)],
)
def test_when_a_claim_holds(parts, differences, holds):
    assert parts['report'].answer(differences) is holds


def test_differences_are_paired(parts):
    results = {'Identity': {0: dict(top1=1.0), 1: dict(top1=5.0)}, 'SPSA gate': {0: dict(top1=2.0), 1: dict(top1=6.0)}}
    rows = parts['report'].compare(results, 'top1', 'top-1')
    assert rows[-1]['name'] == 'SPSA gate minus Identity'
    assert (rows[-1]['mean'], rows[-1]['std']) == (1.0, 0.0)


@pytest.mark.slow
def test_claims_run(repo, run, tmp_path):
    command = [sys.executable, repo / 'tools/claims/spsa.py', '--quick', '--seeds=0', '--detection-seeds=0']
    run(*command, '--processes=1', '--work-dir', tmp_path, '--out', tmp_path, timeout=900)
    claims = json.loads((tmp_path / 'claims.json').read_text())
    assert len(claims) == 8
    keys = {'claim', 'source', 'expected', 'holds', 'arms', 'command', 'seconds', 'machine', 'versions', 'date'}
    for claim in claims:
        assert set(claim) == keys
        assert all(set(arm) == {'name', 'metric', 'mean', 'std', 'seeds'} for arm in claim['arms'])
    for picture in ('claims.png', 'maps.png'):
        assert (tmp_path / picture).stat().st_size < 150_000


@pytest.mark.slow
def test_benchmark_runs(repo, run, tmp_path):
    pytest.importorskip('timm')
    pytest.importorskip('onnxruntime')
    out = tmp_path / 'benchmark.json'
    networks = ('spsanet_xxs', 'mobilevit_xxs', 'repvit_m0_9')
    run(
        *(sys.executable, repo / 'tools/benchmarks/spsa.py', f'--out={out}', '--sides', '8', '56', '--repeats=1'),
        *('--image-size=64', '--networks', *networks),
        # A thread that waits by spinning takes the core of the one that it waits for, if other work has the other core.
        env={'OMP_WAIT_POLICY': 'PASSIVE'},
    )
    data = json.loads(out.read_text())
    assert set(data['networks']) == set(networks)
    assert data['networks']['spsanet_xxs']['parameters'] == 1_133_672
    assert all(value > 0 for network in data['networks'].values() for value in network.values())
    assert 'spsanet_xxs over mobilevit_xxs, onnxruntime, 2 threads' in data['bounds']
    assert data['memory']['attention, fused kernel'] < 50 < 4 * 12544**2 * 4 / 2**20  # it forms no matrix of all pairs
    assert data['table'].count('| spsanet_xxs |') == 1
