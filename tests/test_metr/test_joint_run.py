"""The joint run of the paper on stand-ins in the layouts of the published sets: prepare, check, train, kill, resume."""

import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mmengine.config import Config

from mmplugins.metr.__main__ import main

CONFIG = 'configs/metr/metr_dino-4scale_r50_32xb1-12e_coco-o365-oid.py'
# What fits a CPU.
SMALL = {
    'model.backbone.init_cfg': None,
    'model.backbone.frozen_stages': 4,
    'model.encoder.num_layers': 2,
    'model.decoder.num_layers': 2,
    'model.num_queries': 20,
    'model.num_categories': 5,
    'model.dn_cfg.group_cfg.num_dn_queries': 10,
    'train_cfg.max_iters': 50,
    'train_cfg.val_interval': 50,
    'default_hooks.checkpoint.interval': 20,
    'default_hooks.logger.interval': 10,
    'train_dataloader.num_workers': 0,
    'train_dataloader.persistent_workers': False,
    'val_dataloader.num_workers': 0,
    'val_dataloader.persistent_workers': False,
}


@pytest.fixture
def config(standins, tmp_path, repo, monkeypatch) -> Path:
    """Return the file of the joint config, made small; three sets, as they are published, lie in ``data`` beside it."""
    for family in ('coco', 'objects365v2', 'openimages'):
        standins.FAMILIES[family](tmp_path / 'data' / family)
    monkeypatch.chdir(tmp_path)
    cfg = Config.fromfile(repo / CONFIG)
    cfg.merge_from_dict(SMALL)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        importlib.import_module('standins.rehearsal').shrink_sides(loader, 8)
    cfg.dump(tmp_path / 'joint.py')
    return Path('joint.py')


@pytest.mark.slow
def test_fifty_iterations_through_a_kill(config, capsys):
    assert main(['prepare', 'objects365', 'data/objects365v2']) == 0
    assert main(['prepare', 'openimages', 'data/openimages']) == 0
    capsys.readouterr()
    assert main(['prepare', 'check', str(config)]) == 0
    # As the stand-ins were written: three boxes an image; one image of Objects365 is on mmdet's list of bad ones.
    counts = capsys.readouterr().out
    assert 'train_dataloader: 12 samples of 793 names' in counts
    assert 'objects365: 3 images, 0 of them in no folder, 9 boxes, 365 names' in counts
    assert 'openimages: 4 images, 0 of them in no folder, 12 boxes, 601 names' in counts

    command = [str(Path(sys.executable).with_name('mim')), 'train', 'mmdet', str(config), '--work-dir', 'w']
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
    with open('out.txt', 'w') as out:
        run = subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True)
        deadline = time.time() + 240
        while not Path('w/iter_20.pth').is_file():
            assert run.poll() is None and time.time() < deadline, Path('out.txt').read_text()[-3000:]
            time.sleep(0.05)
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    assert not Path('w/iter_40.pth').exists()
    done = subprocess.run([*command, '--resume'], env=environment, capture_output=True, text=True, timeout=300)
    text = done.stdout + done.stderr
    assert done.returncode == 0, text[-3000:]
    assert 'Advance dataloader 20 steps' in text
    assert 'Iter(train) [30/50]' in text and 'Iter(train) [20/50]' not in text
    assert Path('w/iter_50.pth').is_file()
    assert 'openimages/openimages/mAP' in text
