"""From the small pretraining to probes, fine-tuning, detection, segmentation: real configs and photos, few steps."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

from mmplugins.utils.weights import read_weights

PRETRAINING = 'cae-v1_vit-tiny-p8_1xb64-20e_clothing10'
DOWNSTREAM = [
    'cae-v1_vit-tiny-p8_linear-probe_1xb64-30e_clothing10',
    'cae-v1_vit-tiny-p8_attentive-probe_1xb64-30e_clothing10',
    'cae-v1_vit-tiny-p8_finetune_1xb64-20e_clothing10',
    'cae-v1_vit-tiny-p8_mask-rcnn_1xb4-4e_bccd',
    'cae-v1_vit-tiny-p8_upernet_1xb4-500i_bccd',
]


def train(config: Path, work_dir: Path, iterations: int, **changes) -> Runner:
    """Train a config of the repository for a few iterations of small batches, through the host's runner."""
    cfg = Config.fromfile(config)
    cfg.work_dir = str(work_dir)
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=iterations, val_interval=10**6)
    cfg.param_scheduler = []
    cfg.train_dataloader.batch_size = 1 if 'bccd' in config.stem else 6
    for loader in (cfg.train_dataloader, cfg.get('val_dataloader'), cfg.get('test_dataloader')):
        if loader is not None:
            loader.update(num_workers=0, persistent_workers=False)
            if loader is not cfg.train_dataloader:
                loader.dataset.indices = 1  # the loop evaluates after its last step
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=1, by_epoch=False)
    cfg.default_hooks.logger = dict(type='LoggerHook', interval=1, log_metric_by_epoch=False)
    cfg.log_processor = dict(by_epoch=False)
    cfg.experiment_name = f'{config.stem}_{work_dir.name}'
    cfg.merge_from_dict(changes)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        runner = Runner.from_cfg(cfg)
        runner.train()
    return runner


@pytest.fixture(scope='module')
def pretrained(repo, tmp_path_factory) -> Path:
    """A checkpoint of the small pretraining after two steps."""
    work_dir = tmp_path_factory.mktemp('pretrained')
    train(repo / f'configs/cae/{PRETRAINING}.py', work_dir, 2)
    return work_dir / 'iter_2.pth'


@pytest.mark.slow
@pytest.mark.parametrize('name', DOWNSTREAM, ids=lambda name: name.split('_')[2])
def test_trains_from_the_pretrained_encoder(repo, pretrained, tmp_path, name):
    checkpoint = str(pretrained)
    changes = {'model.backbone.init_cfg.checkpoint': checkpoint}
    if 'upernet' in name:  # whole images, of another grid than the bias tables; windows would take longer
        changes['model.test_cfg.mode'] = 'whole'
    runner = train(repo / f'configs/cae/{name}.py', tmp_path, 1, **changes)
    losses = runner.message_hub.get_scalar('train/loss').data[0]
    assert len(losses) == 1 and all(torch.isfinite(torch.tensor(losses)))
    # What learns has moved a little away from the pretrained weights, what is frozen not at all.
    weights = {key: value for key, value in read_weights(checkpoint).items() if key.startswith('backbone.')}
    after = runner.model.state_dict()
    frozen = 'probe' in name
    for key in ('backbone.patch_embed.projection.weight', 'backbone.layers.5.ffn.layers.0.0.weight'):
        distance = (after[key] - weights[key]).abs().max().item()
        assert distance == 0 if frozen else 0 < distance < 0.02, key
    assert torch.equal(after['backbone.pos_embed'][:, :1], weights['backbone.pos_embed'][:, :1])
