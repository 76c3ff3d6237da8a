"""ANIL, ProtoNet and Baseline++ against versions of them written with plain modules."""

import copy

import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS

from mmplugins.its_maml.hooks import method_name


@pytest.fixture
def build(network):
    """Build a variant of the tiny network in float64 from a fixed seed."""

    def build(name: str, classes: int = 3, **kwargs):
        torch.manual_seed(3)
        kwargs = dict(inner_lr=0.1, test_steps=3, attack=dict(type='LinfAttack', eps=0.1), **kwargs)
        if name == 'RobustBaselinePlusPlus':
            network['head'] = dict(type='CosineClsHead', num_classes=classes, in_channels=16)
        else:
            kwargs.setdefault('train_steps', 2)
        model = MODELS.build(dict(type=name, network=network, **kwargs))
        model.init_weights()
        return model.double()

    return build


def features(net, images):
    return net.head.pre_logits(net.extract_feat(images))


def anil(net, episode, task, steps, create_graph=False):
    """Logits of the queries after steps on the head alone."""
    weight, bias = net.head.fc.weight, net.head.fc.bias
    for _ in range(steps):
        loss = F.cross_entropy(
            F.linear(features(net, episode['support'][task]), weight, bias), episode['support_labels'][task]
        )
        grads = torch.autograd.grad(loss, (weight, bias), create_graph=create_graph)
        weight, bias = weight - 0.1 * grads[0], bias - 0.1 * grads[1]
    return F.linear(features(net, episode['query'][task]), weight, bias)


def protonet(net, episode, task):
    """Negative squared distances to the means."""
    support, labels = features(net, episode['support'][task]), episode['support_labels'][task]
    means = torch.stack([support[labels == way].mean(0) for way in range(3)])
    return -torch.cdist(features(net, episode['query'][task]), means).square()


@pytest.mark.parametrize('engine', ['loop', 'vmap'])
def test_anil_is_second_order_in_the_head_alone(build, episode, meta_gradient, engine):
    model = build('RobustANIL', reg_weight=0.0, engine=engine)
    net = copy.deepcopy(model.learner.classifier)
    losses = [F.cross_entropy(anil(net, episode, t, 2, True), episode['query_labels'][t]) for t in range(3)]
    (sum(losses) / 3).backward()
    found = meta_gradient(model, episode)
    for name, weight in net.named_parameters():
        torch.testing.assert_close(found[name], weight.grad, rtol=0, atol=1e-10, msg=lambda t, name=name: name + t)


def test_anil_predicts_with_the_adapted_head(build, episode):
    model = build('RobustANIL')
    expected = anil(model.learner.classifier, episode, 1, 3)
    torch.testing.assert_close(model(**episode)[1], expected.detach())


@pytest.mark.parametrize('engine', ['loop', 'vmap'])
def test_protonet_is_softmax_of_distances(build, episode, meta_gradient, engine):
    model = build('RobustProtoNet', reg_weight=0.0, engine=engine)
    net = copy.deepcopy(model.learner.classifier)
    losses = [F.cross_entropy(protonet(net, episode, t), episode['query_labels'][t]) for t in range(3)]
    (sum(losses) / 3).backward()
    found = meta_gradient(model, episode)
    for name, weight in net.backbone.named_parameters():
        torch.testing.assert_close(found[f'backbone.{name}'], weight.grad, rtol=0, atol=1e-10)
    assert found['head.fc.weight'].abs().max() == 0
    logits, expected = model(**episode)[0].log_softmax(-1), protonet(net, episode, 0).log_softmax(-1)
    torch.testing.assert_close(logits, expected.detach())


def test_robust_protonet_adds_the_loss_of_attacked_queries(build, episode):
    model = build('RobustProtoNet', engine='loop')
    net = model.learner.classifier
    out = model(**episode, mode='loss')
    expected = []
    for task in range(3):
        x, y = episode['query'][task], episode['query_labels'][task]
        part = {name: value[task : task + 1] for name, value in episode.items()}
        attacked = model.attacked(model.attack, model.adapt_for_test(part), x[None], y[None], part)[0]
        assert 0 < (attacked - x).abs().max() <= 0.1 + 1e-9
        loss = F.cross_entropy(protonet(net, dict(episode, query={task: attacked}), task), y)
        expected.append(loss + F.cross_entropy(protonet(net, episode, task), y))
    torch.testing.assert_close(out['loss_meta'], sum(expected).detach() / 3)


def test_protonet_takes_other_ways_in_test(build, episode):
    model = build('RobustProtoNet')
    two = {name: value[:, : 4 if 'support' in name else 8] for name, value in episode.items() if name != 'seed'}
    assert model(**two, seed=episode['seed']).shape == (3, 8, 2)
    model.check_ways(2, 9, training=True)
    with pytest.raises(ValueError, match='num_classes=3, but episodes have 2 ways'):
        build('RobustANIL').check_ways(2, 9, training=True)


@pytest.fixture
def named(episode):
    """The episodes with their classes among seven."""
    return dict(episode, classes=torch.tensor([[0, 4, 2], [6, 1, 3], [5, 0, 1]]))


@pytest.mark.parametrize('engine', ['loop', 'vmap'])
def test_baseline_learns_all_classes_and_starts_a_new_head_in_test(build, named, meta_gradient, engine):
    model = build('RobustBaselinePlusPlus', classes=7, reg_weight=0.0, engine=engine)
    net = copy.deepcopy(model.learner.classifier)

    def cosines(images, weight):
        return 10 * F.cosine_similarity(features(net, images)[:, None], weight[None], dim=-1)

    losses = []
    for task in range(3):
        images = torch.cat((named['support'][task], named['query'][task]))
        labels = named['classes'][task][torch.cat((named['support_labels'][task], named['query_labels'][task]))]
        losses.append(F.cross_entropy(cosines(images, net.head.fc.weight), labels))
    (sum(losses) / 3).backward()
    found = meta_gradient(model, named)
    for name, weight in net.named_parameters():
        torch.testing.assert_close(found[name], weight.grad, rtol=0, atol=1e-10, msg=lambda t, name=name: name + t)

    support, labels = named['support'][0], named['support_labels'][0]
    weight = F.normalize(torch.stack([features(net, support)[labels == way].mean(0) for way in range(3)]), dim=-1)
    for _ in range(3):
        (grad,) = torch.autograd.grad(F.cross_entropy(cosines(support, weight), labels), weight)
        weight = weight - 0.1 * grad
    torch.testing.assert_close(model(**named)[0], cosines(named['query'][0], weight).detach())


def test_heads_that_do_not_fit_are_named(build, network):
    with pytest.raises(ValueError, match='num_classes=7, but the training data have 9 classes'):
        build('RobustBaselinePlusPlus', classes=7).check_ways(3, 9, training=True)
    with pytest.raises(ValueError, match='train_steps=0'):
        build('RobustBaselinePlusPlus', train_steps=1)
    with pytest.raises(ValueError, match='checkpoint_steps saves nothing'):
        network['head'] = dict(type='LinearClsHead', num_classes=3, in_channels=16)
        build('RobustANIL', checkpoint_steps=True)
    network['head'] = dict(type='VisionTransformerClsHead', num_classes=3, in_channels=16)
    with pytest.raises(ValueError, match='needs a LinearClsHead, got VisionTransformerClsHead'):
        build('RobustProtoNet')
    network['head'] = dict(type='CosineClsHead', num_classes=3, in_channels=16)
    with pytest.raises(ValueError, match='with a CosineClsHead logits are not distances'):
        build('RobustProtoNet')
    assert build('RobustANIL').base == 'ANIL'


def test_support_is_not_attacked_by_a_head_that_does_not_know_its_ways(build):
    attack = dict(type='LinfAttack', eps=0.1)
    for name in ('RobustProtoNet', 'RobustBaselinePlusPlus'):
        for given in (dict(support_attack=attack), dict(support_attack=attack, crossed=True)):
            with pytest.raises(ValueError, match=f'{name} has no head for the ways.*leave out support_attack'):
                build(name, **given)


def test_anil_is_crossed_as_maml_is(build, episode):
    """Clean queries after the attacked support, attacked queries after the clean one."""
    model = build(
        'RobustANIL', support_attack=dict(type='LinfAttack', eps=0.1), crossed=True, train_steps=3, engine='loop'
    )
    labels = episode['query_labels'].flatten()
    roots = {name: weight[None].expand(3, *weight.shape) for name, weight in model.learner.weights().items()}
    support = model.attacked(model.support_attack, roots, episode['support'], episode['support_labels'], episode)
    on_attacked = dict(episode, support=support)
    query = model.attacked(
        model.attack, model.adapt_for_test(episode), episode['query'], episode['query_labels'], episode
    )
    logits = model(**on_attacked), model(**dict(episode, query=query))
    expected = sum(F.cross_entropy(each.flatten(0, 1), labels) for each in logits)
    torch.testing.assert_close(model(**episode, mode='loss')['loss_meta'], expected)


def test_names_of_the_variants(build):
    assert method_name(build('RobustProtoNet', reg_weight=0.0), 1, 1) == 'ProtoNet'
    assert method_name(build('RobustProtoNet'), 5, 1) == 'ITS-ProtoNet'
    assert method_name(build('RobustANIL'), 1, 1).startswith('R-ANIL (plain')
    assert build('RobustProtoNet').describe().startswith('distances to class means; outer loss')
    assert method_name(build('RobustBaselinePlusPlus', reg_weight=0.0), 1, 1) == 'Baseline++'
