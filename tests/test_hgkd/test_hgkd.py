import copy

import pytest
import torch
from mmengine.model import convert_sync_batchnorm, revert_sync_batchnorm
from mmpretrain.models import SparK
from mmpretrain.models.utils.sparse_modules import SparseHelper
from mmpretrain.registry import MODELS
from torch import nn

from mmplugins.hgkd import HGKD, ActiveMask, FeaturePredictHead, draw_cells

BN = dict(type='BN')
PIXELS = dict(type='SparKPretrainHead', loss=dict(type='PixelReconstructionLoss', criterion='L2'))
CONVNEXT = dict(
    type='SparseConvNeXt',
    arch=dict(depths=[1, 1, 1, 1], channels=[8, 16, 32, 64]),
    out_indices=(0, 1, 2, 3),
    gap_before_output=False,
)


@pytest.fixture(autouse=True)
def no_mask_of_another_test(monkeypatch):
    monkeypatch.setattr(SparseHelper, '_cur_active', None)  # mmpretrain's own SparK leaves its last one


def backbone(depth: int = 18, backend: str = 'auto', **kwargs) -> dict:
    sizes = dict(stem_channels=16, base_channels=16 if depth == 18 else 8)
    return dict(type='HGKDSparseResNet', depth=depth, backend=backend, norm_cfg=BN, **sizes, **kwargs)


def neck(out_stride: int = 4, dim: int = 64) -> dict:
    return dict(type='HGKDUNetDecoder', feature_dim=dim, out_stride=out_stride, norm_cfg=BN)


def student(out_stride: int = 4, **kwargs) -> HGKD:
    options = dict(head=dict(type='FeaturePredictHead'), out_channels=24, enc_dec_norm_cfg=BN, input_size=64)
    options.setdefault('backbone', backbone())
    return HGKD(**{**options, 'neck': neck(out_stride), **kwargs})


def teach(model: HGKD, target=None, stride: int = 16):
    """Put a teacher with random features into the slot, as the hook does."""

    def provider(images: torch.Tensor, active: torch.Tensor) -> torch.Tensor:
        sides = (side // stride for side in images.shape[2:])
        return torch.randn(len(images), 24, *sides) if target is None else target(images, active)

    object.__setattr__(model, 'teacher', provider)
    return model


@pytest.mark.parametrize('out_stride', [1, 2, 4, 8, 16])
def test_every_parameter_gets_a_gradient_whatever_the_stride(out_stride):
    model = teach(student(out_stride))
    pred, _ = model.predict_features(torch.randn(2, 3, 64, 96))
    assert pred.shape == (2, 24, 4, 6)
    losses = model.loss(torch.randn(2, 3, 64, 96))
    assert list(losses) == ['loss_distill']
    losses['loss_distill'].backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    assert all(token.grad.abs().sum() > 0 for token in model.mask_tokens)
    assert len(model.mask_tokens) == {1: 4, 2: 4, 4: 4, 8: 3, 16: 2}[out_stride]


@pytest.mark.parametrize('backend', ['dense', 'rows'])
@pytest.mark.parametrize('depth', [18, 50])
def test_pixels_only_is_mmpretrains_spark(depth, backend):
    dim = 128 if depth == 18 else 256
    host = SparK(
        backbone=MODELS.build(
            dict(type='SparseResNet', depth=depth, out_indices=(0, 1, 2, 3), norm_cfg=BN, stem_channels=16)
            | dict(base_channels=backbone(depth)['base_channels'])
        ),
        neck=dict(type='SparKLightDecoder', feature_dim=64, upsample_ratio=32, norm_cfg=BN),
        head=PIXELS,
        input_size=96,
        enc_dec_norm_cfg=dict(type='SparseBatchNorm2d'),
        enc_dec_norm_dim=dim,
    ).double()
    mine = HGKD(
        backbone(depth, backend), neck(1), None, PIXELS, 1.0, enc_dec_norm_cfg=dict(type='SparseBatchNorm2d')
    ).double()
    mine.load_state_dict({key.replace('neck.proj', 'pixel_proj'): value for key, value in host.state_dict().items()})
    images, losses, gradients = torch.randn(2, 3, 96, 96, dtype=torch.float64), [], []
    for model in (host, mine):
        torch.manual_seed(2)  # the same mask
        found = model.loss(images, None)
        losses.append(sum(found.values()))
        gradients.append(torch.autograd.grad(losses[-1], model.backbone.conv1.weight)[0])
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-9, atol=0)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-7, atol=1e-9)


def test_pixels_and_features_together_have_both_losses():
    model = teach(student(1, pixel_head=PIXELS, pixel_weight=0.5))
    torch.manual_seed(0)
    losses = model.loss(torch.randn(2, 3, 64, 64))
    model.pixel_weight = 1.0
    torch.manual_seed(0)
    twice = model.loss(torch.randn(2, 3, 64, 64))
    assert list(losses) == ['loss_distill', 'loss_pixel']
    torch.testing.assert_close(twice['loss_pixel'], 2 * losses['loss_pixel'])


def test_a_forgotten_teacher_is_an_error_beside_pixels_too():
    with pytest.raises(RuntimeError, match='HGKD has no teacher: add GenerativeDistillHook'):
        student(1, pixel_head=PIXELS, pixel_weight=0.5).loss(torch.randn(2, 3, 64, 64))


def test_hidden_pixels_do_not_reach_the_prediction():
    model, images, cells = student(), torch.randn(2, 3, 64, 96), draw_cells(2, (2, 3), 0.6)
    changed = torch.where(ActiveMask(cells).sites((64, 96)), images, torch.randn_like(images) * 9)
    assert torch.equal(model.predict_features(images, cells)[0], model.predict_features(changed, cells)[0])


def test_mask_tokens_fill_hidden_sites_only():
    model, cells = student(), draw_cells(2, (2, 3), 0.5)
    features = model.encode(torch.randn(2, 3, 64, 96), ActiveMask(cells))[0]
    model.enc_dec_projectors[0] = nn.Identity()
    out, visible = model.densify(features, 0), cells.expand(2, 128, 2, 3)
    assert torch.equal(out[~visible], model.mask_tokens[0].expand(2, 128, 2, 3)[~visible])
    assert torch.equal(out[visible], model.enc_dec_norms[0](features).dense()[visible])


@pytest.mark.parametrize('name', ['BN', 'SparseBatchNorm2d', 'SyncBN', 'SparseSyncBatchNorm2d'])
def test_norm_before_the_decoder_is_sparse_under_any_name(name):
    model, cells = student(enc_dec_norm_cfg=dict(type=name)), draw_cells(4, (2, 3), 0.5)
    mask = ActiveMask(cells)
    features = model.encode(torch.randn(4, 3, 64, 96), mask)[0]
    rows = mask.take_cells(model.enc_dec_norms[0](features).dense())
    torch.testing.assert_close(rows.mean(0), torch.zeros(128), atol=1e-5, rtol=0)


def test_runner_of_one_process_leaves_the_norms_sparse():
    sync = dict(type='SyncBN')
    model = student(backbone={**backbone(), 'norm_cfg': sync}, enc_dec_norm_cfg=sync)
    model = revert_sync_batchnorm(model)  # as mmengine's runner does where there is one process
    assert teach(model).loss([torch.randn(2, 3, 64, 64)], None)['loss_distill'].isfinite()


@pytest.mark.parametrize('implementation', ['torch', 'mmcv'])
def test_norms_that_a_runner_replaces_by_its_sync_bn_are_an_error(implementation, monkeypatch):
    monkeypatch.setattr(torch.distributed, 'get_world_size', lambda group=None: 1)  # mmcv's asks when it is built
    model = teach(convert_sync_batchnorm(student(), implementation))
    with pytest.raises(TypeError, match="Leave sync_bn out and set norm_cfg=dict\\(type='SyncBN'\\)"):
        model.loss(torch.randn(2, 3, 64, 64))


def test_supervise_visible_ignores_masked_predictions():
    gradients = {}
    for supervise in ('visible', 'masked'):
        head = FeaturePredictHead(supervise=supervise)
        pred = torch.randn(2, 24, 4, 6, requires_grad=True)
        cells = draw_cells(2, (2, 3), 0.5)
        head(pred, torch.randn(2, 24, 4, 6), cells).backward()
        visible = ActiveMask(cells).sites((4, 6)).expand_as(pred)
        gradients[supervise] = pred.grad[visible].abs().sum() > 0, pred.grad[~visible].abs().sum() > 0
    assert gradients == {'visible': (True, False), 'masked': (False, True)}


@pytest.mark.parametrize('height, width', [(64, 64), (96, 32), (32, 160)])
def test_sizes_and_single_images(height, width):
    model = teach(student()).eval()
    loss = model.loss([torch.randn(1, 3, height, width)], None)['loss_distill']
    assert loss.isfinite() and loss.dim() == 0


def test_seed_gives_the_mask_of_mmpretrains_spark():
    host = SparK(backbone=MODELS.build(backbone()), neck=neck(1), head=PIXELS, enc_dec_norm_dim=128)
    mine = student()
    torch.manual_seed(4)
    expected = host.mask((3, 3, 224, 224), 'cpu')
    torch.manual_seed(4)
    assert torch.equal(mine.mask((3, 3, 224, 224), 'cpu'), expected)


def test_plain_inference_before_and_after_training_is_that_of_the_backbone():
    model, images = teach(student()).eval(), torch.randn(2, 3, 64, 64)
    before = model(images)
    model.loss(images)
    for mine, again, expected in zip(before, model([images], mode='tensor'), model.backbone(images), strict=True):
        assert torch.equal(mine, expected)
        assert torch.equal(again, expected)


def test_without_a_teacher_the_error_names_the_hook():
    with pytest.raises(RuntimeError, match='has no teacher: add GenerativeDistillHook to custom_hooks'):
        student().loss(torch.zeros(2, 3, 64, 64))


def test_a_teacher_that_pauses_gives_zero_and_gradients_everywhere():
    model = teach(student(), lambda images, active: None)
    loss = model.loss(torch.randn(2, 3, 64, 64))['loss_distill']
    loss.backward()
    assert loss == 0
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in model.parameters())


def test_weight_scales_and_log_is_that_of_pred_and_target():
    model, images = student().eval(), torch.randn(2, 3, 64, 64)
    seen = {}

    def target(images, active):
        seen.update(pred=model.predict_features(images, active)[0].detach())
        return 3 * seen['pred']

    teach(model, target)
    torch.manual_seed(0)
    one = model.loss(images)['loss_distill']
    model.distill_weight = 0.25
    torch.manual_seed(0)
    torch.testing.assert_close(model.loss(images)['loss_distill'], one / 4)
    torch.testing.assert_close(model.distill_log['cosine'], torch.tensor(1.0))
    torch.testing.assert_close(model.distill_log['target_std'], 3 * seen['pred'].std())
    assert not any(value.requires_grad for value in model.distill_log.values())


def test_slot_weight_and_log_are_no_state():
    model = teach(student())
    keys = set(model.state_dict())
    model.loss(torch.randn(2, 3, 64, 64))
    assert set(model.state_dict()) == keys
    assert not any('teacher' in key or 'distill' in key for key in keys)
    copy.deepcopy(model)


def test_two_views_are_an_error():
    with pytest.raises(ValueError, match='takes one view of an image, got 2'):
        student().extract_feat([torch.zeros(1, 3, 64, 64)] * 2)


def test_images_that_are_no_multiple_of_the_cell_are_an_error():
    with pytest.raises(ValueError, match='images of 64 x 100: both sides must be multiples of 32'):
        teach(student()).loss(torch.zeros(2, 3, 64, 100))


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(neck=dict(type='SparKLightDecoder', feature_dim=64, upsample_ratio=32)), 'must be a HGKDUNetDecoder'),
        (dict(downsample_raito=16), 'upsample_ratio 32 of the neck is not downsample_raito 16'),
        (dict(mask_ratio=1.0), r'mask_ratio must be in \[0, 1\), got 1.0'),
        (dict(head=None), 'nothing to predict'),
        (dict(pixel_head=PIXELS), 'go together, got pixel_weight=0'),
        (dict(pixel_weight=1.0), 'go together, got pixel_weight=1'),
        (dict(pixel_head=PIXELS, pixel_weight=1.0), 'needs a neck with out_stride=1, got 4'),
        (dict(target_stride=14), 'target_stride 14 is no multiple of out_stride 4'),
        (dict(backbone=backbone(out_indices=(0, 1))), 'have strides .* the last must be 32'),
        (dict(backbone=dict(CONVNEXT, gap_before_output=True)), 'set gap_before_output=False'),
        (dict(backbone=dict(CONVNEXT, with_cp=True)), 'with_cp=True computes layers again'),
    ],
)
def test_parts_that_do_not_fit_are_an_error(options, message):
    with pytest.raises(ValueError, match=message):
        student(**options)


class TestConvNeXt:
    """mmpretrain's dense-masked ConvNeXt, whose layers read the mask from a class attribute."""

    @pytest.fixture
    def model(self):
        return student(backbone=copy.deepcopy(CONVNEXT), enc_dec_norm_cfg=dict(type='SparseLN2d', eps=1e-6))

    def test_trains_and_does_not_see_hidden_pixels(self, model):
        images, cells = torch.randn(2, 3, 64, 64), draw_cells(2, (2, 2), 0.5)
        changed = torch.where(ActiveMask(cells).sites((64, 64)), images, torch.randn_like(images) * 9)
        assert torch.equal(model.predict_features(images, cells)[0], model.predict_features(changed, cells)[0])
        teach(model).loss(images)['loss_distill'].backward()
        assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []

    def test_needs_no_mask_for_inference_and_leaves_none_behind(self, model):
        model.eval()
        images = torch.randn(2, 3, 64, 64)
        before = model(images)
        teach(model).loss(images)
        assert SparseHelper._cur_active is None
        assert all(torch.equal(a, b) for a, b in zip(before, model(images[:2]), strict=True))
        assert model(images[:1])[0].shape == (1, 8, 16, 16)

    def test_takes_the_mask_away_after_an_error(self, model):
        with pytest.raises(RuntimeError):
            model.predict_features(torch.randn(2, 5, 64, 64), draw_cells(2, (2, 2), 0.5))
        assert SparseHelper._cur_active is None

    def test_needs_square_images(self, model):
        with pytest.raises(ValueError, match='need square images; HGKDSparseResNet does not'):
            teach(model).loss(torch.zeros(2, 3, 64, 96))
