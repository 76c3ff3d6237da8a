"""The objective against versions of it written with deep copies and plain modules."""

import copy

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config

from mmplugins.its_maml import RobustMAML


def brute_force(model, episode, clean_weight=1.0, reg_weight=0.0, steps=2):
    """Mean gradient over tasks of clean and attacked cross-entropy, first order, one copy of the network a task."""
    total = None
    for task in range(len(episode['support'])):
        net = copy.deepcopy(model.learner.classifier)
        x, y, support, support_y = (
            episode[name][task] for name in ('query', 'query_labels', 'support', 'support_labels')
        )
        for _ in range(steps):
            net.zero_grad()
            F.cross_entropy(net(support), support_y).backward()
            with torch.no_grad():
                for weight in net.parameters():
                    weight -= model.inner_lr * weight.grad
        net.zero_grad()
        loss = clean_weight * F.cross_entropy(net(x), y)
        if reg_weight:
            generator = torch.Generator().manual_seed(int(episode['seed'][task]))
            noise = torch.rand(*x.shape, generator=generator) * 2 - 1
            start = (0.1 * noise.double()).requires_grad_()
            (grad,) = torch.autograd.grad(F.cross_entropy(net((x + start).clamp(0, 1)), y), start)
            delta = (start.detach() + 1.25 * 0.1 * grad.sign()).clamp(-0.1, 0.1)
            loss = loss + reg_weight * F.cross_entropy(net((x + delta).clamp(0, 1)), y)
        loss.backward()
        grads = {name: weight.grad / len(episode['support']) for name, weight in net.named_parameters()}
        total = grads if total is None else {name: total[name] + grads[name] for name in grads}
    return total


def assert_same(found, expected):
    for name, grad in expected.items():
        torch.testing.assert_close(found[name], grad, rtol=0, atol=1e-10, msg=lambda text, name=name: f'{name}: {text}')


def test_no_inner_steps_is_joint_training(build, episode, meta_gradient):
    model = build(reg_weight=0.0)
    model.train_steps = 0
    assert_same(meta_gradient(model, episode), brute_force(model, episode, steps=0))


def test_without_adversarial_term_it_is_maml(build, episode, meta_gradient):
    model = build(reg_weight=0.0, first_order=True)
    assert_same(meta_gradient(model, episode), brute_force(model, episode))
    without = build(reg_weight=0.0, first_order=True)
    without.attack = None
    assert_same(meta_gradient(without, episode), meta_gradient(model, episode))


def test_with_equal_shots_it_is_r_maml(build, episode, meta_gradient):
    model = build(reg_weight=0.7, first_order=True)
    assert_same(meta_gradient(model, episode), brute_force(model, episode, reg_weight=0.7))


def test_aq_sees_attacked_queries_only(build, episode, meta_gradient):
    model = build(clean_weight=0.0, first_order=True)
    assert_same(meta_gradient(model, episode), brute_force(model, episode, clean_weight=0.0, reg_weight=1.0))
    assert 'clean_ce' not in model(**episode, mode='loss')


def test_second_order_is_autograd_through_the_steps(build, episode, meta_gradient):
    model = build(reg_weight=0.0)
    total = None
    names = [name for name, _ in model.learner.classifier.named_parameters()]
    for task in range(3):
        net = model.learner.classifier
        weights = list(net.parameters())
        current = dict(zip(names, weights, strict=True))
        for _ in range(2):
            out = torch.func.functional_call(net, current, (episode['support'][task],))
            loss = F.cross_entropy(out, episode['support_labels'][task])
            grads = torch.autograd.grad(loss, list(current.values()), create_graph=True)
            current = {n: w - 0.1 * g for (n, w), g in zip(current.items(), grads, strict=True)}
        out = torch.func.functional_call(net, current, (episode['query'][task],))
        grads = torch.autograd.grad(F.cross_entropy(out, episode['query_labels'][task]) / 3, weights)
        total = list(grads) if total is None else [a + b for a, b in zip(total, grads, strict=True)]
    assert_same(meta_gradient(model, episode), dict(zip(names, total, strict=True)))


def test_trades_adds_the_divergence(build, episode):
    attack = dict(type='LinfAttack', eps=0.1, objective='kl')
    model = build(engine='vmap')
    model.reg, model.attack = 'trades', build().attack.__class__(**{k: v for k, v in attack.items() if k != 'type'})
    weights = model._expand(model.learner.weights(), 3)
    out = model.objective(weights, episode)
    adapted = model._adapt(weights, episode['support'], episode)
    attacked = model.attacked(model.attack, adapted, episode['query'], episode['query_labels'], episode)
    clean = model.learner.run(adapted, episode['query']).softmax(-1)
    other = model.learner.run(adapted, attacked).softmax(-1)
    divergence = (clean * (clean / other).log()).sum(-1).mean(-1)
    torch.testing.assert_close(out['adv_kl'], divergence)
    torch.testing.assert_close(out['total'], out['clean_ce'] + out['adv_kl'])
    assert (divergence > 0).all()


def test_adml_crosses_copies_and_queries(build, episode):
    model = build(engine='vmap', support_attack=dict(type='LinfAttack', eps=0.1, random_start=False), crossed=True)
    weights = model._expand(model.learner.weights(), 3)
    support = model.attacked(model.support_attack, weights, episode['support'], episode['support_labels'], episode)
    assert (support - episode['support']).abs().max() > 0.05
    from_clean = model._adapt(weights, episode['support'], episode)
    from_attacked = model._adapt(weights, support, episode)
    query = model.attacked(model.attack, from_clean, episode['query'], episode['query_labels'], episode)
    logits = model.learner.run(from_attacked, episode['query']), model.learner.run(from_clean, query)
    expected = sum(
        F.cross_entropy(each.flatten(0, 1), episode['query_labels'].flatten(), reduction='none').view(3, -1).mean(1)
        for each in logits
    )
    torch.testing.assert_close(model.objective(weights, episode)['total'], expected)


def test_support_attack_changes_the_inner_loop(build, episode, meta_gradient):
    plain = meta_gradient(build(reg_weight=0.0), episode)
    attacked = meta_gradient(build(reg_weight=0.0, support_attack=dict(type='LinfAttack', eps=0.1)), episode)
    assert any((plain[name] - attacked[name]).abs().max() > 1e-4 for name in plain)


def test_loss_leaves_nothing_behind(build, episode):
    model = build()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    model.train()
    model(**episode, mode='loss')
    model(**episode, mode='predict')
    assert all(weight.grad is None for weight in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert model.training


@pytest.fixture
def tested(build):
    attacks = dict(fgsm=dict(type='LinfAttack', eps=0.1), pgd=dict(type='LinfAttack', eps=0.1, steps=4))
    return build(test_attacks=attacks, with_features=True)


def test_prediction_works_without_grad_and_in_any_order(tested, episode):
    with torch.no_grad():
        forward = tested(**episode, mode='predict')
        order = [2, 0, 1]
        other = tested(**{name: value[order] for name, value in episode.items()}, mode='predict')
    assert len(forward) == 3
    for place, task in enumerate(order):
        for name in ('clean', 'fgsm', 'pgd', 'labels'):
            assert torch.equal(other[place].get(name), forward[task].get(name)), name
    assert forward[0].clean_features.shape == forward[0].noise.shape == (12, 16)
    assert not forward[0].clean_features.requires_grad


def test_prediction_adapts_as_plain_gradient_descent(tested, episode):
    net = copy.deepcopy(tested.learner.classifier)
    for _ in range(3):
        net.zero_grad()
        F.cross_entropy(net(episode['support'][1]), episode['support_labels'][1]).backward()
        with torch.no_grad():
            for weight in net.parameters():
                weight -= 0.1 * weight.grad
    expected = net(episode['query'][1])
    torch.testing.assert_close(tested(**episode)[1], expected.detach())
    assert torch.equal(tested(**episode, mode='predict')[1].clean, expected.argmax(-1))


def test_adaptation_helps(tested, episode):
    def right() -> float:
        tasks = tested(**episode, mode='predict')
        return sum((task.clean == task.labels).double().mean().item() for task in tasks) / 3

    tested.test_steps = 0
    before = right()
    tested.test_steps = 20
    assert before < 0.5 and right() > before + 0.3  # chance is a third


def host_network(**backbone) -> dict:
    return dict(
        type='ImageClassifier',
        data_preprocessor=dict(type='ClsDataPreprocessor', mean=[100.0, 110, 120], std=[50.0, 60, 70], to_rgb=True),
        backbone=dict(type='ResNet_CIFAR', depth=18, stem_channels=4, base_channels=4, **backbone),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=3, in_channels=32),
    )


@pytest.mark.slow
def test_any_backbone_of_the_host_learns(episode, meta_gradient):
    with pytest.warns(UserWarning, match='20 batch norms.*transductive'):
        model = RobustMAML(host_network(), train_steps=1, attack=dict(type='LinfAttack', eps=0.1)).double()
    colored = {**episode, 'support': episode['support'].expand(-1, -1, 3, -1, -1)}
    colored['query'] = episode['query'].expand(-1, -1, 3, -1, -1)
    loop = meta_gradient(model, colored)
    assert all(grad.isfinite().all() and grad.abs().max() > 0 for grad in loop.values())
    model.learner.engine = 'vmap'
    for name, grad in meta_gradient(model, colored).items():
        assert (grad - loop[name]).abs().max() < 1e-6 * max(1, loop[name].abs().max()), name


def test_mean_and_std_of_the_host_are_applied_inside():
    with pytest.warns(UserWarning):
        model = RobustMAML(host_network(), reg_weight=0.0)
    host = model.learner.classifier
    images = torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8)
    expected = host(host.data_preprocessor(dict(inputs=images))['inputs'])
    torch.testing.assert_close(model.learner(images / 255), expected, rtol=1e-4, atol=1e-4)


def test_instance_norm_predicts_each_image_alone():
    model = RobustMAML(host_network(), reg_weight=0.0, norm='instance')
    images = torch.rand(4, 3, 32, 32)
    torch.testing.assert_close(model.learner(images)[:1], model.learner(images[:1]), rtol=1e-4, atol=1e-5)


def test_frozen_weights_stay_out_of_the_inner_loop(build, episode, meta_gradient):
    model = build()
    model.learner.classifier.backbone.blocks[0].requires_grad_(False)
    assert not any(name.startswith('backbone.blocks.0') for name in model.learner.weights())
    model(**episode, mode='loss')['loss_meta'].backward()
    assert model.learner.classifier.backbone.blocks[0].conv.weight.grad is None
    assert model.learner.classifier.head.fc.weight.grad is not None


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(attack=None), "needs an attack=dict"),
        (dict(reg='kl'), "reg must be 'ce' or 'trades'"),
        (dict(clean_weight=0.0, reg_weight=0.0), 'weights of the losses'),
        (dict(clean_weight=-1.0), 'weights of the losses'),
        (dict(crossed=True), 'needs a support_attack'),
        (dict(train_steps=-1), 'train_steps=-1'),
        (dict(chunk_size=0), 'chunk_size=0'),
        (dict(test_attacks=dict(clean=dict(type='LinfAttack', eps=0.1))), r"may not be called \['clean'\]"),
        (dict(norm='layer'), "got 'layer'"),
        (dict(engine='jit'), "got 'jit'"),
    ],
)  # fmt: skip
def test_contradictions_are_refused(network, arguments, message):
    with pytest.raises(ValueError, match=message):
        RobustMAML(**{**dict(network=network, attack=dict(type='LinfAttack', eps=0.1)), **arguments})


def test_unknown_mode_is_refused(build, episode):
    with pytest.raises(ValueError, match="got 'train'"):
        build()(**episode, mode='train')


def test_description_names_order_and_attack(network):
    text = RobustMAML(network, attack=dict(type='LinfAttack', eps=0.1), first_order=True).describe()
    assert text.startswith('first-order') and 'eps=0.1' in text
    assert RobustMAML(network, reg_weight=0.0).describe().startswith('second-order')


def test_config_is_not_changed_by_building(network):
    cfg = Config(dict(model=dict(network=network, reg_weight=0.0)))
    before = copy.deepcopy(cfg.to_dict())
    RobustMAML(**copy.deepcopy(cfg.model))
    assert cfg.to_dict() == before
