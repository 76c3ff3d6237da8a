"""Labels as people have them: what is read equals the host's reading of a tidy file, and what is not is named."""

from pathlib import Path

import pytest
from mmrotate.datasets import DOTADataset
from mmrotate.registry import DATASETS

CLASSES = ('ship', 'large-vehicle')
TIDY = ['1 2 11 2 11 8 1 8 ship 0', '5.5 5 9 5 9 20 5.5 20 large-vehicle 2', '0 0 4 0 4 4 0 4 ship 1']


@pytest.fixture
def folder(tmp_path):
    def write(**files: str) -> dict:
        for name, text in files.items():
            Path(tmp_path, f'{name}.txt').write_text(text, encoding='utf-8')
        prefix = dict(img_path=str(tmp_path / 'images'))
        return dict(ann_file=str(tmp_path), data_prefix=prefix, metainfo=dict(classes=CLASSES), pipeline=[])

    return write


def read(cfg, **more):
    return DATASETS.build(dict(type='DOTATextDataset', **cfg, **more))


def pictures_of(dataset):
    """By name: the host reads files in any order."""
    return {info['img_id']: info | dict(sample_idx=None) for info in map(dataset.get_data_info, range(len(dataset)))}


UNTIDY = {
    'tidy': TIDY,
    'headers': ['imagesource:GoogleEarth', 'gsd:0.146343590398', *TIDY],
    'blank lines': [TIDY[0], '', TIDY[1], '   ', TIDY[2], ''],
    'byte order mark': ['\ufeff' + TIDY[0], *TIDY[1:]],
    'tabs': ['\t'.join(line.split()) for line in TIDY],
}


@pytest.mark.parametrize('diff_thr', [0, 1, 100])
@pytest.mark.parametrize('name', UNTIDY)
def test_is_the_hosts_reading_of_a_tidy_file(folder, name, diff_thr):
    cfg = folder(a='\n'.join(TIDY), b='\n'.join(TIDY[:1]))
    expected = pictures_of(DOTADataset(**cfg, diff_thr=diff_thr))
    found = read(folder(a='\n'.join(UNTIDY[name])), diff_thr=diff_thr)
    assert pictures_of(found) == expected


def test_without_the_last_column_nothing_is_difficult(folder):
    cfg = folder(a='\n'.join(line.rpartition(' ')[0] for line in TIDY))
    assert [x['ignore_flag'] for x in read(cfg, diff_thr=0).get_data_info(0)['instances']] == [0, 0, 0]


def test_an_empty_file_is_a_picture_without_objects(folder):
    assert read(folder(a='')).get_data_info(0)['instances'] == []


@pytest.mark.parametrize(
    ('line', 'message'),
    [
        ('1 2 3 4 5 6 7 8', '8 fields, not eight numbers, a class and'),
        ('1 2 3 4 5 6 7 8 large vehicle 0', '11 fields'),
        ('1 2 3 4 5 6 7 eight ship 0', "could not convert string to float: 'eight'"),
        ('1 2 3 4 5 6 7 nan ship 0', 'corners 1 2 3 4 5 6 7 nan are not all numbers'),
        ('1 2 3 4 5 6 7 inf ship', 'are not all numbers'),
        ('1 2 3 4 5 6 7 8 boat 0', "class 'boat' is none of ship, large-vehicle"),
        ('1 2 3 4 5 6 7 8 ship hard', "'hard'"),
        ('1 2 3 4 5 6 7 8 ship inf', 'infinity'),
    ],
)
def test_file_and_line_are_named(folder, line, message):
    with pytest.raises(ValueError, match=rf'1 lines of labels cannot be read:\n.*b\.txt, line 2: .*{message}'):
        read(folder(a=TIDY[0], b=f'{TIDY[0]}\n{line}'))


def test_a_file_in_another_encoding_is_named(folder):
    data = folder(a=TIDY[0])
    Path(data['ann_file'], 'b.txt').write_bytes(b'caf\xe9')
    with pytest.raises(ValueError, match=r'b\.txt: not in UTF-8'):
        read(data)


def test_the_first_of_many_are_named(folder):
    with pytest.raises(ValueError, match='^20 lines') as error:
        read(folder(a='1 2 3\n' * 20))
    assert str(error.value).count('a.txt, line') == 5


def test_no_labels(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match='is no folder of label files'):
        read({**folder(), 'ann_file': str(tmp_path / 'absent')})
