"""Samples that are parsed once for all processes of a node."""

import json
import multiprocessing
import os
import pickle
import time
from pathlib import Path

import pytest
from mmdet.registry import DATASETS

from mmplugins.metr import VocabCocoDataset
from mmplugins.metr.data import coco_dataset
from mmplugins.metr.data.sample_file import SampleFile, shared_samples

BOX = [4, 6, 20, 10]
IMAGES = [[('dog', BOX), ('cat', BOX)], [], [('dog', [5, 5, 7.25, 9.1])]]


@pytest.fixture
def cfg(write_coco, tmp_path):
    return {**write_coco('A', ['cat', 'dog'], IMAGES), 'cache_dir': str(tmp_path / 'cache')}


@pytest.fixture
def parses(monkeypatch) -> list:
    """Return the list of files that were parsed."""
    files, checked = [], coco_dataset.CheckedCOCO
    monkeypatch.setattr(coco_dataset, 'CheckedCOCO', lambda path, **kw: files.append(path) or checked(path, **kw))
    return files


def infos(dataset) -> list[dict]:
    return [dataset.get_data_info(i) for i in range(len(dataset))]


def test_samples_are_those_of_a_set_without_a_file(cfg, parses):
    plain = DATASETS.build({**cfg, 'cache_dir': None, 'serialize_data': True})
    first, second = DATASETS.build(cfg), DATASETS.build(cfg)
    assert infos(first) == infos(second) == infos(plain)
    assert infos(first)[-1] == infos(plain)[-1] == first.get_data_info(-1)
    assert first.metainfo == second.metainfo == plain.metainfo
    assert [second.get_cat_ids(i) for i in range(3)] == [plain.get_cat_ids(i) for i in range(3)] == [[1, 0], [], [1]]
    assert len(parses) == 2  # the plain one and the first


def test_a_copy_is_changed_and_not_the_file(cfg):
    dataset = DATASETS.build(cfg)
    dataset.get_data_info(0)['instances'].clear()
    assert len(dataset.get_data_info(0)['instances']) == 2


@pytest.mark.parametrize(
    'change',
    [
        dict(filter_cfg=dict(filter_empty_gt=True)),
        dict(metainfo=dict(classes=['dog'])),
        dict(indices=2),
        dict(return_classes=True),
        dict(return_classes=True, caption_prompt=dict(dog=dict(prefix='a small ', suffix=''))),
        dict(data_prefix=dict(img='', seg='masks'), seg_map_suffix='.tif'),
    ],
    ids=str,
)
def test_other_options_are_another_file(cfg, parses, change):
    DATASETS.build(cfg)
    plain = DATASETS.build({**cfg, **change, 'cache_dir': None})
    assert infos(DATASETS.build({**cfg, **change})) == infos(plain)
    assert len(parses) == 3


def test_another_class_is_another_file(cfg):
    class NamesOnly(VocabCocoDataset):
        def parse_data_info(self, raw_data_info):
            return dict(super().parse_data_info(raw_data_info), instances=[])

    arguments = {key: value for key, value in cfg.items() if key != 'type'}
    assert len(VocabCocoDataset(**arguments).get_data_info(0)['instances']) == 2
    assert NamesOnly(**arguments).get_data_info(0)['instances'] == []


@pytest.mark.parametrize(
    ('change', 'text'),
    [
        (dict(proposal_file='found.pkl'), 'keeps no proposals.*found.pkl'),
        (
            dict(ann_file='https://no.host/a.json'),
            'needs an annotation file on this machine.*no.host/a.json',
        ),
    ],
    ids=['proposals', 'server'],
)
def test_what_no_file_can_hold_is_refused(cfg, change, text):
    with pytest.raises(ValueError, match=text):
        DATASETS.build({**cfg, **change})
    assert not Path(cfg['cache_dir']).exists()


def test_a_changed_annotation_file_is_parsed_anew(cfg, parses):
    """Also if its size and its date stay."""
    DATASETS.build(cfg)
    path = Path(cfg['data_root'], 'ann.json')
    times = os.stat(path)
    path.write_text(path.read_text().replace('"dog"', '"cow"'))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert DATASETS.build(cfg).metainfo['classes'] == ('cat', 'cow')
    assert len(parses) == 2


def test_a_pickle_is_the_place_and_not_the_content(cfg):
    dataset = DATASETS.build(cfg)
    content = pickle.dumps(dataset.data_list)
    assert len(content) < 300
    assert infos(pickle.loads(pickle.dumps(dataset))) == infos(dataset)


def test_folder_without_permission(cfg, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, 'Permission denied')

    monkeypatch.setattr('mmplugins.metr.data.sample_file.write_samples', refuse)
    with pytest.raises(PermissionError, match='cannot be kept in .*cache: Permission denied. Give `cache_dir`'):
        DATASETS.build(cfg)


def test_what_fails_leaves_nothing_behind(tmp_path):
    source = tmp_path / 'ann.json'
    source.write_text('{}')

    def make():
        yield dict(instances=[])
        raise ValueError('cut off')

    with pytest.raises(ValueError, match='cut off'):
        shared_samples(tmp_path / 'cache', source, {}, lambda: (make(), {}))
    assert [path.suffix for path in (tmp_path / 'cache').iterdir()] == ['.lock']


def _build(folder: str, source: str, log: str) -> None:
    def make():
        with open(log, 'a') as file:
            file.write('x')
        time.sleep(0.3)
        return [dict(instances=[dict(bbox_label=3)])], {}

    assert shared_samples(folder, source, {}, make).labels(0) == [3]


def test_of_several_processes_one_parses(tmp_path):
    source = tmp_path / 'ann.json'
    source.write_text(json.dumps({}))
    context = multiprocessing.get_context('fork')
    arguments = (str(tmp_path / 'cache'), str(source), str(tmp_path / 'log'))
    processes = [context.Process(target=_build, args=arguments) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0] * 4
    assert (tmp_path / 'log').read_text() == 'x'


def test_a_set_without_images_can_be_written(tmp_path):
    source = tmp_path / 'ann.json'
    source.write_text('{}')
    assert len(shared_samples(tmp_path, source, {}, lambda: ([], {}))) == 0
    with pytest.raises(IndexError):
        SampleFile(next(tmp_path.glob('*.samples')))[0]
