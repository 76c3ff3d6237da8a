"""Lists of images with prompts, and the dataset on them."""

import json

import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS
from PIL import Image

from mmplugins.prompt_tuning_inversion import LoadEditImage
from mmplugins.prompt_tuning_inversion.pairs.lists import decode_mask, read_pairs

PIE = {
    '000000000000': dict(
        image_path='0_random/a.jpg', original_prompt='a [red]  car', editing_prompt='a [yellow] car',
        editing_type_id='6', blended_word='car car', mask=[0, 3, 1000, 2],
    ),
    '112': dict(image_path='b.jpg', original_prompt='x', editing_prompt='y', editing_type_id=9, mask=[]),
}  # fmt: skip


def write(folder, content, name='pairs.json'):
    (folder / name).write_text(json.dumps(content))
    return folder / name


def test_our_list(tmp_path):
    entries = [dict(image='x/a.png', prompt='p'), dict(image='b.png', prompt='q', source_prompt='s', id='me', type='t')]
    first, second = read_pairs(write(tmp_path, entries))
    assert first == dict(
        sample_id='x_a', img_path=str(tmp_path / 'x/a.png'), prompt='p', source_prompt=None, edit_type='', mask=None
    )  # fmt: skip
    assert (second['sample_id'], second['source_prompt'], second['edit_type']) == ('me', 's', 't')
    assert read_pairs(tmp_path / 'pairs.json', tmp_path / 'else')[0]['img_path'] == str(tmp_path / 'else/x/a.png')


def test_pie_bench(tmp_path):
    first, second = read_pairs(write(tmp_path, PIE, 'mapping_file.json'))
    assert first['prompt'] == 'a yellow car'
    assert first['source_prompt'] == 'a red car'
    assert first['img_path'] == str(tmp_path / 'annotation_images/0_random/a.jpg')
    assert (first['edit_type'], second['edit_type']) == ('change color', 'change style')


def test_folder(tmp_path):
    for name in ('b.png', 'a.JPG', 'notes.md'):
        (tmp_path / name).touch()
    (tmp_path / 'a.txt').write_text('a blue cat\n\na red cat\n')
    (tmp_path / 'b.txt').write_text('a dog')
    first, second = read_pairs(tmp_path)
    assert (first['sample_id'], first['prompt'], first['source_prompt']) == ('a', 'a blue cat', 'a red cat')
    assert (second['prompt'], second['source_prompt']) == ('a dog', None)
    (tmp_path / 'b.txt').unlink()
    assert read_pairs(tmp_path, prompt='for all')[1]['prompt'] == 'for all'
    with pytest.raises(ValueError, match=r'b.png has no prompt: write it to b.txt'):
        read_pairs(tmp_path)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ([], 'holds no images'),
        ([dict(image='a.png')], "entry 0: 'prompt' must be a text, got None"),
        ([dict(image='a.png', prompt='p'), 3], 'entry 1: must be a dict'),
        ([dict(image='a.png', prompt='p')] * 2, "the id 'a' is there twice"),
        ([dict(image='a.png', prompt='p', id='../x')], 'the id names a folder'),
        ('text', 'must hold a list'),
        ({'1': dict(image_path='a', original_prompt='b')}, "1: 'editing_prompt' must be a text"),
    ],
    ids=['empty', 'no prompt', 'no dict', 'twice', 'bad id', 'text', 'pie'],
)
def test_wrong_lists(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        read_pairs(write(tmp_path, content))


def test_no_list(tmp_path):
    with pytest.raises(FileNotFoundError, match='no file or folder'):
        read_pairs(tmp_path / 'x.json')
    (tmp_path / 'x.json').write_text('[')
    with pytest.raises(ValueError, match='is not JSON'):
        read_pairs(tmp_path / 'x.json')


def test_mask_is_runs_over_the_rows():
    mask = decode_mask([9, 2, 20, 100], size=8)
    expected = np.zeros(64, dtype=bool)
    expected[9:11] = expected[20:] = True
    expected = expected.reshape(8, 8)
    assert (mask[1:-1, 1:-1] == expected[1:-1, 1:-1]).all()
    assert mask[0].all() and mask[-1].all() and mask[:, 0].all() and mask[:, -1].all()
    with pytest.raises(ValueError, match='pairs of start and length'):
        decode_mask([1, 2, 3])
    with pytest.raises(ValueError, match='pairs of start and length'):
        decode_mask([70, 1], size=8)


@pytest.fixture
def pie_folder(tmp_path):
    write(tmp_path, PIE, 'mapping_file.json')
    (tmp_path / 'annotation_images/0_random').mkdir(parents=True)
    Image.new('RGB', (512, 512), 'red').save(tmp_path / 'annotation_images/0_random/a.jpg')
    return tmp_path


def build(**kwargs):
    return DATASETS.build(dict(type='EditPairDataset', **kwargs))


def test_dataset_of_pie_bench(pie_folder):
    pipeline = [dict(type='LoadEditImage', size=64, multiple=8)]
    dataset = build(
        data_root=str(pie_folder), ann_file='mapping_file.json', edit_types=['change color'], pipeline=pipeline
    )
    assert len(dataset) == 1
    item = dataset[0]
    assert item['inputs'].shape == (3, 64, 64)
    sample = item['data_samples']
    assert (sample.prompt, sample.source_prompt, sample.sample_id) == ('a yellow car', 'a red car', '000000000000')
    expected = torch.zeros(64, 64, dtype=torch.bool)
    # Nearest: pixel (0, 0) of eight by eight is the fifth of the old ones, which is not in a run.
    assert torch.equal(sample.mask, expected)
    with pytest.raises(ValueError, match=r"no edits of types \['x'\].*\['change color', 'change style'\]"):
        build(data_root=str(pie_folder), ann_file='mapping_file.json', edit_types=['x'])


def test_image_root_is_under_data_root(pie_folder):
    dataset = build(data_root=str(pie_folder), ann_file='mapping_file.json', image_root='other')
    assert dataset[0]['img_path'] == str(pie_folder / 'other/0_random/a.jpg')
    elsewhere = build(data_root=str(pie_folder), ann_file='mapping_file.json', image_root='/elsewhere')
    assert elsewhere[0]['img_path'] == '/elsewhere/0_random/a.jpg'


def test_transform_refuses_other_resizes():
    with pytest.raises(ValueError, match='resize must be one of'):
        LoadEditImage(resize='crop')
