import builtins
import copy
import sys
import time
import types

import numpy as np
import pytest
import torch
from torch import nn

from mmplugins.its_maml import FoolboxAttack, LinfAttack, TorchAttack
from mmplugins.its_maml.external_attacks import OneTaskAttack, TaskNetwork


@pytest.fixture
def task():
    torch.manual_seed(1)
    net = nn.Sequential(nn.Flatten(), nn.Linear(27, 12), nn.Tanh(), nn.Linear(12, 5)).requires_grad_(False)

    def logits(x):
        return net(x.flatten(0, 1)).unflatten(0, x.shape[:2])

    images = torch.rand(1, 8, 3, 3, 3)
    return logits, images, logits(images).argmax(-1), torch.tensor([4])


def test_own_pgd_is_that_of_torchattacks(task):
    pytest.importorskip('torchattacks')
    theirs = TorchAttack('PGD', eps=0.1, alpha=0.025, steps=10, random_start=False)(*task)
    ours = LinfAttack(eps=0.1, steps=10, step_size=0.025, random_start=False)(*task)
    assert (theirs - ours).abs().max() <= 1e-6


def test_auto_attack_is_not_weaker_than_pgd(task):
    pytest.importorskip('torchattacks')
    logits, images, labels, _ = task
    robust = [
        (logits(attack(*task)).argmax(-1) == labels).double().mean()
        for attack in (TorchAttack('AutoAttack', eps=0.1), LinfAttack(eps=0.1, steps=10))
    ]
    assert robust[0] <= robust[1]


def test_foolbox_stays_in_the_ball(task):
    pytest.importorskip('foolbox')
    found = copy.deepcopy(FoolboxAttack('LinfPGD', eps=0.1))(*task)
    assert (found - task[1]).abs().max() <= 0.1 + 1e-6


# All of torchattacks 3.5.1 that are bounded in the max norm.
LINF = (
    'FGSM BIM RFGSM PGD EOTPGD FFGSM TPGD MIFGSM UPGD APGD APGDT DIFGSM TIFGSM Jitter NIFGSM PGDRS SINIFGSM VMIFGSM '
    'VNIFGSM SPSA FAB AutoAttack'
).split()


@pytest.mark.slow
@pytest.mark.parametrize('name', LINF)
def test_attacks_of_torchattacks_run_with_five_ways(task, name):
    pytest.importorskip('torchattacks')
    found = TorchAttack(name, eps=0.1)(*task)
    assert found.shape == task[1].shape and found.isfinite().all()
    assert 0 < (found - task[1]).abs().max() <= 0.1 + 1e-6


class Targeted:
    """As torchattacks' attacks that aim at other classes: ten of them, unless told."""

    def __init__(self, model, eps=8 / 255, n_classes=10):
        self.model, self.eps, self.n_classes = model, eps, n_classes

    def __call__(self, images, labels):
        aims = torch.arange(self.n_classes) % self.n_classes
        self.model(images)[:, aims]  # out of range with too many
        return images + self.eps


class Seeded:
    """As torchattacks' AutoAttack, which seeds its parts with the time unless told."""

    def __init__(self, model, seed=None):
        self.seed = time.time() if seed is None else seed

    def __call__(self, images, labels):
        return images + self.seed


class Several:
    def __init__(self, attacks, verbose=False):
        pass


@pytest.fixture
def library(monkeypatch):
    """A torchattacks of three attacks."""
    module = types.SimpleNamespace(Targeted=Targeted, Seeded=Seeded, MultiAttack=Several, __version__='0')
    monkeypatch.setitem(sys.modules, 'torchattacks', module)


def test_attack_knows_the_number_of_ways(library, task):
    found = TorchAttack('Targeted', eps=0.1)(*task)
    torch.testing.assert_close(found, task[1] + 0.1)


def test_attack_with_a_seed_of_its_own_takes_that_of_the_episode(library, task):
    assert torch.equal(TorchAttack('Seeded')(*task), task[1] + 4)
    assert torch.equal(TorchAttack('Seeded', seed=2)(*task), task[1] + 2)


def test_model_with_an_attack_of_foolbox_can_be_copied(monkeypatch, build):
    """As mmengine's EMAHook does."""
    library = types.ModuleType('foolbox')
    library.attacks = types.SimpleNamespace(LinfPGD=Constant)
    library.PyTorchModel = lambda network, bounds, device: network
    monkeypatch.setitem(sys.modules, 'foolbox', library)
    attacks = dict(pgd=dict(type='FoolboxAttack', name='LinfPGD'))
    assert copy.deepcopy(build(test_attacks=attacks)).test_attacks['pgd'].eps == 8 / 255


def test_attack_that_foolbox_lacks_is_named(monkeypatch):
    library = types.ModuleType('foolbox')
    library.attacks = types.SimpleNamespace(LinfPGD=Constant)
    monkeypatch.setitem(sys.modules, 'foolbox', library)
    with pytest.raises(ValueError, match="foolbox.attacks has no attack 'LinfPDG'"):
        FoolboxAttack('LinfPDG')


class Constant:
    """As foolbox's attacks are made: without a network."""


@pytest.mark.parametrize(
    ('name', 'arguments', 'message'),
    [
        ('Targeted', dict(c=1), 'takes no c'),
        ('MultiAttack', {}, 'needs more than the network'),
        ('Absent', {}, "no attack 'Absent'"),
    ],
)
def test_attacks_that_cannot_be_made_are_named(library, name, arguments, message):
    with pytest.raises(ValueError, match=message):
        TorchAttack(name, **arguments)


@pytest.mark.parametrize(('cls', 'package'), [(TorchAttack, 'torchattacks'), (FoolboxAttack, 'foolbox')])
def test_missing_package_names_the_install_line(monkeypatch, cls, package):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == package:
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, '__import__', without)
    with pytest.raises(ImportError, match=f'pip install.*{package}'):
        cls()


class Noise(OneTaskAttack):
    """Draws from the global generators, as the libraries do."""

    def run(self, network, images, labels, seed):
        assert network(images).shape == (8, 5)
        return images + torch.rand_like(images) + np.random.rand()


def test_adapter_keeps_the_generators_and_depends_on_the_seed(task):
    logits, images, labels, seeds = task
    random, number = torch.get_rng_state(), np.random.RandomState()
    number.set_state(np.random.get_state())
    found = Noise()(logits, images, labels, seeds)
    assert torch.equal(torch.get_rng_state(), random) and np.random.rand() == number.rand()
    assert torch.equal(found, Noise()(logits, images, labels, seeds))
    assert not torch.equal(found, Noise()(logits, images, labels, seeds + 1))


def test_adapter_attacks_one_task(task):
    logits, images, labels, seeds = task
    with pytest.raises(ValueError, match='one task at a time, got 2'):
        Noise()(logits, images.expand(2, -1, -1, -1, -1), labels, seeds)


def test_network_of_a_task_has_a_device(task):
    network = TaskNetwork(task[0])
    assert next(network.parameters()).device.type == 'cpu'
    torch.testing.assert_close(network(task[1][0]), task[0](task[1])[0])
