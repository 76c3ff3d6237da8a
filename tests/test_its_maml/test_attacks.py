import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmplugins.its_maml import LinfAttack
from mmplugins.its_maml.attacks import task_kl, unit_noise

ATTACKS = {
    'fgsm_rs': dict(steps=1),
    'fgsm': dict(steps=1, random_start=False),
    'pgd': dict(steps=7, step_size=0.02),
    'trades': dict(steps=2, objective='kl'),
}


@pytest.fixture
def task():
    """Logits of a small network, images with many pixels at 0 and 1, labels, seeds."""
    torch.manual_seed(1)
    net = nn.Sequential(nn.Flatten(), nn.Linear(18, 12), nn.Tanh(), nn.Linear(12, 3)).requires_grad_(False)
    images = (torch.rand(2, 6, 2, 3, 3) * 1.6 - 0.3).clamp(0, 1)

    def logits(x):
        return net(x.flatten(0, 1)).unflatten(0, x.shape[:2])

    return logits, images, logits(images).argmax(-1), torch.tensor([4, 5])


@pytest.mark.parametrize('seed', range(4))
@pytest.mark.parametrize('name', list(ATTACKS))
def test_stays_in_the_ball_and_in_the_image(task, name, seed):
    logits, images, labels, seeds = task
    attacked = LinfAttack(eps=0.06, **ATTACKS[name])(logits, images, labels, seeds + seed)
    assert (attacked - images).abs().max() <= 0.06 + 1e-6
    assert attacked.min() >= 0 and attacked.max() <= 1
    assert (attacked - images).abs().max() > 0.03
    assert not attacked.requires_grad


def test_no_radius_is_no_attack(task):
    logits, images, labels, seeds = task
    attacked = LinfAttack(eps=0, steps=5)(logits, images, labels, seeds)
    assert torch.equal(logits(attacked), logits(images))


def test_loss_grows_and_more_steps_grow_it_more(task):
    logits, images, labels, seeds = task

    def loss(x):
        return F.cross_entropy(logits(x).flatten(0, 1), labels.flatten()).item()

    fgsm = LinfAttack(eps=0.2)(logits, images, labels, seeds)
    pgd = LinfAttack(eps=0.2, steps=20)(logits, images, labels, seeds)
    assert loss(images) < loss(fgsm) <= loss(pgd)


def test_one_step_is_the_training_attack_of_r_maml(task):
    """MetaAdv's metafgsm.py, line by line: clip, gradient of the noise, clip to the ball, clip to the image."""
    net, images, labels, seeds = task
    images, eps = images.double(), 10 / 255

    def logits(x):
        return net(x.float()).double()  # the network of the fixture has float weights; the cast is part of the graph

    noise = (eps * unit_noise(seeds, images.shape[1:]).double()).requires_grad_()
    start = (images + noise).clamp(0, 1)
    F.cross_entropy(logits(start).flatten(0, 1), labels.flatten()).backward()
    outside = (images + noise.detach() - start.detach()).abs() > 0
    assert outside.double().mean() > 0.1 and (noise.grad[outside] == 0).all()
    delta = (noise.detach() + 1.25 * eps * noise.grad.sign()).clamp(-eps, eps)
    found = LinfAttack(eps=eps)(logits, images, labels, seeds)
    torch.testing.assert_close(found, (images + delta).clamp(0, 1), rtol=0, atol=1e-12)


def test_several_steps_are_the_test_attack_of_r_maml(task):
    """MetaAdv's attack.py: the start is not clipped before its gradient is taken."""
    net, images, labels, seeds = task
    images, eps, size = images.double(), 8 / 255, 2 / 255

    def logits(x):
        return net(x.float()).double()

    delta = eps * unit_noise(seeds, images.shape[1:]).double()
    for _ in range(10):
        x = (images + delta).requires_grad_()
        (grad,) = torch.autograd.grad(F.cross_entropy(logits(x).flatten(0, 1), labels.flatten()), x)
        delta = ((x.detach() + size * grad.sign()).clamp(0, 1) - images).clamp(-eps, eps)
    found = LinfAttack(eps=eps, steps=10, step_size=size)(logits, images, labels, seeds)
    torch.testing.assert_close(found, (images + delta).clamp(0, 1), rtol=0, atol=1e-12)


def test_of_a_linear_network_the_corner_is_found(task):
    _, images, _, seeds = task
    weight = torch.randn(18)

    def logits(x):
        margin = x.flatten(2) @ weight
        return torch.stack([margin, -margin], -1)

    labels = torch.zeros(2, 6, dtype=torch.long)
    found = LinfAttack(eps=0.1, steps=20)(logits, images, labels, seeds)
    torch.testing.assert_close(found, (images - 0.1 * weight.view(2, 3, 3).sign()).clamp(0, 1))


def test_noise_is_of_the_task_alone():
    random = torch.get_rng_state()
    noise = unit_noise([7, 8], (3, 4))
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(unit_noise([8], (3, 4))[0], noise[1])
    assert not torch.equal(noise[0], noise[1])
    assert noise.abs().max() <= 1 and noise.min() < -0.5 and noise.max() > 0.5


def test_works_without_grad(task):
    logits, images, labels, seeds = task
    attack = LinfAttack(eps=0.1, steps=2)
    with torch.no_grad():
        found = attack(logits, images, labels, seeds)
    assert torch.equal(found, attack(logits, images, labels, seeds))


def test_divergence_is_that_of_torch():
    a, b = torch.randn(2, 1, 4, 3)
    expected = F.kl_div(b[0].log_softmax(-1), a[0].softmax(-1), reduction='batchmean')
    torch.testing.assert_close(task_kl(a, b)[0], expected)
    assert task_kl(a, a).abs().max() < 1e-6


def test_default_steps_are_those_of_the_code():
    assert LinfAttack(eps=0.08).step_size == pytest.approx(0.1)
    assert LinfAttack(eps=8 / 255, steps=10).step_size == pytest.approx(2 / 255)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(eps=8), 'write 8 / 255'),
        (dict(eps=-0.1), 'must be in'),
        (dict(eps=0.1, steps=0), 'at least one step'),
        (dict(eps=0.1, objective='dlr'), "got 'dlr'"),
        (dict(eps=0.1, objective='kl', random_start=False), 'needs random_start'),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        LinfAttack(**arguments)
