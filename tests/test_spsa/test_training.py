"""The small configs through the hosts' Runner: train, test, resume, infer; half precision; bad data."""

from pathlib import Path

import pytest
from mmengine.runner import Runner

CLASSIFY = 'configs/spsa/spsanet-micro_1xb32-40e_clothing10.py'
REUSE = 'configs/spsa/spsa-mobilenet-v2-x0.25_1xb32-40e_clothing10.py'
DETECT = 'configs/spsa/fcos_spsanet-micro_1xb8-12e_bccd.py'


@pytest.mark.slow
@pytest.mark.parametrize('name', [CLASSIFY, REUSE, DETECT], ids=lambda name: Path(name).stem)
def test_train_test_resume(train_and_resume, name):
    weights = train_and_resume(name)
    assert not [key for key in weights if 'mixer' in key]  # nothing to store


@pytest.mark.slow
def test_the_checkpoint_is_enough_to_infer(small_cfg, repo, tmp_path):
    from mmdet.apis import DetInferencer

    Runner.from_cfg(small_cfg(DETECT)).train()
    inferencer = DetInferencer(weights=str(tmp_path / 'work/epoch_2.pth'), device='cpu', show_progress=False)
    image = str(next((repo / 'tests/data/bccd/val').glob('*.jpg')))
    assert 'labels' in inferencer(image)['predictions'][0]


@pytest.mark.slow
def test_learns(learn_by_heart):
    assert learn_by_heart(CLASSIFY) > 80


@pytest.mark.slow
def test_other_ways_to_train(small_cfg, tmp_path):
    """Accumulated gradients, an average of weights, checkpointed blocks."""
    cfg = small_cfg(CLASSIFY)
    cfg.optim_wrapper.accumulative_counts = 2
    cfg.custom_hooks = [dict(type='EMAHook', momentum=0.1)]
    cfg.model.backbone.with_cp = True
    cfg.model.backbone.mixer.mode = 'agg'
    Runner.from_cfg(cfg).train()
    assert (tmp_path / 'work/epoch_2.pth').is_file()


@pytest.mark.slow
@pytest.mark.parametrize(('host', 'name'), [('mmpretrain', CLASSIFY), ('mmdet', DETECT)])
def test_mim_from_another_folder(train_by_mim, host, name):
    train_by_mim(host, name)
