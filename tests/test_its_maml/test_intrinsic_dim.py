import math

import pytest
import torch

from mmplugins.its_maml import intrinsic_dimension
from mmplugins.its_maml.intrinsic_dim import ESTIMATORS, explained_variance


def flat(rank: int, points: int = 400, features: int = 30) -> torch.Tensor:
    """Points with equal variance in ``rank`` directions exactly, none in others."""
    torch.manual_seed(rank)
    basis = torch.linalg.qr(torch.randn(features, features, dtype=torch.float64)).Q[:, :rank]
    x = torch.randn(points, rank, dtype=torch.float64)
    left, _, right = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    return left @ right @ basis.T + 5


@pytest.mark.parametrize('rank', [1, 3, 10, 17])
def test_pca_of_equal_variances_is_known(rank):
    assert intrinsic_dimension(flat(rank)) == math.ceil(0.9 * rank)
    assert intrinsic_dimension(flat(rank), 'pca95') == math.ceil(0.95 * rank - 1e-9)


@pytest.mark.parametrize('estimator', list(ESTIMATORS))
def test_invariant_to_rotation_shift_and_scale(estimator):
    torch.manual_seed(0)
    x = torch.randn(150, 6, dtype=torch.float64) * torch.linspace(0.3, 2, 6, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q
    expected = intrinsic_dimension(x, estimator)
    assert intrinsic_dimension(0.01 * x @ rotation - 3, estimator) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize('estimator', ['twonn', 'mle'])
@pytest.mark.parametrize('dimension', [1, 2, 3, 5])
def test_dimension_of_a_cube(estimator, dimension):
    cube, torus = cube_and_torus(dimension)
    # At the faces of a cube all estimators from neighbors are too low, more so in high dimensions; a torus has none.
    points = cube if dimension <= 2 else torus
    assert intrinsic_dimension(points, estimator) == pytest.approx(dimension, rel=0.1)


@pytest.mark.parametrize('estimator', ['twonn', 'mle'])
def test_high_dimension_lies_between_cube_and_torus(estimator):
    # With 3,000 points in 8 dimensions neighbors are far: faces make it too low, the bent torus too high.
    low, high = (intrinsic_dimension(points, estimator) for points in cube_and_torus(8))
    assert 6 < low < 8 < high < 10


def cube_and_torus(dimension: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    cube = torch.rand(3000, dimension, dtype=torch.float64)
    return cube, torch.cat([(2 * math.pi * cube).cos(), (2 * math.pi * cube).sin()], 1)


@pytest.mark.parametrize('estimator', ['twonn', 'mle'])
def test_twins_do_not_matter(estimator):
    torch.manual_seed(0)
    x = torch.rand(300, 2)
    assert intrinsic_dimension(torch.cat([x, x]), estimator) == pytest.approx(intrinsic_dimension(x, estimator))


@pytest.mark.parametrize(('estimator', 'name'), [('twonn', 'TwoNN'), ('mle', 'MLE')])
def test_agrees_with_scikit_dimension(estimator, name):
    skdim = pytest.importorskip('skdim')
    torch.manual_seed(0)
    x = torch.randn(400, 5, dtype=torch.float64)
    theirs = getattr(skdim.id, name)().fit(x.numpy()).dimension_
    assert intrinsic_dimension(x, estimator) == pytest.approx(theirs, rel=0.1)


def test_shares_of_variance_sum_to_one():
    assert explained_variance(flat(4)).sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ('features', 'estimator', 'message'),
    [
        (torch.rand(5, 3), 'hill', "got 'hill'"),
        (torch.rand(1, 3), 'pca90', 'two points'),
        (torch.rand(3), 'pca90', r'got \(3,\)'),
        (torch.full((4, 3), 0.7), 'pca90', 'are the same'),
        (torch.full((4, 3), math.nan), 'pca90', 'not finite'),
        (torch.rand(3, 2), 'mle', 'at least 4 points'),
        (torch.ones(9, 2), 'twonn', '1 different points'),
    ],
)
def test_undefined_dimensions_are_refused(features, estimator, message):
    with pytest.raises(ValueError, match=message):
        intrinsic_dimension(features, estimator)
