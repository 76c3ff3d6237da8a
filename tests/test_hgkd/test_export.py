"""The exported encoder in the hosts that it is for: same features, no key left over."""

import pytest
import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS

from mmplugins.hgkd.__main__ import main
from mmplugins.hgkd.sparse import export
from mmplugins.utils.weights import read_weights

CONFIG = """
custom_imports = dict(imports=['mmplugins.hgkd'], allow_failed_imports=False)
default_scope = 'mmpretrain'
model = dict(
    type='HGKD', input_size=64, out_channels=8, mask_ratio=0.5,
    data_preprocessor=dict(type='SelfSupDataPreprocessor', mean=[120, 110, 100], std=[50, 60, 70], to_rgb=True),
    backbone={backbone},
    neck=dict(type='HGKDUNetDecoder', feature_dim=32, norm_cfg=dict(type='BN')),
    head=dict(type='FeaturePredictHead'), enc_dec_norm_cfg=dict(type='BN'))
train_dataloader = dict(
    batch_size=4, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='CustomDataset', data_root='{data}', with_label=False,
        pipeline=[dict(type='LoadImageFromFile'), dict(type='Resize', scale=(64, 64)), dict(type='PackInputs')]))
"""


@pytest.fixture
def pretrained(tmp_path, repo):
    """Return a function that writes config and checkpoint of a student with random weights and statistics."""

    def make(depth: int = 18, backbone: dict | None = None, variance: tuple = (0.5, 2), **options):
        resnet = dict(type='HGKDSparseResNet', depth=depth, backend='rows', norm_cfg=dict(type='BN'), **options)
        text = CONFIG.format(backbone=backbone or resnet, data=repo / 'tests/data/clothing10/val')
        (tmp_path / 'cfg.py').write_text(text)
        cfg = Config.fromfile(tmp_path / 'cfg.py')
        model = MODELS.build(cfg.model)
        for module in model.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(*variance)
        meta = dict(distill=dict(sha256='abc', mode='full'))
        torch.save(dict(state_dict=model.state_dict(), meta=meta), tmp_path / 'epoch_1.pth')
        model.eval()
        return cfg, model

    return make


def exported(tmp_path, layout: str, *options: str):
    arguments = ['export', tmp_path / 'cfg.py', tmp_path / 'epoch_1.pth', '--out', tmp_path / 'out.pth']
    code = main([*map(str, arguments), '--layout', layout, *options])
    return code, tmp_path / 'out.pth'


def assert_features_equal(model, resnet):
    """As the sparse encoder with everything visible."""
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        visible = torch.ones(2, 1, 2, 2, dtype=torch.bool)
        for got, expected in zip(resnet(images), model.backbone(images, visible), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_mmpretrain_r50_strictly(pretrained, tmp_path, capsys):
    _, model = pretrained(50)
    code, path = exported(tmp_path, 'mmpretrain')
    assert code == 0 and '318 weights of a ResNet-50' in capsys.readouterr().out
    resnet = MODELS.build(dict(type='ResNet', depth=50, out_indices=(0, 1, 2, 3)))
    weights = read_weights(path)
    resnet.load_state_dict({key.removeprefix('backbone.'): value for key, value in weights.items()}, strict=True)
    resnet.eval()
    assert_features_equal(model, resnet)


def test_init_cfg_of_mmpretrain(pretrained, tmp_path):
    _, model = pretrained()
    _, path = exported(tmp_path, 'mmpretrain')
    init_cfg = dict(type='Pretrained', checkpoint=str(path), prefix='backbone.')
    resnet = MODELS.build(dict(type='ResNet', depth=18, out_indices=(0, 1, 2, 3), init_cfg=init_cfg))
    resnet.init_weights()
    resnet.eval()
    assert_features_equal(model, resnet)


@pytest.mark.parametrize('host', ['mmdet', 'mmseg'])
def test_init_cfg_of_other_hosts(pretrained, tmp_path, host):
    module = pytest.importorskip(f'{host}.models')
    from mmengine.registry import MODELS as ROOT

    assert module
    _, model = pretrained()
    _, path = exported(tmp_path, host)
    init_cfg = dict(type='Pretrained', checkpoint=str(path), prefix='backbone.')
    resnet = ROOT.build(dict(type=f'{host}.ResNet', depth=18, out_indices=(0, 1, 2, 3), init_cfg=init_cfg))
    resnet.init_weights()
    resnet.eval()
    expected = {key for key in model.state_dict() if key.startswith('backbone.')}
    assert {f'backbone.{key}' for key in resnet.state_dict()} == expected  # mmengine would load with holes
    assert_features_equal(model, resnet)


def test_torchvision(pretrained, tmp_path):
    import torchvision

    _, model = pretrained()
    _, path = exported(tmp_path, 'torchvision')
    resnet = torchvision.models.resnet18()
    keys = resnet.load_state_dict(torch.load(path, weights_only=True), strict=False)
    assert keys.missing_keys == ['fc.weight', 'fc.bias'] and not keys.unexpected_keys
    resnet.eval()
    images, maps = torch.randn(2, 3, 64, 64), []
    resnet.layer4.register_forward_hook(lambda module, inputs, output: maps.append(output))
    with torch.no_grad():
        resnet(images)
        torch.testing.assert_close(maps[0], model.backbone(images)[-1], rtol=1e-5, atol=1e-5)


SAME_IN_TORCHVISION = {
    'mobilenet_v2': dict(type='MobileNetV2', out_indices=(1, 2, 4, 7)),
    'mobilenet_v3_small': dict(type='MobileNetV3', out_indices=(1, 3, 8, 12)),
    'mobilenet_v3_large': dict(type='MobileNetV3', arch='large', out_indices=(3, 6, 12, 16)),
    'resnext50_32x4d': dict(type='ResNeXt', depth=50, out_indices=(0, 1, 2, 3)),
}


@pytest.mark.parametrize('name', [pytest.param(n, marks=pytest.mark.slow) for n in SAME_IN_TORCHVISION])
def test_other_networks_of_torchvision(pretrained, tmp_path, name):
    """Logits are those of the pooled features of the student, in double precision, with random statistics."""
    import torchvision

    # Small variances: the signal reaches the end of a deep network that was not trained.
    student = dict(type='HGKDSparseBackbone', backbone=SAME_IN_TORCHVISION[name])
    _, model = pretrained(backbone=student, variance=(0.1, 0.3))
    code, path = exported(tmp_path, 'torchvision')
    assert code == 0
    plain = torchvision.models.get_model(name)
    keys = plain.load_state_dict(torch.load(path, weights_only=True), strict=False)
    assert {key.partition('.')[0] for key in keys.missing_keys} <= {'fc', 'classifier'} and not keys.unexpected_keys
    plain.eval().double()
    model.double()
    classify = plain.fc if hasattr(plain, 'fc') else plain.classifier
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        expected = classify(model.backbone(images)[-1].mean(dim=(2, 3)))
        torch.testing.assert_close(plain(images), expected, rtol=1e-9, atol=1e-12)
        assert plain(images).std(dim=0).median() > 1e-4


def test_timm(pretrained, tmp_path):
    timm = pytest.importorskip('timm')
    _, model = pretrained()
    _, path = exported(tmp_path, 'timm')
    resnet = timm.create_model('resnet18', num_classes=0, checkpoint_path=str(path)).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(resnet.forward_features(images), model.backbone(images)[-1], rtol=1e-5, atol=1e-5)


def test_meta_says_where_it_comes_from(pretrained, tmp_path):
    pretrained()
    _, path = exported(tmp_path, 'mmpretrain')
    content = torch.load(path, weights_only=True)  # plain containers only
    assert content['meta'] == dict(
        arch=dict(type='ResNet', depth=18, norm_cfg=dict(type='BN')),
        source='epoch_1.pth',
        mask_ratio=0.5,
        engine='rows',
        distill=dict(sha256='abc', mode='full'),
        bn_images=0,
    )


def test_estimated_batch_norm_is_that_of_whole_images(pretrained, tmp_path, capsys):
    """The first layer against its closed form; all layers against batches given by hand."""
    cfg, model = pretrained(base_channels=16, stem_channels=16)
    code, path = exported(tmp_path, 'mmpretrain', '--bn-images', '8')
    assert code == 0 and 'estimated on 8 whole images' in capsys.readouterr().out
    weights = read_weights(path)
    from mmengine.runner import Runner

    loader = iter(Runner.build_dataloader(cfg.train_dataloader, seed=0))
    mean, std = torch.tensor([120, 110, 100.0]), torch.tensor([50, 60, 70.0])
    batches = [(next(loader)['inputs'].flip(1).float() - mean.view(3, 1, 1)) / std.view(3, 1, 1) for _ in range(2)]
    stem = [model.backbone.conv1(batch) for batch in batches]
    expected = torch.stack([x.mean(dim=(0, 2, 3)) for x in stem]).mean(dim=0)
    torch.testing.assert_close(weights['backbone.bn1.running_mean'], expected, rtol=1e-4, atol=1e-4)
    expected = torch.stack([x.transpose(0, 1).flatten(1).var(dim=1) for x in stem]).mean(dim=0)
    torch.testing.assert_close(weights['backbone.bn1.running_var'], expected, rtol=1e-4, atol=1e-4)
    changed = [key for key in weights if not torch.equal(weights[key], model.state_dict()[key])]
    assert {key.rpartition('.')[2] for key in changed} == {'running_mean', 'running_var', 'num_batches_tracked'}
    assert len(changed) == 3 * 20


TIMM = dict(
    type='TIMMBackbone',
    model_name='mobilenetv3_small_050',
    features_only=True,
    out_indices=(1, 2, 3, 4),
    drop_path_rate=0.5,
)
OTHERS = {
    'mmpretrain': dict(type='MobileNetV2', widen_factor=0.25, out_indices=(1, 2, 4, 7)),
    'mmdet': dict(type='RegNet', arch='regnetx_400mf', out_indices=(0, 1, 2, 3), norm_cfg=dict(type='SyncBN')),
    'mmseg': dict(
        type='ConvNeXt',
        arch=dict(depths=[1, 1, 1, 1], channels=[8, 16, 24, 32]),
        gap_before_final_norm=False,
        out_indices=(0, 1, 2, 3),
    ),
    'timm': TIMM,
}


@pytest.mark.parametrize('layout', OTHERS)
def test_other_networks(pretrained, tmp_path, layout, capsys):
    """The exported file fills the plain network of its library, which gives what the student does without a mask."""
    cfg, model = pretrained(backbone=dict(type='HGKDSparseBackbone', backbone=OTHERS[layout]))
    code, path = exported(tmp_path, layout)
    assert code == 0
    images = torch.randn(2, 3, 64, 64)
    weights = read_weights(path)
    if layout == 'timm':
        timm = pytest.importorskip('timm')
        call = "timm.create_model('mobilenetv3_small_050', **{'drop_path_rate': 0.5})"
        assert call in capsys.readouterr().out  # an option may change what the network computes, and no shape
        whole = timm.create_model(TIMM['model_name'])
        missing, unexpected = whole.load_state_dict(weights, strict=False)
        assert not unexpected and {key.partition('.')[0] for key in missing} <= {'conv_head', 'classifier', 'norm_head'}
        plain = timm.create_model(TIMM['model_name'], features_only=True, out_indices=(1, 2, 3, 4))
        plain.load_state_dict({key: weights[key] for key in plain.state_dict()}, strict=True)
    else:
        plain = MODELS.build(
            {**OTHERS[layout], 'norm_cfg': dict(type='BN')} if layout == 'mmdet' else dict(OTHERS[layout])
        )
        plain.load_state_dict({key.removeprefix('backbone.'): value for key, value in weights.items()}, strict=True)
    plain.eval()
    with torch.no_grad():
        for got, expected in zip(plain(images), model.backbone(images), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_estimated_batch_norm_has_no_stochastic_depth(pretrained, tmp_path):
    """Half of the branches are dropped in training: the statistics are those of the network that drops none."""
    for rate in (0.0, 0.5):
        pretrained(base_channels=8, stem_channels=8, drop_path_rate=rate)
        code, path = exported(tmp_path, 'mmpretrain', '--bn-images', '8')
        assert code == 0
        path.rename(tmp_path / f'{rate}.pth')
        if not rate:
            (tmp_path / 'epoch_1.pth').rename(tmp_path / 'first.pth')
            continue
        (tmp_path / 'first.pth').rename(tmp_path / 'epoch_1.pth')
        exported(tmp_path, 'mmpretrain', '--bn-images', '8')
    without, dropped = read_weights(tmp_path / '0.0.pth'), read_weights(path)
    for key in without:
        assert torch.equal(without[key], dropped[key]), key


@pytest.mark.slow
@pytest.mark.parametrize('layout', ['mmpretrain', 'timm'])
def test_onnx_of_the_exported_student(pretrained, tmp_path, layout):
    onnxruntime = pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    pretrained(backbone=dict(type='HGKDSparseBackbone', backbone=OTHERS[layout]))
    cfg = Config.fromfile(tmp_path / 'cfg.py')
    weights = export.backbone_weights(read_weights(tmp_path / 'epoch_1.pth'))
    plain = export.fill(export.dense_config(cfg.model.backbone), weights)
    images = torch.randn(1, 3, 64, 64)
    torch.onnx.export(plain, (images,), str(tmp_path / 'x.onnx'), input_names=['images'], dynamo=True)
    outputs = onnxruntime.InferenceSession(str(tmp_path / 'x.onnx')).run(None, dict(images=images.numpy()))
    for got, expected in zip(outputs, plain(images), strict=True):
        torch.testing.assert_close(torch.from_numpy(got), expected, rtol=1e-4, atol=1e-4)


class TestErrors:
    def test_other_width_for_torchvision(self, pretrained, tmp_path, capsys):
        pretrained(base_channels=16, stem_channels=16)
        code, path = exported(tmp_path, 'torchvision')
        assert code == 1 and 'no resnet18 of torchvision' in capsys.readouterr().err
        assert not path.exists()

    def test_config_of_another_depth(self, pretrained, tmp_path, capsys):
        pretrained(18)
        text = (tmp_path / 'cfg.py').read_text().replace("'depth': 18", "'depth': 34")
        (tmp_path / 'cfg.py').write_text(text)
        code, _ = exported(tmp_path, 'mmpretrain')
        assert code == 1 and 'do not belong together' in capsys.readouterr().err

    def test_no_pretraining(self, pretrained, tmp_path, capsys):
        pretrained()
        torch.save(dict(state_dict={'head.weight': torch.zeros(1)}), tmp_path / 'epoch_1.pth')
        assert exported(tmp_path, 'mmpretrain')[0] == 1
        assert "starts with 'backbone.'" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ('model', 'text'),
        [
            ("model = dict(type='HGKDDistilledModel')", 'its checkpoint loads into the plain config'),
            ("model = dict(type='HGKD')", 'cfg.py has no model with a backbone'),
            ('', 'cfg.py has no model with a backbone'),
        ],
    )
    def test_a_config_without_a_masked_student(self, pretrained, tmp_path, capsys, model, text):
        pretrained()
        (tmp_path / 'cfg.py').write_text(model)
        assert exported(tmp_path, 'mmpretrain')[0] == 1
        assert text in capsys.readouterr().err

    def test_not_a_sparse_resnet(self):
        with pytest.raises(ValueError, match="'SparseConvNeXt'"):
            export.dense_config(dict(type='SparseConvNeXt'))

    @pytest.mark.parametrize(
        ('network', 'text'),
        [
            ('mmdet', 'the weights of a RegNet have no place in torchvision'),
            ('mmpretrain', 'no mobilenet_v2 of torchvision'),  # a quarter of the width
        ],
    )
    def test_a_network_that_torchvision_has_not(self, pretrained, tmp_path, capsys, network, text):
        pretrained(backbone=dict(type='HGKDSparseBackbone', backbone=OTHERS[network]))
        code, path = exported(tmp_path, 'torchvision')
        assert code == 1 and text in capsys.readouterr().err

    @pytest.mark.parametrize('layout', ['torchvision', 'timm'])
    @pytest.mark.parametrize(
        'options',
        [
            dict(depth=18, norm_cfg=dict(type='BN', eps=1e-3)),
            dict(depth=18, strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2), out_indices=(0, 1, 2)),
            pytest.param(dict(depth=50, style='caffe'), marks=pytest.mark.slow),
        ],
        ids=['eps', 'dilations', 'style'],
    )
    def test_an_option_that_changes_no_shape(self, layout, options):
        if layout == 'timm':
            pytest.importorskip('timm')
        backbone = dict(type='ResNet', **options)
        weights = MODELS.build(dict(backbone)).state_dict()
        with pytest.raises(ValueError, match=f'{layout}, which computes something else with them'):
            export.LIBRARIES[layout](backbone, weights)
        plain = dict(type='ResNet', depth=options['depth'], out_indices=(0, 1))  # the same weights, and no option
        assert export.LIBRARIES[layout](plain, weights)

    def test_weights_that_give_no_numbers(self):
        plain = dict(type='ResNet', depth=18)
        weights = MODELS.build(dict(plain)).state_dict()
        weights['conv1.weight'].fill_(torch.nan)
        with pytest.raises(ValueError, match='relative difference of the features nan'):
            export.LIBRARIES['torchvision'](plain, weights)

    @pytest.mark.parametrize('content', [b'', b'no checkpoint'])
    def test_broken_file(self, pretrained, tmp_path, capsys, content):
        pretrained()
        (tmp_path / 'epoch_1.pth').write_bytes(content)
        assert exported(tmp_path, 'mmpretrain')[0] == 1
        assert 'epoch_1.pth' in capsys.readouterr().err

    def test_name_of_the_output(self, pretrained, tmp_path, capsys):
        pretrained()
        code = main(['export', str(tmp_path / 'cfg.py'), str(tmp_path / 'epoch_1.pth'), '--out', 'x.bin'])
        assert code == 1 and '.pth' in capsys.readouterr().err
