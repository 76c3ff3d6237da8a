"""Losses."""

import pytest
import torch
from torch.nn import functional as F

from mmplugins.cae.heads import CAEv1Head, CAEv2Head
from mmplugins.cae.tokens import split_places, tokens_at


@pytest.fixture
def places(draw_mask):
    return split_places(draw_mask(2, 15, 6))


def pick(target, places, **kwargs):
    return CAEv2Head(**kwargs).groups(target, places)


def test_tokens_cross_entropy(places):
    masked = places[1]
    pred, ids = torch.randn(2, 6, 20), torch.randint(20, (2, 15))
    expected = [-pred[b, k].log_softmax(0)[ids[b, masked[b, k]]] for b in range(2) for k in range(6)]
    torch.testing.assert_close(CAEv1Head().recon_loss(pred, ids, places), torch.stack(expected).mean())
    logits = F.one_hot(ids, 20).float().transpose(1, 2).unflatten(2, (3, 5))  # what the host's DALL-E gives
    torch.testing.assert_close(CAEv1Head(3.0).recon_loss(pred, logits, places), 3 * torch.stack(expected).mean())


def test_values_squared_error(places):
    pred, target = torch.randn(2, 6, 20), torch.randn(2, 15, 20)
    expected = torch.stack([(pred[b] - target[b, places[1][b]]).square() for b in range(2)]).mean()
    torch.testing.assert_close(CAEv1Head().recon_loss(pred, target, places), expected)
    target = torch.cat([torch.randn(2, 1, 20), target], dim=1)  # with a CLS token in front
    torch.testing.assert_close(CAEv1Head().recon_loss(pred, target, places), expected)


@pytest.mark.parametrize(
    'target',
    [
        torch.randint(20, (2, 60)),
        torch.randint(20, (2, 16)),  # ids have no class token: it is another grid
        torch.randint(20, (2, 14)),
        torch.randn(2, 20, 6, 10),
        torch.randn(2, 60, 20),
        torch.randn(2, 14, 20),
    ],
    ids=lambda target: str(tuple(target.shape)),
)
def test_targets_of_another_grid(places, target):
    with pytest.raises(ValueError, match="for the 15 patches of the backbone's grid: set the patch size of the target"):
        CAEv1Head().recon_loss(torch.randn(2, 6, 20), target, places)


def test_alignment_squared_error_without_gradient_to_the_target():
    latents, target = torch.randn(2, 6, 8, requires_grad=True), torch.randn(2, 6, 8, requires_grad=True)
    loss = CAEv1Head(align_weight=2.0).align_loss(latents, target)
    torch.testing.assert_close(loss, 2 * (latents - target).square().mean())
    loss.backward()
    assert target.grad is None and latents.grad.any()


@pytest.mark.parametrize('weights', [(0, 0), (-1, 2)], ids=str)
def test_weights_must_leave_something(weights):
    with pytest.raises(ValueError, match='nothing to learn'):
        CAEv1Head(*weights)


def test_codebook_larger_than_the_read_out(places):
    with pytest.raises(ValueError, match='21 channels or tokens of the target, but num_classes=20'):
        CAEv1Head().recon_loss(torch.randn(2, 6, 20), torch.randn(2, 21, 3, 5), places)


def test_latent_loss_of_perfect_and_opposite_predictions(places):
    target = pick(torch.randn(2, 16, 8), places)
    head = CAEv2Head()
    assert [part.size(1) for part in target] == [1, 9, 6]
    assert head.loss([3 * part for part in target], [part * 0.1 for part in target]) == pytest.approx(0, abs=1e-6)
    assert head.loss([-part for part in target], target) == pytest.approx(2, abs=1e-6)


def test_latent_loss_is_the_mean_over_all_tokens(places):
    pred, target = (pick(torch.randn(2, 16, 8), places) for _ in range(2))
    distance = [1 - F.cosine_similarity(a, b, dim=-1) for a, b in zip(pred, target, strict=True)]
    torch.testing.assert_close(CAEv2Head().loss(pred, target), torch.cat(distance, 1).mean())
    groups = torch.stack([part.mean() for part in distance]).mean()
    torch.testing.assert_close(CAEv2Head(balance='group', loss_weight=2.0).loss(pred, target), 2 * groups)


def test_targets_are_ordered_cls_visible_masked(places):
    visible, masked = places
    target = torch.arange(2 * 16 * 3.0).reshape(2, 16, 3)
    cls_token, seen, hidden = pick(target, places)
    assert torch.equal(cls_token, target[:, :1])
    assert torch.equal(seen, tokens_at(target[:, 1:], visible)) and torch.equal(
        hidden, tokens_at(target[:, 1:], masked)
    )


@pytest.mark.parametrize(
    ('kwargs', 'sizes'),
    [
        (dict(supervision='visible'), [1, 9]),
        (dict(supervision='visible', with_cls=False), [9]),
        (dict(supervision='masked'), [6]),
        (dict(with_cls=False), [9, 6]),
    ],
    ids=str,
)
def test_what_is_supervised(places, kwargs, sizes):
    assert [part.size(1) for part in pick(torch.randn(2, 16, 8), places, **kwargs)] == sizes
    if kwargs.get('with_cls') is False or kwargs['supervision'] == 'masked':  # then no CLS is needed
        assert [part.size(1) for part in pick(torch.randn(2, 15, 8), places, **kwargs)] == sizes


def test_half_precision_is_compared_in_float32(places):
    pred, target = (pick(torch.randn(2, 16, 512).half() * 100, places) for _ in range(2))
    loss = CAEv2Head().loss(pred, target)  # squares of 100 overflow in half precision
    assert loss.dtype == torch.float32 and 0 < loss < 2


def test_bad_targets(places):
    with pytest.raises(ValueError, match='no CLS token: set with_cls=False'):
        pick(torch.randn(2, 15, 8), places)
    with pytest.raises(ValueError, match=r'of shape \(2, 20, 8\), for the 15 patches'):
        pick(torch.randn(2, 20, 8), places)
    with pytest.raises(ValueError, match='7 channels or tokens of the target, but num_classes=8'):
        CAEv2Head().loss([torch.randn(2, 3, 8)], [torch.randn(2, 3, 7)])


@pytest.mark.parametrize('kwargs', [dict(supervision='all'), dict(balance='sum')], ids=str)
def test_bad_arguments(kwargs):
    with pytest.raises(ValueError, match=next(iter(kwargs))):
        CAEv2Head(**kwargs)
