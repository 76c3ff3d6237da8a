import math

import pytest
import torch

from mmplugins.its_maml import intrinsic_dimension
from mmplugins.its_maml.intrinsic_dim import ESTIMATORS, explained_variance, levina_bickel, neighbor_distances


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
@pytest.mark.parametrize(
    ('dimension', 'points'),
    # At the faces of a cube estimators from neighbors are too low. In high dimensions most points are near a face, and
    # more of them help: with 10,000 points in 8 dimensions MLE is 11 % low.
    [(1, 3000), (2, 3000), (3, 3000), (5, 3000), pytest.param(8, 40000, marks=pytest.mark.slow)],
)
def test_dimension_of_a_cube(estimator, dimension, points):
    torch.manual_seed(0)
    cube = torch.rand(points, dimension, dtype=torch.float64)
    assert intrinsic_dimension(cube, estimator) == pytest.approx(dimension, rel=0.1)


@pytest.mark.parametrize('neighbors', [3, 10, 20])
def test_maximum_likelihood_has_no_bias_where_there_are_no_faces(neighbors):
    torch.manual_seed(0)
    circles = 2 * math.pi * torch.rand(3000, 2, dtype=torch.float64)
    torus = torch.cat([circles.cos(), circles.sin()], 1)
    assert levina_bickel(torus, neighbors) == pytest.approx(2, rel=0.03)


def test_neighbors_are_found_in_parts():
    x = torch.rand(50, 3, dtype=torch.float64).unique(dim=0)
    expected = (x[:, None] - x).norm(dim=-1).fill_diagonal_(math.inf).sort(1).values[:, :4]
    torch.testing.assert_close(neighbor_distances(x, 4, rows=7), expected)


@pytest.mark.parametrize('estimator', ['twonn', 'mle'])
def test_twins_do_not_matter(estimator):
    torch.manual_seed(0)
    x = torch.rand(300, 2)
    assert intrinsic_dimension(torch.cat([x, x]), estimator) == pytest.approx(intrinsic_dimension(x, estimator))


@pytest.mark.parametrize('dimension', [2, 5, 8])
def test_agrees_with_scikit_dimension(dimension):
    skdim = pytest.importorskip('skdim')
    torch.manual_seed(0)
    x = torch.rand(1000, dimension, dtype=torch.float64)
    theirs = skdim.id.MLE().fit(x.numpy(), n_neighbors=10).dimension_
    assert intrinsic_dimension(x, 'mle') == pytest.approx(theirs, rel=1e-6)
    assert intrinsic_dimension(x, 'twonn') == pytest.approx(skdim.id.TwoNN().fit(x.numpy()).dimension_, rel=0.02)


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
