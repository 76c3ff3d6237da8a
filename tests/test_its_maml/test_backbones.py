import pytest
import torch
from mmpretrain.registry import MODELS
from torch import nn
from torch.nn import functional as F

from mmplugins.its_maml import Conv4, ResNet12, use_batch_statistics

NETWORKS = {
    # Published: 32,901 weights with the head of 5 classes, 800 features.
    'mini-imagenet': (dict(), (3, 84, 84), 800),
    'cifar-fs': (
        dict(channels=(16, 16, 32, 32), strides=(2, 1, 1, 1), padding=1, pool_strides=(0, 2, 0, 2)),
        (3, 32, 32),
        512,
    ),
    'omniglot': (
        dict(in_channels=1, channels=64, kernel_sizes=(3, 3, 3, 2), strides=(2, 2, 2, 1), pool_strides=(0, 0, 0, 0)),
        (1, 28, 28),
        64,
    ),
}  # fmt: skip


@pytest.mark.parametrize('name', list(NETWORKS))
def test_features_are_those_of_the_code(name):
    arguments, shape, features = NETWORKS[name]
    assert Conv4(**arguments)(torch.rand(2, *shape))[0].shape == (2, features)


def test_number_of_weights_is_that_of_the_code():
    weights = sum(weight.numel() for weight in Conv4().parameters())
    assert weights + 800 * 5 + 5 == 32901


@pytest.mark.parametrize('norm_first', [False, True])
def test_order_of_norm_and_relu(norm_first):
    torch.manual_seed(0)
    out = Conv4(in_channels=1, channels=8, padding=1, pool_strides=(2, 2, 2, 0), norm_first=norm_first)(
        torch.rand(8, 1, 16, 16)
    )[0]
    assert (out.min() == 0) == norm_first  # a norm behind the ReLU makes values negative again


def test_statistics_are_those_of_the_batch_always():
    net = Conv4(in_channels=1, channels=4)
    x = torch.rand(3, 1, 84, 84)
    net.train()
    trained = net(x)[0]
    net.eval()
    assert torch.equal(net(x)[0], trained)
    assert not [name for name, _ in net.named_buffers()]


def test_initialization_is_kaiming_of_the_inputs():
    torch.manual_seed(0)
    net = Conv4(channels=64)
    net.init_weights()
    weight = net.blocks[2].conv.weight
    assert weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)
    assert net.blocks[2].conv.bias.abs().max() == 0


def test_lengths_that_differ_are_named():
    with pytest.raises(ValueError, match='differ in length.*pool_strides'):
        Conv4(pool_strides=(2, 2))


def test_resnet12_is_four_blocks_of_three_convolutions():
    net = ResNet12(channels=(4, 8, 12, 16))
    assert net(torch.rand(2, 3, 84, 84))[0].shape == (2, 16, 5, 5)
    assert sum(isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3) for m in net.modules()) == 12


def test_running_statistics_are_dropped_and_reported():
    net = MODELS.build(dict(type='mmpretrain.ResNet_CIFAR', depth=18, stem_channels=4, base_channels=4))
    changed = use_batch_statistics(net)
    assert len(changed) == 20
    assert not [name for name, _ in net.named_buffers()]
    x = torch.rand(4, 3, 8, 8)
    net.train()
    trained = net(x)[0]
    net.eval()
    assert torch.equal(net(x)[0], trained)
    assert use_batch_statistics(net) == []


def test_instance_norm_replaces_every_batch_norm():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.BatchNorm2d(4)))
    assert use_batch_statistics(net, 'instance') == ['1.0']
    x = torch.rand(5, 3, 6, 6)
    torch.testing.assert_close(net(x)[:1], net(x[:1]))
    torch.testing.assert_close(net(x), F.instance_norm(net[0](x)))


def test_instance_norm_of_one_position_is_refused():
    """It would be 0 for every image: the last block of the Omniglot network has 1x1, a neck's norm has no map."""
    arguments, shape, _ = NETWORKS['omniglot']
    net = Conv4(**arguments)
    use_batch_statistics(net, 'instance')
    with pytest.raises(ValueError, match=r'blocks.3.norm sees one position a channel, \(2, 64, 1, 1\)'):
        net(torch.rand(2, *shape))
    neck = nn.Sequential(nn.BatchNorm1d(4))
    use_batch_statistics(neck, 'instance')
    with pytest.raises(ValueError, match=r'0 sees one position a channel, \(5, 4\)'):
        neck(torch.rand(5, 4))


class Activated(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x).relu()


def test_instance_norm_keeps_pretrained_weights_and_what_is_behind():
    """timm has its activation in the class of its batch norm."""
    timm = pytest.importorskip('timm.layers')
    torch.manual_seed(0)
    net = nn.Sequential(nn.BatchNorm2d(4), timm.BatchNormAct2d(4, act_layer=nn.Hardswish))
    for norm in net:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    plain, activated = (dict(weight=norm.weight.clone(), bias=norm.bias.clone()) for norm in net)
    names = list(net.state_dict())
    use_batch_statistics(net, 'instance')
    x = torch.rand(5, 4, 6, 6)
    expected = F.hardswish(F.instance_norm(F.instance_norm(x, **plain), **activated))
    torch.testing.assert_close(net(x), expected)
    assert list(net.state_dict()) == [name for name in names if name.endswith(('weight', 'bias'))]


def test_instance_norm_does_not_drop_what_a_batch_norm_does_beside():
    with pytest.raises(ValueError, match="0 is a Activated, which does more.*norm='task_batch'"):
        use_batch_statistics(nn.Sequential(Activated(4)), 'instance')


def test_synchronized_and_unknown_norms_are_refused():
    with pytest.raises(ValueError, match='0 is a SyncBN'):
        use_batch_statistics(nn.Sequential(nn.SyncBatchNorm(2)))
    with pytest.raises(ValueError, match="got 'layer'"):
        use_batch_statistics(nn.Sequential(), 'layer')
