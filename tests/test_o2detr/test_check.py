"""What is said about a config before it runs, on pictures and labels that are right, and wrong in one thing."""

import weakref

import cv2
import numpy as np
import pytest
from mmengine.config import Config

from mmplugins.o2detr.__main__ import main
from mmplugins.o2detr.verbs.check import Check

LINE = '10 10 40 10 40 20 10 20 {} 0'


@pytest.fixture
def cfg(repo, tmp_path):
    """The config for one's own data, on five pictures a part."""
    cfg = Config.fromfile(repo / 'configs/o2detr/o2detr_refine-twostage_r50_1xb4-40k_custom.py')
    for part in ('train', 'val'):
        for folder in ('images', 'labelTxt'):
            (tmp_path / part / folder).mkdir(parents=True)
        for number in range(5):
            cv2.imwrite(str(tmp_path / f'{part}/images/{number}.png'), np.zeros((512, 512, 3), np.uint8))
            lines = [LINE.format('plane'), LINE.format('ship')][: 2 if number else 1]
            (tmp_path / f'{part}/labelTxt/{number}.txt').write_text('\n'.join(lines))
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.data_root = f'{tmp_path}/'
    return cfg


def faults_of(cfg):
    check = Check(cfg)
    check.run()
    return check.faults


def test_facts_are_those_of_the_data(cfg):
    check = Check(cfg)
    check.run()
    assert not check.faults
    assert check.facts == [
        'train: 5 pictures; plane 5, ship 4; 0 of them difficult: background',
        'train: pictures of 512x512, enlarged 2 times',
        'train: 40,000 iterations of 4 pictures, 32000.0 times all, on one GPU',
        'val: 5 pictures; plane 5, ship 4; 0 of them difficult: not counted',
        'val: pictures of 512x512, enlarged 2 times',
    ]


def test_a_class_without_objects_is_a_fact(cfg, tmp_path):
    for path in tmp_path.glob('val/labelTxt/*.txt'):
        path.write_text(LINE.format('plane'))
    check = Check(cfg)
    check.run()
    assert not check.faults and 'val: no object of ship' in check.facts


def test_wrong_labels(cfg, tmp_path):
    (tmp_path / 'val/labelTxt/3.txt').write_text(LINE.format('boat'))
    assert len(faults_of(cfg)) == 1 and "3.txt, line 1: class 'boat' is none of" in faults_of(cfg)[0]


@pytest.mark.parametrize(
    ('line', 'error'),
    [
        ('gsd:0.15', 'could not convert string to float'),
        ('10 10 40 10 40 20 10 20 ship', 'IndexError'),
        (LINE.format('boat'), "KeyError('boat')"),
    ],
    ids=['header', 'no difficult', 'class'],
)
def test_labels_that_the_hosts_data_set_cannot_read(cfg, tmp_path, line, error):
    cfg.train_dataloader.dataset.type = 'DOTADataset'
    (tmp_path / 'train/labelTxt/3.txt').write_text(line)
    (fault,) = faults_of(cfg)
    assert fault.startswith(f'train: {error}') and fault.endswith("type='DOTATextDataset' names file and line")


def test_one_picture_is_in_memory_at_a_time(cfg, monkeypatch):
    alive, read = [], cv2.imread

    def reading(path):
        assert sum(picture() is not None for picture in alive) <= 1  # the one before
        image = read(path)
        alive.append(weakref.ref(image))
        return image

    monkeypatch.setattr(cv2, 'imread', reading)
    assert not faults_of(cfg) and len(alive) == 10


def test_pictures_that_are_none(cfg, tmp_path):
    (tmp_path / 'train/images/1.png').unlink()
    (tmp_path / 'train/images/2.png').write_text('no picture')
    (fault,) = faults_of(cfg)
    assert fault.startswith('train: no picture can be read from') and '1.png' in fault and '2.png' in fault


def test_objects_outside(cfg, tmp_path):
    (tmp_path / 'train/labelTxt/0.txt').write_text('600 10 640 10 640 20 600 20 ship 0')
    (fault,) = faults_of(cfg)
    assert fault.startswith('train: 1 objects lie outside of their picture') and '0.png' in fault


def test_pictures_of_another_scale(cfg, tmp_path):
    for path in tmp_path.glob('val/images/*.png'):
        cv2.imwrite(str(path), np.zeros((2048, 2048, 3), np.uint8))
    (fault,) = faults_of(cfg)
    assert '2 times in train, 0.5 times in val' in fault


def test_a_size_that_is_drawn_is_not_compared(cfg):
    pipeline = cfg.train_dataloader.dataset.pipeline
    place = next(index for index, step in enumerate(pipeline) if step['type'].endswith('Resize'))
    pipeline[place] = dict(type='mmdet.RandomResize', scale=[(512, 512), (1024, 1024)], keep_ratio=True)
    check = Check(cfg)
    check.run()
    assert not check.faults and 'train: pictures of 512x512, enlarged to a size that is drawn' in check.facts


def test_a_config_that_does_not_train(cfg):
    cfg.train_cfg = None
    assert not faults_of(cfg)


@pytest.mark.parametrize(
    ('key', 'value', 'message'),
    [
        ('model.bbox_head.num_classes', 15, r'the data have 2 classes, num_classes of the heads is [15]'),
        ('model.num_queries', 1, 'a picture has 2 objects, more than num_queries=1 can find'),
    ],
)
def test_a_model_for_other_data(cfg, key, value, message):
    cfg.merge_from_dict({key: value})
    assert faults_of(cfg) == [message]


def test_command(cfg, tmp_path, capsys):
    cfg.dump(tmp_path / 'mine.py')
    assert main(['check', str(tmp_path / 'mine.py')]) == 0
    assert 'nothing wrong was found' in capsys.readouterr().out
    (tmp_path / 'val/images/0.png').unlink()
    assert main(['check', str(tmp_path / 'mine.py')]) == 1
    assert 'val: no picture can be read' in capsys.readouterr().err
    assert main(['check', 'absent.py']) == 1 and 'not found: absent.py' in capsys.readouterr().err
