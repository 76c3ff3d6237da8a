"""What training needs: precision, compilation, averages, checkpoints, several processes."""

import copy
import random

import numpy as np
import pytest
import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import ExponentialMovingAverage, MMDistributedDataParallel
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmengine.runner.checkpoint import get_state_dict, load_state_dict
from torch.utils._python_dispatch import TorchDispatchMode

both = pytest.mark.parametrize('version', [1, 2])


def total(losses):
    return sum(losses.values())


@both
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
def test_autocast(small_model, small_batch, version, dtype):
    model, batch = small_model(version).eval(), small_batch()
    exact = total(model.loss(*batch))
    with torch.autocast('cpu', dtype):
        loss = total(model.loss(*batch))
    loss.backward()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, exact, atol=0.02, rtol=0.02)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@both
def test_checkpointing_gives_the_same_gradients(small_model, small_batch, version):
    plain, batch = small_model(version), small_batch()
    lean = small_model(version, backbone=dict(with_cp=True), neck=dict(with_cp=True))
    lean.load_state_dict(plain.state_dict())
    for model in (plain, lean):
        total(model.loss(*batch)).backward()
    theirs = dict(plain.named_parameters())
    for name, parameter in lean.named_parameters():
        if parameter.requires_grad and parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, theirs[name].grad, msg=name)
    assert [p.grad is None for p in lean.parameters()] == [p.grad is None for p in plain.parameters()]


@both
def test_whole_model_in_bfloat16(small_model, small_batch, version):
    model, (images, samples) = small_model(version).eval(), small_batch()
    exact = total(model.loss(images, samples))
    weights = [one.clone() for one in model.target_generator.buffers()]
    model.bfloat16()
    loss = total(model.loss(images, samples))
    loss.backward()
    torch.testing.assert_close(loss, exact, atol=0.02, rtol=0.02)
    for one, other in zip(model.target_generator.buffers(), weights, strict=True):
        assert torch.equal(one, other) and one.dtype == torch.float32


def counted(model, images, samples):
    """The batch as the preprocessor gives it to the model."""
    data = model.data_preprocessor(dict(inputs=images, data_samples=samples), True)
    return data['inputs'], data['data_samples']


class Synchronizations(TorchDispatchMode):
    """Counts what makes the host wait for a device: values that are read, shapes that depend on values."""

    waits = ('_local_scalar_dense', 'nonzero', 'is_nonzero', 'masked_select', 'item', 'equal')

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in self.waits:
            self.seen.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(('version', 'kwargs'), [(1, {}), (1, dict(momentum=0.9)), (2, {})], ids=str)
def test_the_host_never_waits_in_a_step(small_model, small_batch, version, kwargs):
    model = small_model(version, backbone=dict(drop_path_rate=0.1), **kwargs)
    batch = counted(model, *small_batch())
    model.num_steps = 1  # in the first one it looks whether the loss is finite
    with Synchronizations() as mode:
        model.parse_losses(model.loss(*batch))[0].backward()
    assert mode.seen == []


@both
def test_places_are_split_once(small_model, small_batch, version):
    model = small_model(version)
    batch = counted(model, *small_batch())
    with torch.profiler.profile() as profile:
        model.loss(*batch)
    calls = {event.key: event.count for event in profile.key_averages()}
    assert calls['aten::argsort'] == 1


@pytest.mark.slow
@both
def test_loss_compiles_to_one_graph(small_model, small_batch, version):
    model = small_model(version, neck=dict(regressor_depth=1)).train()
    batch = counted(model, *small_batch())
    exact = total(model.loss(*batch))
    compiled = torch.compile(model.loss, backend='aot_eager', fullgraph=True)  # fails if there are two
    loss = total(compiled(*batch))
    torch.testing.assert_close(loss, exact)
    loss.backward()
    assert model.backbone.layers[0].attn.qkv.weight.grad.any()


@both
def test_moving_average_of_the_model(small_model, small_batch, version):
    model, batch = small_model(version).eval(), small_batch()
    average = ExponentialMovingAverage(model, momentum=0.5)
    start = model.backbone.cls_token.clone()
    average.update_parameters(model)  # the first one copies
    model.backbone.cls_token.data += 1
    average.update_parameters(model)
    torch.testing.assert_close(average.module.backbone.cls_token, start + 0.5)
    assert torch.isfinite(total(average.module.loss(*batch)))


@pytest.fixture
def alone(tmp_path):
    """A process group of one, on the CPU."""
    dist.init_process_group('gloo', init_method=f'file://{tmp_path}/group', rank=0, world_size=1)
    yield
    dist.destroy_process_group()


CASES = [
    (1, dict()),
    (1, dict(head=dict(align_weight=0.0))),
    (1, dict(head=dict(recon_weight=0.0))),
    (1, dict(momentum=0.9)),
    (2, dict()),
    (2, dict(head=dict(supervision='visible'))),
    (2, dict(head=dict(supervision='masked'))),
    (2, dict(neck=dict(embed_dims=24), head=dict(with_cls=False))),
]


@pytest.mark.parametrize(('version', 'kwargs'), CASES, ids=str)
def test_ddp_need_not_look_for_unused_parameters(small_model, small_batch, alone, version, kwargs):
    model = MMDistributedDataParallel(small_model(version, **kwargs), device_ids=None)
    images, samples = small_batch()
    for _ in range(2):  # the second step fails if a parameter of the first got no gradient
        total(model(images, samples, mode='loss')).backward()
    assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]


VIT = dict(
    type='VisionTransformer',
    arch=dict(embed_dims=32, num_layers=1, num_heads=2, feedforward_channels=64),
    img_size=(24, 40),
    patch_size=8,
    out_type='raw',
)


def with_teacher(small_model, init_cfg=None):
    target = dict(type='FrozenFeatureTarget', backbone=VIT, init_cfg=init_cfg)
    return small_model(2, neck=dict(num_classes=32), target_generator=target)


def test_target_with_a_file_stays_out_of_checkpoints(small_model, tmp_path):
    source = with_teacher(small_model)
    assert any(name.startswith('target_generator.') for name in get_state_dict(source))  # it is nowhere else
    torch.save(source.target_generator.state_dict(), tmp_path / 'teacher.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'teacher.pth'))
    model = with_teacher(small_model, init_cfg)
    for state in (get_state_dict(model), model.state_dict()):
        assert not any(name.startswith('target_generator.') for name in state)
        assert any(name.startswith('neck.regressors.') for name in state)
    again = with_teacher(small_model, init_cfg)
    again.load_state_dict(model.state_dict())  # strict: nothing is called missing
    load_state_dict(again, get_state_dict(model), strict=True)
    for one, other in zip(again.parameters(), model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert copy.deepcopy(model).state_dict().keys() == model.state_dict().keys()
    average = ExponentialMovingAverage(model)
    average.load_state_dict(average.state_dict(), strict=True)


def small_run(repo, work_dir, epochs, version=1, **changes):
    """The small config with a shallow encoder, 32 photos and two steps an epoch."""
    name = f'cae-v{version}_vit-tiny-p8_1xb64-20e_clothing10.py'
    cfg = Config.fromfile(repo / 'configs/cae' / name)
    cfg.work_dir = str(work_dir)
    cfg.model.backbone.arch = dict(embed_dims=48, num_layers=2, num_heads=4, feedforward_channels=96)
    cfg.model.neck.update(in_channels=48, embed_dims=48, num_heads=4, regressor_depth=1)
    cfg.train_dataloader.update(batch_size=16, num_workers=0, persistent_workers=False)
    cfg.train_dataloader.dataset.indices = 32
    cfg.train_cfg.max_epochs = epochs
    cfg.default_hooks.checkpoint.update(interval=1, max_keep_ckpts=4)
    cfg.merge_from_dict(changes)
    return cfg


class SeedOfEpoch(Hook):
    """Makes the random numbers of an epoch those of its number; a resumed run starts from new ones otherwise."""

    def before_train_epoch(self, runner):
        for seed in (torch.manual_seed, np.random.seed, random.seed):
            seed(runner.epoch)


def train(cfg):
    init_default_scope('mmpretrain')
    cfg.experiment_name = str(cfg.work_dir).replace('/', '-')
    runner = Runner.from_cfg(cfg)
    runner.register_hook(SeedOfEpoch(), priority='VERY_HIGH')
    runner.train()
    return runner


@pytest.mark.slow
@both
def test_training_resumes_where_it_stopped(repo, tmp_path, version):
    schedule = [dict(type='ConstantLR', factor=1.0, by_epoch=True, begin=0, end=9)]
    changes = dict(custom_hooks=[dict(type='EMAHook', momentum=0.1)], param_scheduler=schedule, version=version)
    train(small_run(repo, tmp_path / 'whole', 2, **changes))
    train(small_run(repo, tmp_path / 'parts', 1, **changes))
    cfg = small_run(repo, tmp_path / 'parts', 2, **changes)
    cfg.resume = True
    train(cfg)
    whole, parts = (torch.load(tmp_path / name / 'epoch_2.pth', weights_only=False) for name in ('whole', 'parts'))
    for key in ('state_dict', 'ema_state_dict'):
        assert whole[key].keys() == parts[key].keys()
        for name, value in whole[key].items():
            torch.testing.assert_close(value, parts[key][name], msg=f'{key}: {name}')
    name = 'backbone.layers.0.attn.qkv.weight'
    assert not torch.equal(whole['state_dict'][name], whole['ema_state_dict'][f'module.{name}'])
