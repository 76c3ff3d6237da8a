import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmplugins.its_maml import LinfAttack, adapt
from mmplugins.its_maml.learner import CarryGradient, Learner, task_cross_entropy

STEPS = [0, 1, 3]


class FixedAttack:
    """Returns what an attack found before, whatever the weights are."""

    eps = 0.1

    def __init__(self, saved):
        self.saved = list(saved)

    def __call__(self, logits_fn, images, labels, seeds):
        return torch.stack([self.saved[int(seed) - 11] for seed in seeds])


def quadratic():
    """Two tasks with supports ½(θ-a)ᵀA(θ-a) and queries ½(θ-b)ᵀB(θ-b)."""
    torch.manual_seed(0)
    half = torch.randn(2, 2, 4, 4, dtype=torch.float64)
    A, B = (m @ m.mT / 4 + 0.1 * torch.eye(4, dtype=torch.float64) for m in half)
    a, b, theta = torch.randn(3, 2, 4, dtype=torch.float64)
    return A, B, a, b, theta[:1].expand(2, 4)


@pytest.mark.parametrize('steps', STEPS)
@pytest.mark.parametrize('first_order', [False, True])
def test_gradient_of_quadratic_tasks_in_closed_form(steps, first_order):
    A, B, a, b, start = quadratic()
    lr = 0.07
    root = start.clone().requires_grad_()

    def value(matrix, center, theta):
        d = theta - center
        return 0.5 * torch.einsum('ti,tij,tj->t', d, matrix, d)

    adapted = adapt(lambda w: value(A, a, w['theta']), {'theta': root}, lr, steps, first_order)['theta']
    (grad,) = torch.autograd.grad(value(B, b, adapted).sum(), root)

    power = torch.linalg.matrix_power(torch.eye(4, dtype=torch.float64) - lr * A, steps)
    expected = a + torch.einsum('tij,tj->ti', power, start - a)
    torch.testing.assert_close(adapted.detach(), expected, rtol=0, atol=1e-12)
    outer = torch.einsum('tij,tj->ti', B, expected - b)
    if not first_order:
        outer = torch.einsum('tji,tj->ti', power, outer)
    assert (grad - outer).abs().max() < 1e-10


@pytest.mark.parametrize('engine', ['loop', 'vmap'])
def test_steps_done_again_give_the_same_gradient(build, episode, meta_gradient, engine):
    plain = meta_gradient(build(engine=engine), episode)
    again = meta_gradient(build(engine=engine, checkpoint_steps=True), episode)
    for name, grad in plain.items():
        torch.testing.assert_close(again[name], grad, rtol=0, atol=1e-12)


def test_steps_done_again_draw_the_same_dropout():
    def gradient(checkpoint):
        torch.manual_seed(0)
        weight = torch.linspace(-1, 1, 8).requires_grad_()
        adapted = adapt(
            lambda w: F.dropout(w['w'].sin(), 0.5).square()[None].sum(1), {'w': weight}, 0.3, 3, checkpoint=checkpoint
        )
        return torch.autograd.grad(adapted['w'].cos().sum(), weight)[0]

    torch.testing.assert_close(gradient(True), gradient(False))


def test_steps_done_again_cast_as_they_did_wherever_the_backward_pass_runs():
    """A GPU's runs in a thread that does not know the precision; here it runs outside of autocast."""

    def gradient(checkpoint):
        torch.manual_seed(0)
        weight, x = torch.randn(1, 6, 6).requires_grad_(), torch.randn(9, 6)
        with torch.autocast('cpu', torch.bfloat16):
            adapted = adapt(
                lambda w: (x @ w['w'][0]).sin().square().mean()[None], {'w': weight}, 0.3, 3, checkpoint=checkpoint
            )
        return torch.autograd.grad(adapted['w'].cos().sum(), weight)[0]

    torch.testing.assert_close(gradient(True), gradient(False))


def test_weight_that_the_loss_does_not_use_stays():
    weights = {name: torch.ones(1, 2, requires_grad=True) for name in ('used', 'unused')}
    adapted = adapt(lambda w: w['used'].square().sum(1), weights, 0.1, 2)
    assert adapted['unused'] is weights['unused']
    assert adapted['used'].allclose(torch.full((1, 2), 0.64))


@pytest.mark.parametrize('first_order', [False, True])
def test_vmap_gives_the_gradient_of_the_loop(build, episode, meta_gradient, first_order):
    loop = meta_gradient(build(engine='loop', first_order=first_order), episode)
    other = meta_gradient(build(engine='vmap', first_order=first_order), episode)
    for name, grad in loop.items():
        assert (grad - other[name]).abs().max() < 1e-6, name


def test_orders_differ(build, episode, meta_gradient):
    second = meta_gradient(build(), episode)
    first = meta_gradient(build(first_order=True), episode)
    assert max((second[name] - first[name]).abs().max().item() for name in second) > 1e-3


@pytest.mark.parametrize('chunk_size', [1, 2])
def test_chunks_change_nothing(build, episode, meta_gradient, chunk_size):
    whole = meta_gradient(build(engine='vmap'), episode)
    parts = meta_gradient(build(engine='vmap', chunk_size=chunk_size), episode)
    for name, grad in whole.items():
        torch.testing.assert_close(parts[name], grad, rtol=0, atol=1e-12)


def saved_attack(model, episode) -> FixedAttack:
    """What the model's attack finds at its weights."""
    found = []
    for part in model._chunks(episode):
        adapted = model._adapt(model._expand(model.learner.weights(), 1), part['support'], part)
        found.append(model.attacked(model.attack, adapted, part['query'], part['query_labels'], part)[0])
    return FixedAttack(found)


def test_attack_is_a_constant_of_the_outer_gradient(build, episode, meta_gradient):
    model = build(engine='loop')
    moving = meta_gradient(model, episode)
    model.attack = saved_attack(model, episode)
    fixed = meta_gradient(model, episode)
    for name, grad in moving.items():
        assert torch.equal(grad, fixed[name])


@pytest.mark.slow
def test_gradient_is_that_of_finite_differences(build, episode, meta_gradient):
    model = build(engine='loop')
    model.attack = saved_attack(model, episode)
    grads = meta_gradient(model, episode)
    step = 1e-6
    for name, weight in model.learner.classifier.named_parameters():
        flat = weight.data.view(-1)
        for place in range(0, flat.numel(), max(1, flat.numel() // 3)):
            values = []
            for sign in (1, -1):
                flat[place] += sign * step
                values.append(model(**episode, mode='loss')['loss_meta'].item())
                flat[place] -= sign * step
            slope = (values[0] - values[1]) / (2 * step)
            assert abs(slope - grads[name].view(-1)[place].item()) < 1e-6, name


def test_carried_gradient_is_scaled_like_any_other():
    weight = torch.ones(2, requires_grad=True)
    loss = CarryGradient.apply(torch.tensor(7.0), (torch.tensor([1.0, 2.0]),), weight)
    assert loss.item() == 7
    (3 * loss).backward()
    assert weight.grad.tolist() == [3, 6]


def test_task_cross_entropy_is_the_mean_of_each_task():
    logits, labels = torch.randn(2, 5, 3), torch.randint(3, (2, 5))
    expected = [F.cross_entropy(a, b).item() for a, b in zip(logits, labels, strict=True)]
    assert task_cross_entropy(logits, labels).tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(head=dict(loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1))), 'LabelSmoothLoss'),
        (dict(head=dict(loss=dict(type='CrossEntropyLoss', class_weight=[1.0, 2.0, 1.0]))), 'plain cross-entropy'),
        (dict(head=dict(type='ArcFaceClsHead')), 'ArcFaceClsHead.loss'),
        (dict(train_cfg=dict(augments=dict(type='Mixup', alpha=0.2))), 'Mixup'),
    ],
)
def test_settings_that_episodes_would_ignore_are_refused(build, network, change, message):
    for name, value in change.items():
        network[name] = {**network.get(name, {}), **value}
    with pytest.raises(ValueError, match=message):
        build()


def test_head_with_two_features_for_an_image_is_refused(build, network):
    network['head'] = dict(type='DeiTClsHead', num_classes=3, in_channels=16)
    with pytest.raises(ValueError, match='two features for an image.*VisionTransformerClsHead'):
        build()


def test_unknown_engine_and_missing_head_are_refused():
    with pytest.raises(ValueError, match="got 'fast'"):
        Learner(nn.Linear(1, 1), 'fast')
    with pytest.raises(ValueError, match='no head'):
        Learner(nn.Linear(1, 1))


def test_attack_of_all_tasks_is_that_of_each(build, episode):
    model = build(engine='vmap')
    weights = model._expand({k: v.detach() for k, v in model.learner.weights().items()}, 3)
    attack = LinfAttack(eps=0.1, steps=3)
    whole = model.attacked(attack, weights, episode['query'], episode['query_labels'], episode)
    for task in range(3):
        part = {name: value[task : task + 1] for name, value in episode.items()}
        one = {name: value[task : task + 1] for name, value in weights.items()}
        alone = model.attacked(attack, one, part['query'], part['query_labels'], part)
        torch.testing.assert_close(alone[0], whole[task])
