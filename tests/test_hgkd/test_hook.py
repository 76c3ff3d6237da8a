"""The hook through mmengine's Runner, with a student of two convolutions."""

import itertools
import re

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import default_collate
from mmengine.model import BaseModel
from mmengine.registry import DATASETS
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS, MODELS
from torch import nn

from mmplugins.hgkd import HGKD
from mmplugins.hgkd.hook import GenerativeDistillHook
from mmplugins.hgkd.student import Student
from mmplugins.hgkd.teachers.loading import fingerprint
from mmplugins.hgkd.teachers.probe import PATCHES
from mmplugins.hgkd.teachers.provider import TeacherProvider
from mmplugins.utils.checkpoint import load_without_code

ARCH = dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64)
COUNTER = itertools.count()
TEACHER = dict(type='MAEViT', arch=ARCH, img_size=64, patch_size=16)


class TinyStudent(Student, BaseModel):
    """What the hook asks of a student, and no more; the mask is drawn anew in each step."""

    def __init__(self, channels=32, stride=16, supervise='all', data_preprocessor=None):
        super().__init__(data_preprocessor)
        self.input_size, self.target_stride = 64, stride
        self.head = MODELS.build(dict(type='FeaturePredictHead', supervise=supervise))
        self.stem = nn.Conv2d(3, 8, stride, stride)
        self.predictor = nn.Conv2d(8, channels, 1)

    with_head = True
    check_teacher = HGKD.check_teacher

    def _all_visible(self, images):
        return torch.ones(len(images), 1, 2, 2, dtype=torch.bool)

    def predict_features(self, images, active=None):
        return self.predictor(self.stem(images).relu()), active

    def forward(self, inputs, data_samples=None, mode='loss'):
        active = (torch.rand(len(inputs), 4).argsort(dim=1) < 2).view(-1, 1, 2, 2)
        pred, active = self.predict_features(inputs, active)
        target = self.teacher(inputs, active)
        if target is None:
            return dict(loss_distill=0 * pred.sum())
        self.distill_log = dict(target_std=target.std())
        return dict(loss_distill=self.distill_weight * self.head(pred, target, active))


class Images(torch.utils.data.Dataset):
    def __init__(self, length=8):
        self.images = torch.rand(length, 3, 64, 64, generator=torch.Generator().manual_seed(5))

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return dict(inputs=self.images[index], data_samples=index)


@pytest.fixture(autouse=True, scope='module')
def registered():
    MODELS.register_module(name='TinyDistillStudent', module=TinyStudent)
    DATASETS.register_module(name='TinyDistillImages', module=Images)
    yield
    MODELS._module_dict.pop('TinyDistillStudent')
    DATASETS._module_dict.pop('TinyDistillImages')


@pytest.fixture
def teacher_file(make_vit, tmp_path):
    path = tmp_path / 'teacher.pth'
    torch.save(make_vit().state_dict(), path)
    return str(path)


@pytest.fixture
def make_runner(tmp_path, teacher_file):
    """Return a function that builds a runner: 8 images, batches of 4, SGD, a checkpoint for each epoch."""

    def make(hook=None, student=None, epochs=2, work='work', hooks=(), **options) -> Runner:
        distill = dict(type='GenerativeDistillHook', teacher=TEACHER, checkpoint=teacher_file, taps=['layers.1'])
        cfg = dict(
            default_scope='mmpretrain',
            model=dict(type='TinyDistillStudent', **(student or {})),
            work_dir=str(tmp_path / work),
            train_dataloader=dict(
                batch_size=4,
                num_workers=0,
                dataset=dict(type='TinyDistillImages'),
                sampler=dict(type='DefaultSampler', shuffle=False),
                collate_fn=dict(type='default_collate'),
            ),
            train_cfg=dict(by_epoch=True, max_epochs=epochs),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9)),
            custom_hooks=[{**distill, **(hook or {})}, *hooks],
            randomness=dict(seed=0),
            log_level='WARNING',
            experiment_name=f'hgkd{next(COUNTER)}',  # runners of one second would share a message hub
        )
        cfg.update(options)
        return Runner.from_cfg(Config(cfg))

    return make


def test_collate_is_the_one_of_self_supervised_configs():
    assert default_collate([dict(inputs=torch.zeros(1))])['inputs'].shape == (1, 1)


class TestTraining:
    def test_the_teacher_is_nowhere(self, make_runner, tmp_path, teacher_file, make_vit):
        """Not in the parameters, the optimizer, the checkpoint, nor in the EMA copy; it does not change."""
        seen = {}

        class Spy(HOOKS.get('EMAHook')):
            def after_train_iter(self, runner, *args, **kwargs):
                super().after_train_iter(runner, *args, **kwargs)
                provider = runner.model.teacher
                seen['before'] = seen.get('before') or fingerprint(provider.teacher)
                seen['after'] = fingerprint(provider.teacher)
                seen['of the copy'] = self.ema_model.module.teacher
                seen['ema'] = set(self.ema_model.module.state_dict())
                seen['grad'] = [p.grad for p in provider.teacher.parameters() if p.grad is not None]
                seen['training'] = any(m.training for m in provider.teacher.modules())
                optimizer = runner.optim_wrapper.optimizer
                seen['optimized'] = sum(p.numel() for group in optimizer.param_groups for p in group['params'])

        HOOKS.register_module(name='SpyEMAHook', module=Spy)
        try:
            runner = make_runner(hooks=[dict(type='SpyEMAHook')])
            own = set(runner.model.state_dict())
            number = sum(p.numel() for p in runner.model.parameters())
            runner.train()
        finally:
            HOOKS._module_dict.pop('SpyEMAHook')
        assert seen['before'] == seen['after'] == fingerprint(make_vit())
        assert seen['of the copy'] is None and seen['ema'] == own and seen['grad'] == [] and not seen['training']
        assert seen['optimized'] == number
        checkpoint = torch.load(tmp_path / 'work/epoch_2.pth', weights_only=False)
        assert set(checkpoint['state_dict']) == own
        assert set(checkpoint['ema_state_dict']) == {'steps', *(f'module.{key}' for key in own)}

    def test_it_learns_the_targets(self, make_runner):
        runner = make_runner(epochs=20)
        runner.train()
        losses = runner.message_hub.get_scalar('train/loss_distill').data[0]
        assert losses[-1] < 0.8 * losses[0]

    def test_what_is_logged(self, make_runner):
        runner = make_runner(hook=dict(weight=dict(type='linear', start=1, end=3, end_at=4, by_epoch=False)))
        runner.train()
        assert runner.message_hub.get_scalar('train/distill_weight').data[0].tolist() == [1.0, 1.5, 2.0, 2.5]
        assert runner.message_hub.get_scalar('train/distill_target_std').current() == pytest.approx(1, abs=1e-3)

    def test_stop_epoch(self, make_runner, monkeypatch):
        calls = []
        run = TeacherProvider._run
        monkeypatch.setattr(TeacherProvider, '_run', lambda self, *args: calls.append(1) or run(self, *args))
        runner = make_runner(hook=dict(stop_epoch=1), epochs=3)
        runner.train()
        probes = 2 + PATCHES + 1  # two passes, lit patches, and what is compared with the student
        assert len(calls) == probes + 2  # two batches of the first epoch
        assert runner.message_hub.get_scalar('train/distill_weight').data[0].tolist() == [1, 1, 0, 0, 0, 0]
        assert runner.message_hub.get_scalar('train/loss_distill').data[0][2:].tolist() == [0] * 4

    def test_after_the_run_the_slot_is_empty(self, make_runner):
        runner = make_runner(epochs=1)
        runner.train()
        assert runner.model.teacher is None and 'teacher' not in runner.model._modules

    def test_a_given_network_is_used_as_it_is(self, make_runner, make_vit):
        vit = make_vit()
        hook = GenerativeDistillHook(vit, taps=['layers.1'])
        runner = make_runner(custom_hooks=[])
        runner.register_hook(hook)
        runner.train()
        assert hook.record['teacher'] == 'MAEViT' and hook.record['sha256'] == fingerprint(vit)
        assert not vit.layers[1]._forward_hooks

    def test_the_probe_draws_no_random_number(self, make_runner):
        runner = make_runner()
        hook = next(h for h in runner.hooks if isinstance(h, GenerativeDistillHook))
        before = torch.get_rng_state()
        hook.before_train(runner)
        assert torch.equal(before, torch.get_rng_state())
        assert runner.model.training

    def test_input_norm_uses_the_students_statistics(self, make_runner, make_vit):
        student = dict(data_preprocessor=dict(type='SelfSupDataPreprocessor', mean=[10, 20, 30], std=[2, 4, 8]))
        runner = make_runner(student=student, hook=dict(input_norm=dict(mean=[1, 2, 3], std=[1, 2, 2])))
        hook = next(h for h in runner.hooks if isinstance(h, GenerativeDistillHook))
        scale, shift = hook._input_norm(runner.model)
        assert scale == [2, 2, 4] and shift == [9, 9, 13.5]
        runner.train()


class TestResume:
    def test_continues_the_schedule_and_the_weights(self, make_runner, tmp_path):
        # No randomness but the mask, whose state mmengine does not store: supervise all, and the loss ignores it.
        weight = dict(type='cosine', start=1.0, end=0.0, end_at=8, by_epoch=False)
        whole = make_runner(hook=dict(weight=weight), epochs=4)
        whole.train()
        resumed = make_runner(
            hook=dict(weight=weight),
            epochs=4,
            work='resumed',
            resume=True,
            load_from=str(tmp_path / 'work/epoch_2.pth'),
        )
        resumed.train()
        for name in ('train/loss_distill', 'train/distill_weight'):
            expected, got = (runner.message_hub.get_scalar(name).data[0] for runner in (whole, resumed))
            assert len(expected) == 8 and got.tolist() == expected.tolist()
        weights = [
            torch.load(tmp_path / work / 'epoch_4.pth', weights_only=False)['state_dict']
            for work in ('work', 'resumed')
        ]
        assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])

    def test_record_in_the_checkpoint(self, make_runner, tmp_path, make_vit):
        make_runner(epochs=1).train()
        meta = load_without_code(tmp_path / 'work/epoch_1.pth')['meta']  # no class of mmengine is needed to read it
        assert meta['distill'] == dict(
            teacher=TEACHER, sha256=fingerprint(make_vit()), mode='full', taps=['layers.1'], target_norm='ln',
            input_norm=None, input_channels=None, resize_input=False, autocast=None, target_stride=16,
        )  # fmt: skip

    @pytest.mark.parametrize(
        'changed', ['weights', 'target_norm', 'taps', 'input_norm', 'input_channels', 'resize_input', 'autocast']
    )
    def test_another_teacher_is_an_error(self, make_runner, make_vit, tmp_path, changed):
        make_runner(epochs=1).train()
        other = {}
        if changed == 'weights':
            vit = make_vit()
            vit.layers[0].ln1.bias.data += 1
            torch.save(vit.state_dict(), tmp_path / 'other.pth')
            other = dict(checkpoint=str(tmp_path / 'other.pth'))
        else:
            values = dict(
                target_norm='l2', taps=['layers.0'], input_norm=dict(mean=[1] * 3, std=[2] * 3),
                input_channels=[2, 1, 0], resize_input=True, autocast='bfloat16',
            )  # fmt: skip
            other = {changed: values[changed]}
        again = dict(epochs=2, resume=True, load_from=str(tmp_path / 'work/epoch_1.pth'))
        text = 'sha256 was' if changed == 'weights' else f'{changed} was'
        with pytest.raises(ValueError, match=text):
            make_runner(hook=other, **again).train()
        make_runner(hook=dict(verify=False, **other), **again).train()

    def test_the_same_weights_in_another_network_are_an_error(self, make_runner, tmp_path):
        """The number of heads, for one, changes the targets and no weight."""
        make_runner(epochs=1).train()
        again = dict(epochs=2, resume=True, load_from=str(tmp_path / 'work/epoch_1.pth'))
        with pytest.raises(ValueError, match="teacher was .*'num_heads': 2.* is .*'num_heads': 8"):
            make_runner(hook=dict(teacher={**TEACHER, 'arch': {**ARCH, 'num_heads': 8}}), **again).train()

    def test_the_same_weights_from_another_place(self, make_runner, tmp_path, teacher_file):
        make_runner(epochs=1).train()
        teacher = {**TEACHER, 'init_cfg': dict(type='Pretrained', checkpoint=teacher_file)}
        again = dict(epochs=2, resume=True, load_from=str(tmp_path / 'work/epoch_1.pth'))
        make_runner(hook=dict(teacher=teacher, checkpoint=None), **again).train()

    def test_another_stride_of_the_targets_is_an_error(self, make_runner, tmp_path):
        make_runner(epochs=1, hook=dict(resize_input=True)).train()
        again = dict(epochs=2, resume=True, load_from=str(tmp_path / 'work/epoch_1.pth'))
        with pytest.raises(ValueError, match='target_stride was 16, is 8'):
            make_runner(hook=dict(resize_input=True), student=dict(stride=8), **again).train()

    def test_a_checkpoint_to_start_from_may_have_had_any_teacher(self, make_runner, tmp_path):
        make_runner(epochs=1).train()
        make_runner(hook=dict(target_norm='l2'), work='next', load_from=str(tmp_path / 'work/epoch_1.pth')).train()
        assert (tmp_path / 'next/epoch_1.pth').is_file()

    def test_a_teacher_in_the_checkpoint_is_an_error(self, make_runner):
        hook = GenerativeDistillHook(dict(TEACHER))
        with pytest.raises(RuntimeError, match='teacher.layers.0'):
            hook.before_save_checkpoint(None, dict(state_dict={'backbone.x': 0, 'teacher.layers.0': 0}))


class TestMisfit:
    def test_grid(self, make_runner):
        with pytest.raises(ValueError, match=r'64 x 64 pixels.*grid of 4 x 4.*predicts 8 x 8.*resize_input'):
            make_runner(student=dict(stride=8)).train()

    def test_grid_can_be_mended_by_resizing(self, make_runner):
        runner = make_runner(student=dict(stride=8), hook=dict(resize_input=True), epochs=1)
        runner.train()
        assert 0 < runner.message_hub.get_scalar('train/loss').current() < float('inf')

    def test_channels(self, make_runner):
        with pytest.raises(ValueError, match='32 channels.*predicts 48.*out_channels'):
            make_runner(student=dict(channels=48)).train()

    def test_visible_needs_its_loss(self, make_runner):
        with pytest.raises(ValueError, match="supervise='visible'"):
            make_runner(hook=dict(mode='visible')).train()
        make_runner(hook=dict(mode='visible'), student=dict(supervise='visible'), epochs=1).train()

    def test_a_model_that_is_no_student(self, make_runner):
        model = dict(type='ImageClassifier', backbone=dict(type='ResNet', depth=18), head=dict(type='ClsHead'))
        with pytest.raises(ValueError, match="the ImageClassifier of your config into .*type='HGKDDistilledModel'"):
            make_runner(model=model).train()


class TestCheckpoint:
    def test_missing(self, make_runner, tmp_path):
        with pytest.raises(FileNotFoundError, match='no.pth'):
            make_runner(hook=dict(checkpoint=str(tmp_path / 'no.pth'))).train()

    def test_missing_and_misshapen_keys(self, make_runner, make_vit, tmp_path):
        weights = make_vit().state_dict()
        del weights['layers.1.attn.qkv.weight']
        weights['ln1.bias'] = torch.zeros(3)
        torch.save(weights, tmp_path / 'holes.pth')
        text = 'qkv.weight: (96, 32) expected, nothing found; ln1.bias: (32,) expected, (3,) found'
        with pytest.raises(ValueError, match=re.escape(text)):
            make_runner(hook=dict(checkpoint=str(tmp_path / 'holes.pth'))).train()

    def test_random_weights_are_no_teacher(self, make_runner):
        with pytest.raises(ValueError, match='random weights'):
            make_runner(hook=dict(checkpoint=None)).train()


@pytest.mark.parametrize(
    ('options', 'text'),
    [
        (dict(taps='layers.1'), 'taps'),
        (dict(taps=[]), 'taps'),
        (dict(taps=['a', 'a']), 'taps'),
        (dict(verify='md5'), 'verify'),
        (dict(input_norm=dict(mean=[0, 0, 0])), 'input_norm'),
        (dict(weight=dict(type='step')), 'type of the weight'),
        (dict(weight=dict(type='cosine', begin=4, end_at=4)), 'end_at > begin'),
    ],
)
def test_bad_options(options, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        GenerativeDistillHook(dict(TEACHER), **options)
