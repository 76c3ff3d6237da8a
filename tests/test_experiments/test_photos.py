"""Photos in folders: how a packed set becomes one, and how a set is trained on by its size."""

import importlib.util

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from experiments.workloads import classify
from experiments.workloads.classify import classify_photos, load_parts, plan_of


@pytest.fixture
def unpack(repo):
    """Return the function of tools/data/unpack_jpegs.py."""
    spec = importlib.util.spec_from_file_location('unpack_jpegs', repo / 'tools/data/unpack_jpegs.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.unpack


def pack(path, labels, classes=('cat', 'dog'), cut=0):
    """Write an npz of JPEGs of one gray each, ten times the place in the split."""
    arrays = dict(classes=np.array(classes))
    for name, kinds in labels.items():
        files = [cv2.imencode('.jpg', np.full((8, 8, 3), 10 * place, np.uint8))[1] for place in range(len(kinds))]
        arrays[f'{name}_jpeg'] = np.concatenate(files)
        arrays[f'{name}_offset'] = np.cumsum([0, *map(len, files)])[: None if not cut else -cut]
        arrays[f'{name}_label'] = np.array(kinds, np.uint8)
    np.savez(path, **arrays)


def test_every_jpeg_is_unpacked_below_its_class(unpack, tmp_path):
    labels = dict(train=[1, 0, 1, 1], test=[0, 1])
    pack(tmp_path / 'set.npz', labels)
    assert unpack(tmp_path / 'set.npz', tmp_path / 'set') == dict(train=4, val=2)
    for split, name in dict(train='train', val='test').items():
        files = sorted((tmp_path / 'set' / split).rglob('*.jpg'), key=lambda file: file.stem)
        assert [('cat', 'dog').index(file.parent.name) for file in files] == labels[name]
        for place, file in enumerate(files):
            assert abs(cv2.imread(str(file)).astype(int) - 10 * place).max() <= 1


def test_offsets_that_do_not_fit_are_an_error(unpack, tmp_path):
    pack(tmp_path / 'set.npz', dict(train=[0, 1], test=[0, 1]), cut=1)
    with pytest.raises(ValueError, match='train_offset has 2 entries'):
        unpack(tmp_path / 'set.npz', tmp_path / 'set')


def build(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(48, classes))


def test_folds_test_on_every_photo_once(repo):
    data = repo / 'tests/data/clothing10'
    plan = plan_of(data, size=4, epochs=1)
    assert plan.folds and (plan.size, plan.epochs) == (4, 1)
    parts = [load_parts(data, plan, seed, limit=5) for seed in range(5)]
    everything = torch.cat(parts[0][::2]).flatten(1)
    tested = torch.cat([part[2] for part in parts]).flatten(1)
    order = [sorted(map(tuple, images.tolist())) for images in (everything, tested)]
    assert order[0] == order[1]
    for images, labels, test_images, test_labels in parts:
        assert len(images) == len(labels) == 80 and test_labels.bincount().tolist() == [2] * 10
        assert not {tuple(x) for x in images.flatten(1).tolist()} & {tuple(x) for x in test_images.flatten(1).tolist()}
    found = classify_photos(build, 0, data, plan=plan, lr=1e-3, limit=5)
    assert found['majority'] == 10 and found['tested'] == '100 photos in 5 folds'


def test_a_large_set_keeps_its_test_split_and_small_photos_their_size(unpack, tmp_path, monkeypatch):
    pack(tmp_path / 'set.npz', dict(train=[0, 1] * 6, test=[0, 0, 1]))
    unpack(tmp_path / 'set.npz', tmp_path / 'set')
    assert plan_of(tmp_path / 'set', size=48, epochs=3).folds
    monkeypatch.setattr(classify, 'LARGE', 12)
    plan = plan_of(tmp_path / 'set', size=48, epochs=3)
    assert (plan.size, plan.epochs, plan.batch, plan.folds, plan.photos) == (8, 20, 128, False, 12)
    for seed in range(2):
        images, labels, test_images, test_labels = load_parts(tmp_path / 'set', plan, seed, None)
        assert labels.tolist() == [0] * 6 + [1] * 6 and test_labels.tolist() == [0, 0, 1]
        assert images.shape == (12, 3, 8, 8) and test_images.shape == (3, 3, 8, 8)
    with pytest.raises(FileNotFoundError, match='no images in .*train'):
        plan_of(tmp_path, size=48, epochs=3)


def test_training_is_watched_after_each_epoch():
    model, seen = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), []

    def watch(steps):
        model.eval()
        seen.append(steps)

    images, labels = torch.randn(7, 1, 2, 2), torch.tensor([0, 1, 0, 1, 0, 1, 0])
    classify.fit(model, images, labels, epochs=3, batch=2, lr=1e-3, seed=0, watch=watch)
    assert seen == [3, 6, 9]
