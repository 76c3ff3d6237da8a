"""Folders of classes as CUB, miniImageNet and CIFAR-FS have them, each with a list of its own."""

import json
from pathlib import Path

import pytest
from PIL import Image

from mmplugins.its_maml import FewShotFolder


@pytest.fixture
def make(tmp_path):
    """Write empty pictures and return the folder."""

    def make(*names: str) -> Path:
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new('RGB', (5, 4)).save(path)
        return tmp_path

    return make


def members(root: Path, part: str, **kwargs) -> dict[str, list[str]]:
    """Files by class."""
    dataset = FewShotFolder(data_root=str(root), part=part, **kwargs)
    found = {name: [] for name in dataset.CLASSES}
    for i in range(len(dataset)):
        info = dataset.get_data_info(i)
        found[dataset.CLASSES[info['gt_label']]].append(Path(info['img_path']).relative_to(root).as_posix())
    return found


def test_csv_of_mini_imagenet(make):
    root = make('images/n01.jpg', 'images/n02.jpg', 'images/n03.jpg')
    (root / 'train.csv').write_text('filename,label\nn03.jpg,n9\nn01.jpg,n1\nn02.jpg,n9\n')
    assert members(root, 'train') == {'n9': ['images/n03.jpg', 'images/n02.jpg'], 'n1': ['images/n01.jpg']}


def test_json_of_easy_few_shot_learning(make):
    root = make('images/001.Albatross/a.jpg', 'images/001.Albatross/b.jpg', 'images/002.Wren/a.jpg')
    given = dict(class_names=['Albatross'], class_roots=['./data/CUB/images/001.Albatross'])
    (root / 'val.json').write_text(json.dumps(given))
    assert members(root, 'val') == {'Albatross': ['images/001.Albatross/a.jpg', 'images/001.Albatross/b.jpg']}


def test_json_of_chen_et_al(make):
    """Two classes have a file of the same name: the folder in the list tells them apart."""
    root = make('images/A/1.jpg', 'images/B/1.jpg', 'images/B/2.jpg')
    given = dict(
        label_names=['B', 'A'],
        image_names=['/home/x/CUB/images/A/1.jpg', '/home/x/CUB/images/B/1.jpg'],
        image_labels=[1, 0],
    )
    (root / 'novel.json').write_text(json.dumps(given))
    assert members(root, 'test') == {'A': ['images/A/1.jpg'], 'B': ['images/B/1.jpg']}


def test_lists_of_files_by_class(make):
    root = make('x/1.png', 'x/2.png')
    (root / 'base.json').write_text(json.dumps(dict(one=['x/1.png'], two=['x/2.png'])))
    assert members(root, 'train') == {'one': ['x/1.png'], 'two': ['x/2.png']}


def test_lists_of_cifar_fs(make):
    root = make('data/bear/a.png', 'data/bear/b.png', 'data/bus/a.png')
    (root / 'splits/bertinetto').mkdir(parents=True)
    (root / 'splits/bertinetto/val.txt').write_text('bus\n')
    assert members(root, 'val') == {'bus': ['data/bus/a.png']}


def test_folders_of_the_parts(make):
    root = make('train/a/1.png', 'test/b/1.png', 'test/c/1.png')
    assert members(root, 'test') == {'b': ['test/b/1.png'], 'c': ['test/c/1.png']}


def test_a_part_without_classes_of_its_own_takes_not_those_of_others(make):
    root = make('train/a/1.png', 'train/b/1.png', 'test/c/1.png')
    with pytest.raises(FileNotFoundError, match='which classes are train and test, but not which are val: add val.csv'):
        FewShotFolder(data_root=str(root), part='val')
    (root / 'novel.txt').write_text('c\n')
    assert members(root, 'test') == {'c': ['test/c/1.png']}
    with pytest.raises(FileNotFoundError, match='not which are val'):
        FewShotFolder(data_root=str(root), part='val')


def test_folders_of_a_part_are_told_from_files_by_their_kind(make, monkeypatch):
    """Python 3.10 gives files too where a pattern ends with a slash."""
    glob = Path.glob
    monkeypatch.setattr(Path, 'glob', lambda path, pattern: glob(path, pattern.rstrip('/')))
    root = make(*(f'{name}/1.png' for name in ('train', 'bus', 'car', 'ship', 'bike')))
    assert len(members(root, 'train')) == 3


def test_hidden_files_are_not_what_a_list_names(make):
    root = make('images/a.png', '__MACOSX/images/a.png', '.cache/a.png')
    (root / '__MACOSX/train.csv').write_text('')
    (root / 'train.csv').write_text('filename,label\na.png,one\n')
    assert members(root, 'train') == {'one': ['images/a.png']}


def test_a_hidden_folder_makes_no_part(make):
    root = make(
        *(f'{name}/1.png' for name in ('train', 'bus', 'car', 'ship', 'bike')), 'train/.ipynb_checkpoints/1.png'
    )
    assert len(members(root, 'train')) == 3


def test_a_class_may_be_called_train(make):
    root = make(*(f'{name}/1.png' for name in ('train', 'bus', 'car', 'ship', 'bike')))
    assert len(members(root, 'train')) == 3


def test_classes_are_divided_by_a_seed(make):
    root = make(*(f'{letter}/1.png' for letter in 'abcdefghij'))
    parts = {part: members(root, part) for part in ('train', 'val', 'test')}
    assert {part: len(found) for part, found in parts.items()} == {'train': 6, 'val': 2, 'test': 2}
    names = [name for found in parts.values() for name in found]
    assert sorted(names) == list('abcdefghij')
    assert all(files == [f'{name}/1.png'] for found in parts.values() for name, files in found.items())
    assert set(members(root, 'test', seed=1)) != set(parts['test'])


def test_what_is_wrong_is_named(make):
    root = make('images/n01.jpg')
    with pytest.raises(ValueError, match="got 'query'"):
        FewShotFolder(data_root=str(root), part='query')
    (root / 'train.csv').write_text('file,label\nn01.jpg,a\n')
    with pytest.raises(ValueError, match='needs filename and label'):
        FewShotFolder(data_root=str(root), part='train')
    (root / 'train.csv').write_text('filename,label\nn01.jpg,a\nn02.jpg,a\n')
    with pytest.raises(FileNotFoundError, match='lists n02.jpg of class a'):
        FewShotFolder(data_root=str(root), part='train')
    make('other/n01.jpg')
    with pytest.raises(ValueError, match='lists n01.jpg, which may be'):
        FewShotFolder(data_root=str(root), part='train')
    (root / 'base.json').write_text('{}')
    with pytest.raises(ValueError, match='all list the part train'):
        FewShotFolder(data_root=str(root), part='train')
    (root / 'train.csv').unlink()
    with pytest.raises(ValueError, match='expected class_names'):
        FewShotFolder(data_root=str(root), part='train')
