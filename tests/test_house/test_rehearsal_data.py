"""The stand-ins have the layouts of the world: the hosts' own data sets read them, with the hosts' default names."""

import pytest
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, init_default_scope
from PIL import Image

COCO = dict(ann_file='annotations/instances_train2017.json', data_prefix=dict(img='train2017/'))
OBJECTS365 = dict(ann_file='annotations/zhiyuan_objv2_train.json', data_prefix=dict(img='train/'))
LVIS = dict(ann_file='annotations/lvis_v1_train.json', data_prefix=dict(img=''))
OPENIMAGES = dict(
    ann_file='annotations/oidv6-train-annotations-bbox.csv',
    data_prefix=dict(img='train/'),
    label_file='annotations/class-descriptions-boxable.csv',
    hierarchy_file='annotations/bbox_labels_600_hierarchy.json',
    meta_file='annotations/train-image-metas.pkl',
    image_level_ann_file='annotations/train-annotations-human-imagelabels-boxable.csv',
)
ADE = dict(data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'))
VOC = dict(ann_file='VOC2007/ImageSets/Main/trainval.txt', data_prefix=dict(sub_data_root='VOC2007/'))
PATCHES = dict(ann_file='trainval/annfiles/', data_prefix=dict(img_path='trainval/images/'))
DIOR = dict(ann_file='ImageSets/Main/train.txt', data_prefix=dict(img_path='JPEGImages-trainval'))
HRSC = dict(ann_file='ImageSets/trainval.txt', data_prefix=dict(sub_data_root='FullDataSet/'))
FOLDERS = dict(data_prefix='train')

# Folder below data/, data set of a host, its arguments, how many pictures.
READERS = [
    ('coco', 'mmdet.CocoDataset', COCO, 5),
    ('objects365v2', 'mmdet.Objects365V2Dataset', OBJECTS365, 3),  # the host knows the names of the absent files
    ('lvis_v1', 'mmdet.LVISV1Dataset', LVIS, 4),
    ('openimages', 'mmdet.OpenImagesDataset', OPENIMAGES, 4),
    ('VOCdevkit', 'mmdet.VOCDataset', VOC, 4),
    ('imagenet', 'mmpretrain.ImageNet', dict(split='train'), 4),
    ('mini-imagenet', 'mmpretrain.CustomDataset', FOLDERS, 150),
    ('VOCdevkit/VOC2007', 'mmpretrain.VOC', dict(split='test'), 2),
    ('ade/ADEChallengeData2016', 'mmseg.ADE20KDataset', ADE, 8),
    ('split_ss_dota', 'mmrotate.DOTADataset', PATCHES, 6),
    ('DIOR', 'mmrotate.DIORDataset', DIOR, 4),
    ('hrsc', 'mmrotate.HRSCDataset', HRSC, 5),
]


@pytest.mark.parametrize(('folder', 'reader', 'arguments', 'count'), READERS, ids=[row[1] for row in READERS])
def test_host_reads_it(folder, reader, arguments, count, data):
    if reader.endswith('LVISV1Dataset'):
        pytest.importorskip('lvis', reason="the host's LVIS dataset needs lvis-api")
    init_default_scope(reader.partition('.')[0])
    dataset: BaseDataset = DATASETS.build(dict(type=reader, data_root=str(data / folder), pipeline=[], **arguments))
    dataset.full_init()
    assert len(dataset) == count
    for i in range(count):
        Image.open(dataset.get_data_info(i)['img_path']).load()


def test_raw_dota_has_two_header_lines(data):
    lines = (data / 'DOTA/train/labelTxt-v1.0/P0000.txt').read_text().splitlines()
    assert [line.partition(':')[0] for line in lines[:2]] == ['imagesource', 'gsd']
    assert all(len(line.split()) == 10 for line in lines[2:])


def test_same_seed_same_files(standins, data, tmp_path):
    standins.coco.write(tmp_path)
    for path in tmp_path.rglob('*.*'):
        assert path.read_bytes() == (data / 'coco' / path.relative_to(tmp_path)).read_bytes()
