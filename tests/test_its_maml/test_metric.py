import math
import statistics

import pytest
import torch
from mmengine.structures import BaseDataElement

from mmplugins.its_maml import FewShotRobustMetric, intrinsic_dimension


@pytest.fixture
def samples():
    """Twenty tasks of ten queries, two attacks."""
    torch.manual_seed(0)
    found = []
    for _ in range(20):
        labels = torch.arange(10) % 5
        clean = torch.where(torch.rand(10) < 0.7, labels, (labels + 1) % 5)
        attacked = torch.where(torch.rand(10) < 0.6, clean, (labels + 2) % 5)
        element = BaseDataElement(metainfo=dict(attacks=('pgd', 'weak')))
        for name, value in dict(labels=labels, clean=clean, pgd=attacked, weak=clean).items():
            element.set_field(value, name)
        found.append(element)
    return found


def evaluate(samples, **kwargs):
    metric = FewShotRobustMetric(**kwargs)
    for start in range(0, len(samples), 3):
        metric.process({}, [sample.to_dict() for sample in samples[start : start + 3]])
    return metric.evaluate(len(samples))


def test_means_and_intervals(samples):
    metrics = evaluate(samples)
    clean = [(s.clean == s.labels).double().mean().item() * 100 for s in samples]
    robust = [(s.pgd == s.labels).double().mean().item() * 100 for s in samples]
    assert metrics['few_shot/clean'] == pytest.approx(statistics.mean(clean))
    assert metrics['few_shot/clean_ci'] == pytest.approx(1.96 * statistics.stdev(clean) / 20**0.5)
    assert metrics['few_shot/pgd'] == pytest.approx(statistics.mean(robust))
    assert metrics['few_shot/pgd_ci'] == pytest.approx(1.96 * statistics.stdev(robust) / 20**0.5)
    assert metrics['few_shot/score'] == pytest.approx((statistics.mean(clean) + statistics.mean(robust)) / 2)
    assert metrics['few_shot/tasks'] == 20


def test_robust_among_correct(samples):
    metrics = evaluate(samples)
    shares = [(s.pgd == s.labels)[s.clean == s.labels].double().mean().item() * 100 for s in samples]
    assert metrics['few_shot/pgd_of_correct'] == pytest.approx(statistics.mean(shares))
    assert metrics['few_shot/pgd_of_correct'] >= metrics['few_shot/pgd']
    assert metrics['few_shot/weak_of_correct'] == 100


def test_features_give_dimensions(samples):
    for sample in samples:
        sample.set_field(torch.randn(10, 6), 'clean_features')
        sample.set_field(torch.randn(10, 1) * torch.ones(1, 6), 'noise')
    metrics = evaluate(samples)
    expected = statistics.mean(intrinsic_dimension(s.clean_features) for s in samples)
    assert metrics['few_shot/id_task'] == pytest.approx(expected)
    assert metrics['few_shot/id_noise'] == 1


def test_without_attack_the_score_is_clean(samples):
    for sample in samples:
        sample.set_metainfo(dict(attacks=()))
    metrics = evaluate(samples)
    assert metrics['few_shot/score'] == metrics['few_shot/clean']


def test_nothing_right_when_clean():
    attacks = dict(attacks=('pgd',))
    sample = BaseDataElement(metainfo=attacks, labels=torch.zeros(4), clean=torch.ones(4), pgd=torch.ones(4))
    metrics = evaluate([sample])
    assert metrics['few_shot/clean'] == metrics['few_shot/clean_ci'] == 0
    assert 'few_shot/pgd_of_correct' not in metrics


def test_undefined_dimension_does_not_end_a_run(samples):
    for sample in samples:
        sample.set_field(torch.randn(10, 6), 'clean_features')
        sample.set_field(torch.zeros(10, 6), 'noise')
    with pytest.warns(UserWarning, match='no intrinsic dimension: all features are the same'):
        metrics = evaluate(samples)
    assert math.isnan(metrics['few_shot/id_noise']) and metrics['few_shot/id_task'] > 1
