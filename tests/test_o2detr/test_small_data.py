"""The oriented samples: what the files hold, and a run of the small config through train, test, resume and inference.

Training is too short to learn here; what a trained model does is measured by the README's commands.
"""

import json
import re
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

SMALL = 'configs/o2detr/o2detr_refine-twostage_r18-w16_1xb4-36e_hit-uav.py'
CROP = np.array([[0, 0], [160, 0], [160, 160], [0, 160]], np.float32)


@pytest.fixture(scope='module')
def data(repo) -> Path:
    return repo / 'tests/data/hit_uav'


def rows_of(data: Path, part: str) -> dict[str, list[list[str]]]:
    return {
        path.stem: [line.split() for line in path.read_text().splitlines()]
        for path in (data / part / 'labelTxt').glob('*.txt')
    }


@pytest.mark.parametrize(
    ('part', 'crops', 'counts', 'difficult'),
    [
        ('train', 338, dict(vehicle=487, bicycle=451, person=859), 131),
        ('val', 107, dict(vehicle=195, bicycle=244, person=128), 48),
    ],
)
def test_counts_of_the_readme(data, part, crops, counts, difficult):
    rows = rows_of(data, part)
    found = Counter(row[8] for image in rows.values() for row in image if row[9] == '0')
    assert (len(rows), found) == (crops, counts)
    assert sum(row[9] == '1' for image in rows.values() for row in image) == difficult
    assert {path.stem for path in (data / part / 'images').glob('*.jpg')} == set(rows)


def test_parts_share_no_capture_condition(data):
    # <day or night>_<height>_<angle>_<weather>_<frame>__<size>__<x>___<y>
    conditions = [
        {name.rpartition('__160__')[0].rpartition('_')[0] for name in rows_of(data, p)} for p in ('train', 'val')
    ]
    assert not conditions[0] & conditions[1] and all(conditions)


def test_objects_are_rectangles_inside_their_crop_or_difficult(data):
    for part in ('train', 'val'):
        for image in rows_of(data, part).values():
            for row in image:
                corners = np.array(row[:8], float).reshape(4, 2)
                sides = np.linalg.norm(corners - np.roll(corners, -1, 0), axis=1)
                assert abs(sides[0] - sides[2]) < 0.5 and abs(sides[1] - sides[3]) < 0.5, row
                box = corners.astype(np.float32)
                share = cv2.intersectConvexConvex(box, CROP)[0] / cv2.contourArea(box)
                assert row[9] == '1' or share > 0.98, row


def test_size(data):
    files = [path for path in data.rglob('*') if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 3e6


@pytest.mark.parametrize('rows', ['', '20 20 60 20 60 40 20 40 vehicle 1\n'], ids=['no_objects', 'difficult_only'])
def test_patches_without_objects_train(repo, data, tmp_path, rows):
    from mmengine.dataset import pseudo_collate
    from mmengine.registry import init_default_scope
    from mmrotate.registry import DATASETS, MODELS

    cfg = Config.fromfile(repo / SMALL)
    init_default_scope('mmrotate')
    for kind in ('images', 'labelTxt'):
        (tmp_path / 'train' / kind).mkdir(parents=True)
    image = sorted((data / 'train/images').glob('*.jpg'))[0]
    (tmp_path / 'train/images' / image.name).write_bytes(image.read_bytes())
    (tmp_path / f'train/labelTxt/{image.stem}.txt').write_text(rows)
    settings = cfg.train_dataloader.dataset
    settings.data_root = str(tmp_path)
    settings.filter_cfg.filter_empty_gt = False
    dataset = DATASETS.build(settings)
    model = MODELS.build(cfg.model).train()
    batch = model.data_preprocessor(pseudo_collate([dataset[0]]), True)
    losses = model.loss(batch['inputs'], batch['data_samples'])
    assert all(value.isfinite() for value in losses.values())
    assert losses['loss_cls'] > 0 and losses['loss_bbox'] == 0 == losses['loss_iou']


@pytest.fixture(scope='module')
def short_cfg(repo, data, tmp_path_factory):
    """Return a function that gives the small config, cut to eight images, two epochs and a third of the sides."""
    folder = tmp_path_factory.mktemp('few')
    for part in ('train', 'val'):
        for kind in ('images', 'labelTxt'):
            (folder / part / kind).mkdir(parents=True)
        for path in sorted((data / part / 'labelTxt').glob('*.txt'))[:8]:
            (folder / part / 'labelTxt' / path.name).write_text(path.read_text())
            image = data / part / 'images' / f'{path.stem}.jpg'
            (folder / part / 'images' / image.name).write_bytes(image.read_bytes())

    def make(work_dir: Path, epochs: int = 2) -> Config:
        cfg = Config.fromfile(repo / SMALL)
        for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
            loader.update(num_workers=0, persistent_workers=False)
            loader.dataset.data_root = str(folder)
            for step in loader.dataset.pipeline:
                if step.type == 'mmdet.Resize':
                    step.scale = (96, 96)
        cfg.work_dir = str(work_dir)
        # mmengine does not store the state of random generators: a resumed run flips other images than an uninterrupted
        # one, and makes other noise. Validation starts processes for each class.
        cfg.model.dn_cfg = None
        cfg.train_dataloader.dataset.pipeline = [
            step for step in cfg.train_dataloader.dataset.pipeline if step.type != 'mmdet.RandomFlip'
        ]
        cfg.val_dataloader = cfg.val_evaluator = cfg.val_cfg = None
        cfg.train_cfg.max_epochs = epochs
        cfg.param_scheduler = []
        cfg.default_hooks.visualization.draw = False
        cfg.log_level = 'WARNING'
        return cfg

    return make


@pytest.fixture(scope='module')
def trained(short_cfg, tmp_path_factory) -> Path:
    """Work dir of an uninterrupted run of two epochs."""
    work_dir = tmp_path_factory.mktemp('trained')
    Runner.from_cfg(short_cfg(work_dir)).train()
    return work_dir


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=False)['state_dict']  # the optimizer's state holds numpy numbers


@pytest.mark.slow
def test_resume_equals_an_uninterrupted_run(trained, short_cfg, tmp_path):
    cfg = short_cfg(tmp_path)
    cfg.load_from, cfg.resume = str(trained / 'epoch_1.pth'), True
    Runner.from_cfg(cfg).train()
    expected, found = weights(trained / 'epoch_2.pth'), weights(tmp_path / 'epoch_2.pth')
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=0, msg=name)


@pytest.mark.slow
def test_submission_of_the_patches(trained, short_cfg, tmp_path, capsys):
    from mmplugins.o2detr.__main__ import main

    cfg = short_cfg(tmp_path / 'log')
    cfg.dump(tmp_path / 'small.py')
    images = Path(cfg.test_dataloader.dataset.data_root) / 'val/images'
    arguments = ['submit', tmp_path / 'small.py', trained / 'epoch_2.pth', images, '--out', tmp_path / 'Task1']
    assert main([*map(str, arguments)]) == 0, capsys.readouterr().err
    assert (tmp_path / 'Task1/Task1.zip').is_file()
    frames = {path.stem.split('__')[0] for path in images.glob('*')}
    lines = [
        line.split()
        for name in ('vehicle', 'bicycle', 'person')
        for line in (tmp_path / f'Task1/Task1_{name}.txt').read_text().splitlines()
    ]
    assert lines and {line[0] for line in lines} <= frames
    # Boxes are where the crop was: 160 pixels from the corner that its name states, and a box may stick out.
    corners = np.array([line[2:] for line in lines], float).reshape(len(lines), 4, 2)
    places = {}
    for path in images.glob('*'):
        x, y = map(int, re.search(r'__(\d+)___(\d+)', path.stem).groups())
        places.setdefault(path.stem.split('__')[0], []).append((x, y))
    for line, center in zip(lines, corners.mean(1), strict=True):
        assert any(((center >= xy) & (center <= np.add(xy, 160))).all() for xy in places[line[0]]), line
    assert main([*map(str, arguments)]) == 1
    assert 'exists: name another folder' in capsys.readouterr().err


@pytest.mark.slow
def test_a_large_image_by_patches(trained, short_cfg, data, tmp_path):
    from mmplugins.o2detr.__main__ import main

    short_cfg(tmp_path / 'log').dump(tmp_path / 'small.py')
    crops = [cv2.imread(str(path)) for path in sorted((data / 'val/images').glob('*.jpg'))[:4]]
    image = np.vstack([np.hstack(crops[:2]), np.hstack(crops[2:])])[:250, :310]
    cv2.imwrite(str(tmp_path / 'large.png'), image)
    files = [tmp_path / 'small.py', trained / 'epoch_2.pth', tmp_path / 'large.png', '--out', tmp_path / 'found']
    # Of two epochs on eight crops, no score is high.
    assert main(['detect', *map(str, files), '--patch', '160', '--overlap', '40', '--score-thr', '0']) == 0
    found = json.loads((tmp_path / 'found/large.json').read_text())
    boxes = np.array(found['bboxes'])
    assert boxes.shape == (len(found['scores']), 5) and len(boxes) and found['scores'] == sorted(found['scores'])[::-1]
    assert (boxes[:, :2] >= 0).all() and (boxes[:, :2] <= (310, 250)).all() and (boxes[:, 2] >= boxes[:, 3]).all()
    assert boxes[:, 0].max() > 160 and boxes[:, 1].max() > 160, 'nothing outside the first patch'
    assert cv2.imread(str(tmp_path / 'found/large.jpg')).shape == image.shape


@pytest.mark.slow
def test_inferencer_on_a_path_and_an_array(trained, short_cfg, data, tmp_path):
    from mmdet.apis import DetInferencer

    short_cfg(tmp_path).dump(tmp_path / 'small.py')
    inferencer = DetInferencer(
        str(tmp_path / 'small.py'), str(trained / 'epoch_2.pth'), device='cpu', scope='mmrotate', show_progress=False
    )
    path = sorted((data / 'val/images').glob('*.jpg'))[0]
    by_path = inferencer(str(path), out_dir=str(tmp_path), no_save_pred=False, pred_score_thr=0.0)['predictions'][0]
    by_array = inferencer(cv2.imread(str(path)))['predictions'][0]
    np.testing.assert_allclose(by_path['bboxes'], by_array['bboxes'], rtol=0, atol=1e-3)
    assert all(len(box) == 5 for box in by_path['bboxes']) and len(by_path['bboxes']) == 60
    saved = json.loads((tmp_path / 'preds' / f'{path.stem}.json').read_text())
    np.testing.assert_allclose(saved['bboxes'], by_path['bboxes'])
    drawn, plain = cv2.imread(str(tmp_path / 'vis' / path.name)).astype(int), cv2.imread(str(path)).astype(int)
    # The frame is grey; polygons have colors.
    assert np.ptp(plain, axis=2).max() < 10 < 60 < np.ptp(drawn, axis=2).max()
