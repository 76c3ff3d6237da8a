"""Models of the hosts as students, by config alone."""

import itertools
from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch
import torchvision
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from mmpretrain.structures import DataSample
from torch import nn

from mmplugins.hgkd import GenerativeDistillHook, distilled_model
from mmplugins.hgkd.distilled import FeatureDistiller
from mmplugins.hgkd.teachers.provider import TeacherProvider

pytest.importorskip('mmdet.models')
from mmdet.structures import DetDataSample

timm = pytest.importorskip('timm')
COUNTER = itertools.count()
CONFIG = 'configs/hgkd/retinanet_r18-w16_vit-tiny_1xb8-8e_bccd.py'
VIT = dict(type='timm.create_model', model_name='vit_tiny_patch16_224', depth=2, embed_dim=48, pretrained=False)


@pytest.fixture
def teacher_file(tmp_path):
    torch.manual_seed(1)
    torch.save(MODELS.build(deepcopy(VIT)).state_dict(), tmp_path / 'vit.pth')
    return str(tmp_path / 'vit.pth')


@pytest.fixture
def make_cfg(repo, tmp_path, teacher_file):
    """Return a function that gives the shipped config with a small random teacher, 8 images and two epochs."""

    def make(work: str = 'work', **options) -> Config:
        cfg = Config.fromfile(repo / CONFIG)
        cfg.custom_hooks[0].update(teacher=VIT, checkpoint=teacher_file, taps=['blocks.1'])
        cfg.model.teacher_channels = [48]
        cfg.custom_hooks[0].weight = 1.0
        for loader in (cfg.train_dataloader, cfg.val_dataloader):
            loader.batch_size, loader.dataset.indices = 4, 8
            for step in loader.dataset.pipeline:
                if step.type == 'Resize':
                    step.scale = (128, 96)
        cfg.train_cfg.update(max_epochs=2, val_interval=3)
        cfg.work_dir, cfg.launcher, cfg.log_level = str(tmp_path / work), 'none', 'WARNING'
        cfg.experiment_name = f'distilled{next(COUNTER)}'  # runners of one second would share a message hub
        cfg.merge_from_dict(options)
        return cfg

    return make


def history(runner: Runner, name: str) -> list[float]:
    return runner.message_hub.get_scalar(f'train/{name}').data[0].tolist()


def boxes_of(height: int, width: int) -> DetDataSample:
    """A sample with one box."""
    meta = dict(
        img_shape=(height, width),
        ori_shape=(height, width),
        batch_input_shape=(height, width),
        pad_shape=(height, width),
    )
    boxes = InstanceData(bboxes=torch.tensor([[8.0, 8.0, 40.0, 50.0]]), labels=torch.tensor([1]))
    return DetDataSample(metainfo=meta, gt_instances=boxes)


def test_config_is_short(repo):
    assert len((repo / CONFIG).read_text().splitlines()) <= 25


class TestRetinaNet:
    """The shipped config."""

    def test_trains_and_leaves_a_plain_detector(self, make_cfg, tmp_path):
        cfg = make_cfg()
        cfg.custom_hooks.append(dict(type='EMAHook'))
        runner = Runner.from_cfg(cfg)
        own = set(runner.model.state_dict())
        student = {name for name in own if not name.startswith('distiller.')}
        runner.train()
        assert type(runner.model).__name__ == 'DistilledRetinaNet' and runner.model.teacher is None
        assert len(history(runner, 'loss_distill')) == len(history(runner, 'loss_cls')) == 4
        checkpoint = torch.load(tmp_path / 'work/epoch_2.pth', weights_only=False)
        assert set(checkpoint['state_dict']) == own
        assert own - student == {'distiller.projectors.0.weight', 'distiller.projectors.0.bias'}
        optimized = sum(value['exp_avg'].numel() for value in checkpoint['optimizer']['state'].values())
        assert optimized == sum(p.numel() for p in runner.model.parameters())  # each parameter had a gradient
        assert {f'module.{name}' for name in own} < set(checkpoint['ema_state_dict'])
        plain = MODELS.build(Config(dict(cfg.model.student)))
        assert set(plain.state_dict()) == student

    @pytest.mark.slow  # two runs
    def test_a_resumed_run_is_the_one_that_was_not_stopped(self, make_cfg, tmp_path):
        runners = []
        for work, more in (('whole', {}), ('rest', dict(resume=True, load_from=str(tmp_path / 'whole/epoch_1.pth')))):
            cfg = make_cfg(work, **more)
            cfg.train_dataloader.sampler.shuffle = False
            cfg.train_dataloader.dataset.pipeline[2].prob = 0.0  # random states are not in checkpoints
            runners.append(Runner.from_cfg(cfg))
            runners[-1].train()
        whole, rest = runners
        assert len(history(whole, 'loss_distill')) == 4
        assert history(rest, 'loss_distill') == history(whole, 'loss_distill')

    @pytest.mark.slow
    def test_test_does_not_need_the_teacher(self, make_cfg):
        cfg = make_cfg(**{'custom_hooks.0.checkpoint': 'nowhere.pth', 'log_level': 'ERROR'})
        cfg.test_dataloader = cfg.val_dataloader
        cfg.test_dataloader.dataset.indices = 2
        cfg.val_evaluator = cfg.test_evaluator = dict(type='mmengine.DumpResults', out_file_path=cfg.work_dir + '.pkl')
        runner = Runner.from_cfg(cfg)
        runner.test()
        runner.val()
        with pytest.raises(FileNotFoundError, match='nowhere.pth'):
            runner.train()

    def test_loss_is_the_closed_form(self, make_cfg):
        cfg = make_cfg()
        init_default_scope('mmdet')
        torch.manual_seed(0)
        model = MODELS.build(cfg.model)
        model.train()
        vit = MODELS.build(deepcopy(VIT)).eval()
        provider = TeacherProvider(vit, ['blocks.1'])
        images = torch.randn(2, 3, 96, 128)
        samples = [boxes_of(96, 128) for _ in range(2)]
        object.__setattr__(model, 'teacher', provider)
        model.distill_weight = 2.0
        losses = model(images, samples, mode='loss')
        plain = nn.Sequential(model.backbone)  # the same layers in the same mode
        with torch.no_grad():
            feature = plain(images)[2]
            pred = model.distiller.projectors[0](feature)
            tokens = vit.blocks(vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(images)))))[:, 1:]
        target = nn.functional.layer_norm(tokens, (48,), eps=1e-6).transpose(1, 2).reshape(2, 48, 6, 8)
        expected = 2.0 * (1 - nn.functional.cosine_similarity(pred, target, dim=1)).mean()
        torch.testing.assert_close(losses['loss_distill'], expected, rtol=1e-4, atol=1e-5)
        assert {'loss_cls', 'loss_bbox'} <= set(losses)


class TestSchedule:
    @pytest.mark.parametrize('by_epoch', [True, False])
    def test_in_iterations(self, make_cfg, by_epoch):
        """8 images in batches of 4: two iterations are an epoch, whatever the loop counts."""
        cfg = make_cfg()
        weight = dict(type='linear', start=1.0, end=0.0, begin=0, end_at=2 if by_epoch else 4, by_epoch=by_epoch)
        cfg.custom_hooks[0].update(weight=weight, stop_epoch=3)
        cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=8, val_interval=100)
        cfg.train_dataloader.sampler = dict(type='InfiniteSampler', shuffle=True)
        cfg.param_scheduler, cfg.default_hooks.checkpoint = (
            [],
            dict(type='CheckpointHook', by_epoch=False, interval=100),
        )
        runner = Runner.from_cfg(cfg)
        runner.train()
        expected = [1, 1, 0.5, 0.5, 0, 0, 0, 0] if by_epoch else [1, 0.75, 0.5, 0.25, 0, 0, 0, 0]
        assert history(runner, 'distill_weight') == expected
        losses = history(runner, 'loss_distill')
        assert losses[0] > 0 and losses[6:] == [0, 0]


def student(**options):
    backbone = dict(type='ResNet', depth=18, base_channels=8, stem_channels=8, norm_cfg=dict(type='BN'), **options)
    head = dict(type='LinearClsHead', num_classes=4, in_channels=64)
    return dict(type='mmpretrain.ImageClassifier', backbone=backbone, neck=dict(type='GlobalAveragePooling'), head=head)


@pytest.fixture
def vit():
    torch.manual_seed(1)
    return MODELS.build(deepcopy(VIT)).eval()


def sample(label: int) -> DataSample:
    return DataSample().set_gt_label(label)


def make(channels: int = 3, **options) -> nn.Module:
    """Classifier with one tap of 32 channels."""
    init_default_scope('mmpretrain')
    options = {'student_taps': {'backbone.layer3': 32}, 'teacher_channels': [48], 'input_size': 64, **options}
    return distilled_model(student(in_channels=channels, out_indices=(0, 1, 2, 3)), **options)


def fit(model: nn.Module, teacher: nn.Module, **options) -> GenerativeDistillHook:
    """Attach a teacher."""
    hook = GenerativeDistillHook(teacher, **{'taps': ['blocks.1'], **options})
    hook.before_train(SimpleNamespace(model=model))
    return hook


class TestOptions:
    def test_several_taps_and_losses(self, vit):
        model = make(
            student_taps={'backbone.layer2': 16, 'backbone[-1]': 64},
            teacher_channels=[48, 48],
            losses=[dict(loss_type='mse'), dict(type='mmdet.L1Loss', loss_weight=0.5)],
        )
        fit(model, vit, taps=['blocks.0', 'blocks.1'])
        samples = [sample(0), sample(1)]
        losses = model(torch.randn(2, 3, 64, 64), samples, mode='loss')
        assert set(losses) == {'loss', 'loss_distill_0', 'loss_distill_1'}

    def test_gray_images_before_a_teacher_of_color(self, vit):
        model = make(channels=1)
        with pytest.raises(ValueError, match=r'takes 3 channels, .* have 1: .*input_channels=\[0, 0, 0\]'):
            fit(model, vit)
        images = torch.randn(2, 1, 64, 64)
        hook = fit(model, vit, input_channels=[0, 0, 0])
        torch.testing.assert_close(
            hook.provider(images), TeacherProvider(vit, ['blocks.1'])(images.expand(-1, 3, -1, -1))
        )

    def test_a_teacher_of_many_channels(self):
        model = make(channels=6)
        hook = fit(model, timm.create_model('vit_tiny_patch16_224', depth=2, embed_dim=48, in_chans=6))
        assert hook.provider.maps(torch.randn(1, 6, 224, 224))[0].shape == (1, 48, 14, 14)

    def test_patches_of_14_by_one_switch(self):
        """timm's DINOv2, made for 518 pixels: with ``resize_input=True`` its grid is that of 16 pixels."""
        dino = timm.create_model('vit_small_patch14_dinov2', depth=2, embed_dim=48, num_heads=3)
        model = make(input_size=(64, 96))
        with pytest.raises(ValueError, match='cannot be run on an image of 64 x 96 pixels.*divisible'):
            fit(model, dino)
        hook = fit(model, dino, resize_input=True)
        assert hook.provider.maps(torch.randn(1, 3, 64, 96))[0].shape == (1, 48, 4, 6)

    def test_teacher_of_a_fixed_size(self):
        vit = torchvision.models.VisionTransformer(224, 16, num_layers=1, num_heads=2, hidden_dim=48, mlp_dim=48)
        model = make()
        with pytest.raises(ValueError, match='one size only.*resize_input=224'):
            fit(model, vit, taps=['encoder.ln'])
        hook = fit(model, vit, taps=['encoder.ln'], resize_input=224)
        assert hook.provider.maps(torch.randn(1, 3, 64, 64))[0].shape == (1, 48, 14, 14)

    def test_bfloat16_autocast(self, vit):
        model = make()
        fit(model, vit)
        with torch.autocast('cpu', torch.bfloat16):
            losses = model(torch.randn(2, 3, 64, 64), [sample(0), sample(1)], mode='loss')
        assert losses['loss_distill'].dtype == torch.float32 and losses['loss_distill'].isfinite()

    def test_a_copy_is_whole(self, vit):
        """What EMAHook and others do."""
        model = make()
        copy = deepcopy(model)
        assert type(copy) is type(model)
        fit(copy, vit)
        assert model.teacher is None
        copy(torch.randn(2, 3, 64, 64), [sample(0), sample(1)], mode='loss')['loss_distill'].backward()
        assert copy.distiller.projectors[0].weight.grad is not None and model.backbone.conv1.weight.grad is None


class TestGradient:
    """What the loss of the distillation changes."""

    def step(self, tap, channels, depth=50, **backbone):
        init_default_scope('mmpretrain')
        cfg = student(**backbone)
        cfg['backbone']['depth'], cfg['head']['in_channels'] = depth, 64 if depth == 18 else 256
        model = distilled_model(cfg, {tap: channels}, [48], input_size=64)
        fit(model, MODELS.build(deepcopy(VIT)))
        model(torch.randn(2, 3, 64, 64), [sample(0), sample(1)], mode='loss')['loss_distill'].backward()
        return model.backbone

    @pytest.mark.parametrize('with_cp', [False, True])
    def test_a_stage_learns(self, with_cp):
        backbone = self.step('backbone.layer3', 128, with_cp=with_cp)
        assert backbone.layer2[0].conv1.weight.grad.abs().sum() > 0

    @pytest.mark.parametrize(
        ('tap', 'options'),
        [
            ('backbone.layer3.5.conv2', dict(with_cp=True)),  # mmpretrain computes such blocks without a graph
            ('backbone.layer1', dict(depth=18, frozen_stages=1)),
        ],
    )
    def test_a_tap_without_a_gradient_is_an_error(self, tap, options):
        channels = 32 if 'conv2' in tap else 8
        with pytest.raises(ValueError, match=rf"taps \['{tap}'\] of the student pass no gradient on.*frozen.*with_cp"):
            self.step(tap, channels, **options)

    def test_losses_can_be_asked_for_without_gradients(self, vit):
        model = make()
        fit(model, vit)
        with torch.no_grad():
            losses = model(torch.randn(2, 3, 64, 64), [sample(0), sample(1)], mode='loss')
        assert losses['loss_distill'] > 0


class TestErrors:
    @pytest.mark.parametrize(
        ('options', 'hook', 'text'),
        [
            (dict(student_taps={'backbone.stage9': 32}), {}, "student .* has no module 'backbone.stage9'"),
            (
                dict(student_taps={'backbone.layer3': 33}),
                {},
                "has 32 channels: set student_taps={'backbone.layer3': 32}",
            ),
            (dict(teacher_channels=[64]), {}, r'set teacher_channels=\[48\], not \[64\]'),
            (dict(teacher_channels=[48, 48]), {}, '1 student_taps, 2 teacher_channels.*_delete_=True'),
            (dict(student_taps={'backbone[9]': 32}), {}, 'gives 4 outputs, none of number 9'),
            ({}, dict(mode='visible'), "'visible' needs a student with a mask"),
            ({}, dict(taps=['blocks.9']), "teacher VisionTransformer has no module 'blocks.9'"),
        ],
    )
    def test_misfit(self, vit, options, hook, text):
        with pytest.raises(ValueError, match=text):
            fit(make(**options), vit, **hook)

    def test_without_the_hook(self):
        with pytest.raises(RuntimeError, match='DistilledImageClassifier has no teacher: add GenerativeDistillHook'):
            make()(torch.randn(2, 3, 64, 64), [sample(0), sample(1)], mode='loss')

    def test_no_loss(self):
        with pytest.raises(ValueError, match='0 losses'):
            FeatureDistiller({'a': 1}, [1], dict(type='Conv2d', kernel_size=1), [])
