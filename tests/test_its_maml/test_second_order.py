"""Second order through networks of today, against a loop over plain modules and against finite differences."""

import copy

import pytest
import torch
import torch.nn.functional as F

from mmplugins.its_maml import IntrinsicDimensionHook, RobustMAML
from mmplugins.its_maml.hooks import meta_features

VIT = dict(embed_dims=24, num_layers=2, num_heads=3, feedforward_channels=48)
NETWORKS = {
    'conv4': (dict(type='Conv4', channels=4, padding=1, strides=(2, 1, 1, 1), pool_strides=(0, 2, 2, 0)), None, 64),
    'resnet12': (dict(type='ResNet12', channels=(3, 4, 5, 6)), dict(type='GlobalAveragePooling'), 6),
    'vit': (dict(type='VisionTransformer', arch=VIT, img_size=16, patch_size=8), None, 24),
    'timm': (
        dict(type='TIMMBackbone', model_name='convnext_atto', depths=(1, 1, 1, 1), dims=(4, 4, 4, 4)),
        dict(type='GlobalAveragePooling'),
        4,
    ),
}  # fmt: skip


def make(name: str, **kwargs) -> RobustMAML:
    backbone, neck, features = NETWORKS[name]
    if name == 'timm':
        pytest.importorskip('timm')
    torch.manual_seed(0)
    model = RobustMAML(
        dict(
            type='ImageClassifier',
            backbone=dict(backbone),
            neck=neck,
            head=dict(
                type='LinearClsHead',
                num_classes=3,
                in_channels=features,
                init_cfg=dict(type='Normal', layer='Linear', std=0.3),
            ),
        ),
        inner_lr=0.1,
        train_steps=2,
        reg_weight=0.0,
        **kwargs,
    )
    model.init_weights()
    return model.double()


@pytest.fixture
def task() -> dict:
    torch.manual_seed(1)
    return dict(
        support=torch.rand(1, 6, 3, 32, 32).double(),
        support_labels=torch.arange(3).repeat(2)[None],
        query=torch.rand(1, 9, 3, 32, 32).double(),
        query_labels=torch.arange(3).repeat(3)[None],
        seed=torch.tensor([3]),
    )


def by_hand(model: RobustMAML, task: dict) -> dict:
    """Two steps and the query loss as one function, whose gradient autograd finds with attention written out."""
    net = copy.deepcopy(model.learner.classifier)
    current = names = dict(net.named_parameters())

    def loss(weights, images, labels):
        return F.cross_entropy(torch.func.functional_call(net, weights, (images,)), labels)

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        for _ in range(2):
            found = loss(current, task['support'][0], task['support_labels'][0])
            grads = torch.autograd.grad(found, list(current.values()), create_graph=True, allow_unused=True)
            current = {
                name: weight if grad is None else weight - 0.1 * grad
                for (name, weight), grad in zip(current.items(), grads, strict=True)
            }
        found = loss(current, task['query'][0], task['query_labels'][0])
        grads = torch.autograd.grad(found, list(names.values()), allow_unused=True)
    return {name: grad for name, grad in zip(names, grads, strict=True) if grad is not None}


def shrink(name: str, task: dict) -> dict:
    """The vision transformer here takes 16 x 16 pixels."""
    if name == 'vit':
        return dict(task, support=task['support'][..., :16, :16], query=task['query'][..., :16, :16])
    return task


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore:.*batch norms')
@pytest.mark.parametrize('engine', ['loop', 'vmap'])
@pytest.mark.parametrize('name', list(NETWORKS))
def test_gradient_is_that_of_a_loop_by_hand_and_of_finite_differences(name, engine, task):
    model, task = make(name, engine=engine), shrink(name, task)
    model.eval()  # timm's and mmpretrain's drop paths
    model(**task, mode='loss')['loss_meta'].backward()
    weights = dict(model.learner.classifier.named_parameters())
    expected = by_hand(model, task)
    assert len(expected) > 0.9 * len(weights)
    for each, grad in expected.items():
        torch.testing.assert_close(
            weights[each].grad, grad, rtol=1e-8, atol=1e-10, msg=lambda text, each=each: each + text
        )
    flat = max(expected, key=lambda each: expected[each].abs().max())
    place = expected[flat].abs().flatten().argmax().item()
    values = []
    for step in (1e-7, -1e-7):
        weights[flat].data.view(-1)[place] += step
        values.append(model(**task, mode='loss')['loss_meta'].item())
        weights[flat].data.view(-1)[place] -= step
    slope = (values[0] - values[1]) / 2e-7
    assert slope == pytest.approx(expected[flat].flatten()[place].item(), rel=1e-4)


@pytest.mark.parametrize('images', [1, 2, 4, 5, 9])
def test_features_of_any_number_of_images(build, images):
    """Batches of four: none of the sizes leaves an image without others, where batch statistics need them."""
    model = build()
    x = torch.rand(images, 1, 8, 8).double()
    found = meta_features(model, x, batch_size=4)
    parts = x.tensor_split(-(-images // 4))
    torch.testing.assert_close(found, torch.cat([model.learner(part, 'features') for part in parts]))
    assert min(map(len, parts)) >= min(images, 2)


@pytest.mark.filterwarnings('ignore:.*batch norms')
def test_features_where_a_batch_of_one_would_be_refused(omniglot):
    """Conv4 of Omniglot ends in one position: 101 images are 51 and 50, not 100 and 1."""
    from mmplugins.its_maml import EpisodicDataset

    backbone = dict(
        type='Conv4',
        in_channels=1,
        channels=2,
        kernel_sizes=(3, 3, 3, 2),
        strides=(2, 2, 2, 1),
        pool_strides=(0, 0, 0, 0),
    )
    head = dict(type='LinearClsHead', num_classes=5, in_channels=2)
    model = RobustMAML(dict(type='ImageClassifier', backbone=backbone, head=head), reg_weight=0.0)
    hook = IntrinsicDimensionHook(num_classes=7, per_class=3, batch_size=20, estimators=('pca90',))
    assert hook.measure(model, EpisodicDataset(omniglot('val')))['id/pca90'] >= 1
