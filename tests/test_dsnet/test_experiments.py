"""The experiments: arms, pairs of digits, the literal version, and what follows from made-up results."""

import random

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch.utils.flop_counter import FlopCounterMode

pytest.importorskip('sklearn', reason='pip install scikit-learn')
from sklearn.datasets import load_digits

from experiments.dsnet.claims import (
    BLOCKS,
    DSFPN,
    EPOCHS,
    FPN,
    NECKS,
    PAIR_WIDTHS,
    PAIRS,
    PHOTO_WIDTHS,
    PHOTOS,
    PUBLISHED,
    claims,
    on_data,
    sizes,
)
from experiments.dsnet.network import ALIGNED, DUAL, GLOBAL, LOCAL, MOST, OPTIONS, QUARTER, Classifier
from experiments.dsnet.pairs import KINDS, TRAINING_SCANS, make_pairs
from experiments.frame.benchmark import Options
from experiments.frame.claims import Found, to_json
from experiments.frame.tasks import Job
from experiments.workloads.classify import count


@pytest.mark.slow
@pytest.mark.parametrize(('patch', 'side'), [(4, 48), (2, 32)])
def test_arms_on_photos_are_of_equal_size(patch, side):
    counts, products = {}, {}
    for name in OPTIONS:
        with torch.device('meta'), FlopCounterMode(display=False) as counter:
            net = Classifier(name, dict(PHOTOS, patch_sizes=(patch, 2, 2)), PHOTO_WIDTHS, 3, 10).eval()
            net(torch.empty(1, 3, side, side))
        counts[name], products[name] = count(net), counter.get_total_flops()
    for name in OPTIONS:
        assert counts[name] == pytest.approx(counts[ALIGNED], rel=0.01)
        assert products[name] == pytest.approx(products[ALIGNED], rel=0.03)


def test_arms_on_pairs_have_no_fewer_weights_than_the_aligned_one():
    counts = {name: count(Classifier(name, PAIRS, PAIR_WIDTHS, 1, 2)) for name in PAIR_WIDTHS}
    assert min(counts.values()) == counts[ALIGNED] and max(counts.values()) < 1.1 * counts[ALIGNED]


def test_arms_have_the_streams_of_their_names():
    keys = {
        name: '\n'.join(Classifier(name, dict(PHOTOS, patch_sizes=(4, 2, 2)), PHOTO_WIDTHS, 3, 10).state_dict())
        for name in OPTIONS
    }
    assert [name for name, text in keys.items() if '.glob.' not in text] == [LOCAL]
    assert [name for name, text in keys.items() if '.local.' not in text] == [GLOBAL]
    assert [name for name, text in keys.items() if '.align.' in text] == [ALIGNED]


def test_a_large_set_is_run_with_fewer_seeds(repo, monkeypatch):
    data = repo / 'tests/data/clothing10'
    assert len(on_data(data)['photos'].seeds) == 10 and list(on_data(data)) == ['photos']
    monkeypatch.setattr('experiments.workloads.classify.LARGE', 800)
    assert len(on_data(data)['photos'].seeds) == 5


@pytest.fixture(scope='module')
def scans():
    """Return scikit-learn's scans with a mean of 1, and their digits."""
    digits = load_digits(n_class=KINDS)
    images = torch.from_numpy(digits.images).float()
    return images / images.mean((1, 2), keepdim=True), torch.from_numpy(digits.target)


@pytest.mark.parametrize('training', [True, False])
def test_pairs_are_scans_of_their_part_at_the_ends(scans, training):
    strips, labels = make_pairs(60, training, 0)
    assert strips.shape == (60, 1, 8, 128) and labels.sum() == 30
    assert torch.equal(strips, make_pairs(60, training, 0)[0])
    part = slice(None, TRAINING_SCANS) if training else slice(TRAINING_SCANS, None)
    images, kinds = (each[part] for each in scans)
    slots = strips[:, 0].unflatten(2, (16, 8)).transpose(1, 2)
    filled = slots.flatten(2).any(2)
    for place, number in ((slice(0, 2), 1), (slice(2, -2), 4), (slice(-2, None), 1)):
        assert (filled[:, place].sum(1) == number).all()
    same = (slots[:, :, None] == images).flatten(3).all(3)
    assert torch.equal(same.any(2)[:, [0, 1, -2, -1]], filled[:, [0, 1, -2, -1]]) and not same.any(2)[:, 2:-2].any()
    kind = kinds[same.float().argmax(2)]
    first, second = kind[:, :2][filled[:, :2]], kind[:, -2:][filled[:, -2:]]
    assert torch.equal((first == second).long(), labels)
    clutter = slots[:, 2:-2][filled[:, 2:-2]].flatten(1).sort().values
    assert not torch.cdist(clutter, images.flatten(1).sort().values, p=1).amin(1).any()  # of the pixels of scans


def nearest(known: torch.Tensor, kinds: torch.Tensor, asked: torch.Tensor) -> torch.Tensor:
    """Kinds of the nearest neighbors."""
    return kinds[torch.cdist(asked.flatten(1), known.flatten(1)).argmin(1)]


def test_only_fine_views_tell_digits_apart(scans):
    """Nearest neighbors: read in full, a scan tells its digit; a view as coarse as a slot tells nothing of a pair."""
    images, kinds = scans
    known, asked = slice(None, TRAINING_SCANS), slice(TRAINING_SCANS, None)
    assert (nearest(images[known], kinds[known], images[asked]) == kinds[asked]).float().mean() > 0.95
    (strips, labels), (tests, answers) = make_pairs(4000, True, 0), make_pairs(2000, False, 1)
    coarse = [F.avg_pool2d(each, 8) for each in (strips, tests)]
    assert all(((each - each.round()).abs() < 1e-5).all() for each in coarse)  # empty or not
    right = nearest(coarse[0].round(), labels, coarse[1].round()) == answers
    assert abs(right.float().mean() - 0.5) < 0.035  # three standard errors


@pytest.mark.parametrize('arm', PAIR_WIDTHS)
def test_only_the_alignment_relates_both_ends(arm):
    """Whatever the weights: without it, what one end changes in the logits does not depend on the other."""
    torch.manual_seed(0)
    net = Classifier(arm, PAIRS, PAIR_WIDTHS, 1, 2).double().eval()
    (one, other), _ = make_pairs(2, True, 0)
    both = torch.stack([one, one, other, other]).double()
    both[1, ..., -16:] = other[..., -16:]
    both[2, ..., -16:] = one[..., -16:]
    both[2:, ..., 16:-16] = one[..., 16:-16]
    with torch.no_grad():
        logits = net(both)
    mixed = (logits[0] - logits[1] - logits[2] + logits[3]).abs().max().item()
    assert (mixed > 1e-9) if arm == ALIGNED else (mixed < 1e-13)


def found_with(task: str = '', arm: str = '', **changes: float) -> Found:
    """Results in which every direction is as claimed, with a small noise, but for one arm of a task."""
    noise, results = random.Random(0), {}
    tops = {LOCAL: 50, GLOBAL: 52, QUARTER: 54, MOST: 56, DUAL: 60, ALIGNED: 70}
    pairs = {name: dict(top1=tops[name], training=tops[name], parameters=1) for name in PAIR_WIDTHS}
    rows = {'photos': {name: dict(top1=top, parameters=1, majority=20) for name, top in tops.items()}, 'pairs': pairs}
    scores = {FPN: 0, BLOCKS: 0, DSFPN: 1}
    for epochs in EPOCHS:
        rows[f'detect {epochs}'] = {
            name: dict(ap50=score, parameters=1, cpu_seconds=1) for name, score in scores.items()
        }
    for name, arms in rows.items():
        for key, row in arms.items():
            for seed in range(3):
                moved = {
                    measure: value + noise.random() / 100 for measure, value in row.items() if measure != 'parameters'
                }
                rest = dict(tested='1,141 photos in 5 folds', learned=100 if key == ALIGNED and seed else None)
                results[Job(name, key, seed)] = {**row, **moved, **rest}
    for name, (millions, gmacs) in PUBLISHED.items():
        results[Job('sizes', name, 0)] = dict(millions=millions, gmacs=gmacs - 0.1)
    for job, row in results.items():
        if (job.task, job.arm) == (task, arm):
            row.update(
                {key: value + (0 if task == 'sizes' else noise.random() / 100) for key, value in changes.items()}
            )
    return Found(results)


def verdicts(found: Found) -> list[str]:
    return [to_json(claim)['verdict'] for claim in claims(found)]


def test_claims_hold_where_every_direction_is_right():
    assert verdicts(found_with()) == ['holds'] * 9


@pytest.mark.parametrize(
    ('place', 'task', 'arm', 'changes'),
    [
        (0, 'sizes', 'tiny', dict(millions=10.6)),
        (0, 'sizes', 'base', dict(gmacs=8.5)),
        (1, 'photos', LOCAL, dict(top1=65)),
        (3, 'photos', DUAL, dict(top1=75)),
        (4, 'photos', MOST, dict(top1=65)),
        (5, 'pairs', GLOBAL, dict(top1=75)),
        (6, 'detect 6', FPN, dict(ap50=2)),
        (7, 'detect 12', FPN, dict(ap50=2)),
        (8, 'detect 18', BLOCKS, dict(ap50=2)),
    ],
)
def test_claims_fail_where_a_direction_is_wrong(place, task, arm, changes):
    found = verdicts(found_with(task, arm, **changes))
    assert found[place] == 'does not hold' and found.count('holds') == 8


def test_single_streams_are_held_against_both_kinds_of_two():
    assert verdicts(found_with('photos', GLOBAL, top1=75))[1:3] == ['does not hold'] * 2


def test_the_control_of_the_pyramid_has_no_fewer_weights(repo):
    init_default_scope('mmdet')
    counts = {}
    for name, (config, changes) in NECKS.items():
        cfg = Config.fromfile(repo / 'configs/dsnet' / config)
        cfg.merge_from_dict(changes)
        with torch.device('meta'):
            counts[name] = sum(weight.numel() for weight in MODELS.build(cfg.model).parameters())
    assert counts[FPN] < counts[DSFPN] <= counts[BLOCKS] < 1.1 * counts[DSFPN]


def test_sizes_are_counted():
    found = sizes('tiny', 0, None)
    assert found['millions'] == pytest.approx(10.534312)
    assert found['gmacs'] < PUBLISHED['tiny'][1]


@pytest.fixture
def benchmark():
    """Return the module; it needs timm."""
    pytest.importorskip('timm')
    from experiments.dsnet import benchmark

    return benchmark


@pytest.mark.slow
def test_literal_version_computes_the_same(benchmark, monkeypatch):
    benchmark.check(Options('cpu', True, None, None))
    attention = benchmark.explicit_attention
    monkeypatch.setattr(benchmark, 'explicit_attention', lambda q, k, v: attention(1.1 * q, k, v))
    with pytest.raises(AssertionError):
        benchmark.check(Options('cpu', True, None, None))


@pytest.mark.parametrize(('ours', 'verdict'), [(30.0, 'holds'), (40.0, 'does not hold')])
def test_bounds_on_memory(benchmark, ours, verdict):
    measured = {benchmark.BLOCK: dict(ours=dict(peak=ours, kept=ours), literal=dict(peak=100.0, kept=100.0))}
    assert [bound.to_json()['verdict'] for bound in benchmark.bounds(measured)] == [verdict] * 2
