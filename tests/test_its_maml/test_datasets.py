import sys

import numpy as np
import pytest
from PIL import Image

from mmplugins.its_maml import DigitsDataset, LeafFolderDataset, PackedDataset
from mmplugins.its_maml.verbs import predict


@pytest.fixture
def packed(tmp_path):
    """Two classes of three drawings of 4x6 pixels, random bits."""
    images = np.random.default_rng(0).integers(0, 2, (2, 3, 4, 6), dtype=np.uint8)
    bits = np.packbits(images.reshape(2, 3, -1), axis=-1)
    np.savez(tmp_path / 'drawings.npz', bits=bits, shape=[4, 6], classes=['train/A/01', 'val/B/01'])
    return tmp_path, images


def test_drawings_are_unpacked(packed):
    folder, images = packed
    dataset = PackedDataset(data_root=str(folder), ann_file='drawings.npz')
    assert len(dataset) == 6 and dataset.CLASSES == ('train/A/01', 'val/B/01')
    for i in range(6):
        sample = dataset.get_data_info(i)
        assert sample['gt_label'] == i // 3
        assert (sample['img'][..., 0] == images[i // 3, i % 3] * 255).all()


def test_part_is_chosen_by_name(packed):
    dataset = PackedDataset(data_root=str(packed[0]), ann_file='drawings.npz', part='val')
    assert dataset.CLASSES == ('val/B/01',) and dataset.get_gt_labels().tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match=r"no class of part 'test'.*\['train', 'val'\]"):
        PackedDataset(data_root=str(packed[0]), ann_file='drawings.npz', part='test')


def test_pooled_pixels_are_the_share_of_ink(packed):
    folder, images = packed
    dataset = PackedDataset(data_root=str(folder), ann_file='drawings.npz', pool=2)
    expected = images[1, 2].reshape(2, 2, 3, 2).mean((1, 3)) * 255
    assert np.abs(dataset.get_data_info(5)['img'][..., 0] - expected).max() <= 0.5
    with pytest.raises(ValueError, match='pool=3 does not divide images of 4 x 6'):
        PackedDataset(data_root=str(folder), ann_file='drawings.npz', pool=3)


def test_turns_need_square_images(packed):
    with pytest.raises(ValueError, match='needs square images'):
        PackedDataset(data_root=str(packed[0]), ann_file='drawings.npz', turns=(0, 1))
    half = PackedDataset(data_root=str(packed[0]), ann_file='drawings.npz', turns=(0, 2))
    assert (half.get_data_info(6)['img'] == half.get_data_info(0)['img'][::-1, ::-1]).all()


def test_turned_digits_are_classes_of_their_own():
    dataset = DigitsDataset(digits=(3, 8), turns=(0, 1, 2, 3))
    assert len(dataset.CLASSES) == 8 and dataset.CLASSES[:3] == ('3', '8', '3/turn1')
    labels = dataset.get_gt_labels()
    counts = np.bincount(labels)
    assert (counts[0::2] == counts[0]).all() and (counts[1::2] == counts[1]).all() and counts.min() > 170
    first = [np.flatnonzero(labels == label)[0] for label in (0, 2)]
    images = [dataset.get_data_info(int(i))['img'][..., 0] for i in first]
    assert (np.rot90(images[0]) == images[1]).all()
    assert images[0].max() <= 255 and images[0].max() > 200


def test_digits_without_scikit_learn_name_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, 'sklearn.datasets', None)
    with pytest.raises(ImportError, match='pip install scikit-learn'):
        DigitsDataset()


@pytest.fixture
def folders(tmp_path):
    for name in ('Greek/01/a.png', 'Greek/01/b.png', 'Greek/02/a.jpg', 'Greeklish/01/a.png', 'notes.txt'):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == '.txt':
            path.write_text('')
        else:
            Image.new('L', (5, 4)).save(path)
    return tmp_path


def test_leaf_folders_are_classes(folders):
    dataset = LeafFolderDataset(data_root=str(folders))
    assert dataset.CLASSES == ('Greek/01', 'Greek/02', 'Greeklish/01')
    assert dataset.get_gt_labels().tolist() == [0, 0, 1, 2]
    assert dataset.get_data_info(2)['img_path'].endswith('Greek/02/a.jpg')


def test_hidden_files_and_those_of_an_archive_are_no_images(folders, tmp_path):
    """As macOS and notebooks leave them; the folder itself may be hidden."""
    root = folders.rename(tmp_path.parent / f'.{tmp_path.name}')
    for name in ('Greek/01/._a.png', 'Greek/.ipynb_checkpoints/a.png', '__MACOSX/Greek/01/a.png'):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b'')
    dataset = LeafFolderDataset(data_root=str(root))
    assert dataset.CLASSES == ('Greek/01', 'Greek/02', 'Greeklish/01') and len(dataset) == 4
    assert len(predict.image_files(root)) == 4


def test_a_parent_takes_all_below_it(folders):
    assert LeafFolderDataset(data_root=str(folders), classes=['Greek']).CLASSES == ('Greek/01', 'Greek/02')
    file = folders / 'split.txt'
    file.write_text('Greek/02\nGreeklish\n')
    dataset = LeafFolderDataset(data_root=str(folders), classes=str(file))
    assert dataset.CLASSES == ('Greek/02', 'Greeklish/01') and dataset.get_gt_labels().tolist() == [0, 1]


def test_missing_folders_are_named(folders, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"1 of the classes.*'Latin'"):
        LeafFolderDataset(data_root=str(folders), classes=['Greek', 'Latin'])
    with pytest.raises(FileNotFoundError, match='no images below'):
        LeafFolderDataset(data_root=str(tmp_path / 'absent'))
