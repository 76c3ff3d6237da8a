import copy
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.registry import DATA_SAMPLERS, DATASETS
from mmengine.runner import Runner

from mmplugins.metr import MultiVocabConcatDataset, Vocabulary

TWO = {'A': ['cat', 'dog'], 'B': ['Dog', 'traffic_light']}
BOX = [4, 6, 20, 10]  # xywh


@pytest.fixture
def two(write_coco):
    """Configs of the sets A (two images) and B (three); B's file lists its categories in reverse."""
    a = write_coco('A', ['cat', 'dog'], [[('dog', BOX), ('cat', BOX)], [('dog', BOX)]])
    b = write_coco('B', ['traffic_light', 'Dog'], [[('Dog', BOX)], [('traffic_light', BOX)] * 2, []])
    return {name: {**cfg, 'metainfo': dict(classes=TWO[name])} for name, cfg in dict(A=a, B=b).items()}


# --- VocabCocoDataset -------------------------------------------------------------------------------------------------


def build(cfg: dict, **kwargs):
    return DATASETS.build({**cfg, **kwargs})


def names_by_image(dataset) -> list[list[str]]:
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    return [[dataset.metainfo['classes'][instance['bbox_label']] for instance in info['instances']] for info in infos]


@pytest.mark.parametrize('classes', [['Dog', 'traffic_light'], ['TRAFFIC-LIGHT', 'dog'], None])
def test_names_are_right_whatever_order_the_config_has(two, classes):
    """mmdet's CocoDataset shows 'traffic_light' for every dog here."""
    dataset = build({**two['B'], 'metainfo': None if classes is None else dict(classes=classes)})
    assert names_by_image(dataset) == [['Dog'], ['traffic_light'] * 2, []]


def test_one_class_that_is_no_list(two):
    assert names_by_image(build({**two['A'], 'metainfo': dict(classes='dog')})) == [['dog'], ['dog']]


def test_a_subset_of_the_files_categories(two):
    assert names_by_image(build({**two['A'], 'metainfo': dict(classes=['dog'])})) == [['dog'], ['dog']]


def test_boxes_are_clipped_and_dropped_with_one_warning(write_coco, warnings_logged):
    """The image is 64 wide and 48 high."""
    boxes = [[-10, 5, 30, 10], [50, 40, 30, 30], [0.5, 0.5, 63.9, 20], [70, 5, 10, 10], [5, 5, 0, 10]]
    boxes += [[5, 5, -3, 10], [5, 5, 0.5, 10], [5, 5, None, 10], [5, 5, 10], [5, 5, 10, 10]]

    def edit(data):
        for annotation, box in zip(data['annotations'], boxes, strict=True):
            annotation['bbox'] = box
        data['annotations'][0]['area'] = None
        del data['annotations'][-1]['area'], data['annotations'][-1]['iscrowd']

    cfg = write_coco('A', ['cat'], [[('cat', BOX)] * len(boxes)], edit=edit)
    found = [instance['bbox'] for instance in build(cfg).get_data_info(0)['instances']]
    assert found == [[0, 5, 20, 15], [50, 40, 64, 48], [0.5, 0.5, 64, 20.5], [5, 5, 15, 15]]
    (line,) = warnings_logged
    assert 'ann.json: 2 boxes' in line
    assert ' 6 are degenerate or outside' in line


def broken(key):
    """Return (edit of the COCO dict, text of the error)."""
    return {
        'no images': (lambda d: d['images'].clear(), '0 images and 2 categories'),
        'no categories': (lambda d: d['categories'].clear(), '2 images and 0 categories'),
        'no list of annotations': (lambda d: d.pop('annotations'), 'not a COCO annotation file'),
        'not COCO': (lambda d: d.pop('images'), 'not a COCO annotation file'),
        'image twice': (lambda d: d['images'].append(d['images'][0]), r'image ids .* more than once: \[1\]'),
        'category twice': (lambda d: d['categories'].append(d['categories'][1]), r'category ids .*: \[2\]'),
        'annotation twice': (lambda d: d['annotations'].append(d['annotations'][0]), r'annotation ids .*: \[1\]'),
        'one name twice': (lambda d: d['categories'].append(dict(id=9, name='CAT')), r"one name: \['cat'\]"),
        'no file name': (lambda d: d['images'][1].pop('file_name'), 'image number 1 has no file_name'),
        'no size': (lambda d: d['images'][0].pop('width'), 'image number 0 has no width'),
        'no box': (lambda d: d['annotations'][2].pop('bbox'), 'annotation number 2 has no bbox'),
        'unlisted image': (lambda d: d['annotations'][0].update(image_id=7), r"image_ids .*not list: \['7'\]"),
        'unlisted category': (lambda d: d['annotations'][0].update(category_id=7), r"does not list: \['7'\]"),
    }[key]


@pytest.mark.parametrize(
    'key',
    ['no images', 'no categories', 'no list of annotations', 'not COCO', 'image twice', 'category twice']
    + ['annotation twice', 'one name twice', 'no file name', 'no size', 'no box', 'unlisted category']
    + ['unlisted image'],
)
def test_broken_annotations(write_coco, key):
    edit, text = broken(key)
    cfg = write_coco('A', ['cat', 'dog'], [[('dog', BOX), ('cat', BOX)], [('dog', BOX)]], edit=edit)
    with pytest.raises(ValueError, match=text) as error:
        build(cfg)
    assert 'ann.json' in str(error.value)


def test_ids_as_people_write_them(write_coco):
    """Numbers in one list and text in the other; annotations that count from 0 or have no id."""

    def edit(data):
        for image in data['images']:
            image['id'] = str(image['id'])
        for number, annotation in enumerate(data['annotations']):
            annotation.update(id=number, category_id=str(annotation['category_id']))
        del data['annotations'][1]['id']

    cfg = write_coco('A', ['cat', 'dog'], [[('dog', BOX), ('cat', BOX)], [('dog', BOX)]], edit=edit)
    assert names_by_image(build(cfg)) == [['dog', 'cat'], ['dog']]


@pytest.mark.parametrize(('content', 'text'), [('', 'is empty'), ('{"images": [', 'cut off'), ('[1]', 'not a COCO')])
def test_broken_file(two, content, text):
    Path(two['A']['data_root'], 'ann.json').write_text(content)
    with pytest.raises(ValueError, match=text):
        build(two['A'])


def test_missing_file_and_missing_category(two):
    with pytest.raises(FileNotFoundError, match='none.json'):
        build(two['A'], ann_file='none.json')
    with pytest.raises(ValueError, match=r"no category \['zebra'\]; it has \['cat', 'dog'\]"):
        build(two['A'], metainfo=dict(classes=['dog', 'zebra']))


def test_nothing_left_after_the_filter(two):
    with pytest.raises(ValueError, match='no image is left.*min_size'):
        build(two['A'], filter_cfg=dict(min_size=100))


def test_a_test_set_needs_no_annotations(write_coco):
    cfg = write_coco('A', ['cat'], [[], []], edit=lambda d: d.pop('annotations'))
    assert names_by_image(build(cfg, test_mode=True)) == [[], []]


def test_lazy_needs_no_file_if_the_classes_are_given(two):
    dataset = build({**two['A'], 'ann_file': 'none.json'}, lazy_init=True)
    assert tuple(dataset.metainfo['classes']) == ('cat', 'dog')


# --- MultiVocabConcatDataset ------------------------------------------------------------------------------------------


def expected_names(name: str) -> list[list[str]]:
    a, b = [['dog', 'cat'], ['dog']], [['dog'], ['traffic_light'] * 2, []]
    return {'A': a, 'B': b, 'AB': a + b}[name]


@pytest.mark.parametrize('given', [False, True], ids=['built', 'given'])
def test_labels_are_rows_of_the_vocabulary_in_every_form(two, pipeline, given):
    """Spec of the labels: name -> local -> global, in the annotation, the plain sample and the packed sample."""
    vocabulary = dict(datasets=TWO) if given else None
    packed = MultiVocabConcatDataset(two, vocabulary, pipeline=pipeline())
    plain = MultiVocabConcatDataset(two, vocabulary, pipeline=[dict(type='LoadAnnotations', with_bbox=True)])
    classes = packed.metainfo['classes']
    assert set(classes) == {'cat', 'dog', 'traffic_light'}
    for idx, names in enumerate(expected_names('AB')):
        name = 'A' if idx < 2 else 'B'
        info, sample = packed.get_data_info(idx), packed[idx]['data_samples']
        assert [classes[i['bbox_label']] for i in info['instances']] == names
        assert [classes[i] for i in packed.get_cat_ids(idx)] == names
        assert [classes[i] for i in sample.gt_instances.labels] == names
        assert [classes[i] for i in plain[idx]['gt_bboxes_labels']] == names
        assert info['dataset_name'] == sample.dataset_name == plain[idx]['dataset_name'] == name
        assert sample.gt_instances.labels.dtype == torch.int64


def test_ignored_instances_and_raw_instances_are_mapped(write_coco):
    cfg = write_coco(
        'B', ['traffic_light', 'Dog'], [[('Dog', BOX)]], edit=lambda d: d['annotations'][0].update(iscrowd=1)
    )
    steps = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True)]
    steps += [dict(type='PackDetInputs', meta_keys=('img_id', 'instances'))]
    sample = MultiVocabConcatDataset(dict(B=cfg), dict(datasets=TWO), pipeline=steps)[0]['data_samples']
    assert len(sample.gt_instances) == 0
    assert sample.ignored_instances.labels.tolist() == [1]
    assert sample.instances[0]['bbox_label'] == 1


def test_metainfo_is_one_dict(two):
    meta = MultiVocabConcatDataset(two, dict(datasets=TWO)).metainfo
    assert meta['classes'] == ('cat', 'dog', 'traffic_light')
    assert meta['datasets'] == {'A': [0, 1], 'B': [1, 2]}
    assert meta['cumulative_sizes'] == [2, 5]
    assert len(set(meta['palette'])) == 3
    assert all(0 <= channel <= 255 for color in meta['palette'] for channel in color)


def test_a_third_dataset_moves_nothing(two, write_coco):
    third = write_coco('C', ['zebra', 'CAT'], [[('CAT', BOX)]])
    old = MultiVocabConcatDataset(two, dict(datasets=TWO))
    new = MultiVocabConcatDataset({**two, 'C': third}, dict(datasets={**TWO, 'C': ['CAT', 'zebra']}))
    assert new.metainfo['classes'][:3] == old.metainfo['classes']
    assert new.metainfo['palette'][:3] == old.metainfo['palette']
    assert [new.get_cat_ids(i) for i in range(5)] == [old.get_cat_ids(i) for i in range(5)]
    assert new.get_cat_ids(5) == [0]


def test_renamed_only_dataset_gives_the_same_samples(write_coco):
    images = [[('tv', BOX), ('hand bag', BOX)], [('hand bag', BOX)]]
    renamed = [[(dict(tv='TV').get(name, 'Hand_Bag'), box) for name, box in image] for image in images]
    one = MultiVocabConcatDataset(dict(A=write_coco('one', ['tv', 'hand bag'], images)))
    other = MultiVocabConcatDataset(dict(A=write_coco('other', ['TV', 'Hand_Bag'], renamed)))
    assert [one.get_cat_ids(i) for i in range(2)] == [other.get_cat_ids(i) for i in range(2)]
    assert one.vocabulary.lookup_names == other.vocabulary.lookup_names


def test_one_dataset_of_the_vocabulary(two):
    """Finetuning or evaluation on one: rows are those of the joint training."""
    dataset = MultiVocabConcatDataset(dict(B=two['B']), dict(datasets=TWO))
    assert [dataset.get_cat_ids(i) for i in range(3)] == [[1], [2, 2], []]
    assert dataset.metainfo['cumulative_sizes'] == [3]
    assert len(dataset.metainfo['classes']) == 3


@pytest.mark.parametrize(
    'wrap',
    [
        lambda d: dict(type='RepeatDataset', times=2, dataset=d),
        lambda d: dict(type='ClassBalancedDataset', oversample_thr=1e-3, dataset=d),
        lambda d: dict(
            type='MultiImageMixDataset',
            dataset={**d, 'pipeline': [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True)]},
            pipeline=[dict(type='RandomFlip', prob=0.0)],
        ),
        lambda d: dict(type='RepeatDataset', times=2, dataset=dict(type='RepeatDataset', times=1, dataset=d)),
    ],
    ids=['repeat', 'class balanced', 'mix', 'nested'],
)
@pytest.mark.parametrize('given', [False, True], ids=['built', 'given'])
def test_wrapped_datasets(two, wrap, given):
    """Labels of a wrapped B are as of a bare one; the shared pipeline reaches the innermost dataset."""
    steps = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True)]
    dataset = MultiVocabConcatDataset(dict(B=wrap(two['B'])), dict(datasets=TWO) if given else None, pipeline=steps)
    classes = [dataset.metainfo['classes'].index(name) for name in ('Dog' if not given else 'dog', 'traffic_light')]
    labels = {tuple(dataset[i]['gt_bboxes_labels'].tolist()) for i in range(len(dataset))}
    assert labels == {(classes[0],), (classes[1],) * 2, ()}
    assert dataset[0]['dataset_name'] == 'B'


def test_outer_class_balanced_dataset(two):
    outer = DATASETS.build(
        dict(
            type='ClassBalancedDataset',
            oversample_thr=0.9,
            dataset=dict(type='MultiVocabConcatDataset', datasets=two, vocabulary=dict(datasets=TWO)),
        )
    )
    assert len(outer) > 5


def test_lazy_with_a_vocabulary_touches_no_file(pipeline):
    """As DetInferencer builds it, on a machine without the data."""
    missing = dict(type='VocabCocoDataset', ann_file='none.json', data_prefix=dict(img='none/'))
    cfg = dict(type='MultiVocabConcatDataset', vocabulary=dict(datasets=TWO), pipeline=pipeline(), lazy_init=True)
    wrapped = dict(type='MultiImageMixDataset', dataset=missing, pipeline=[])
    dataset = DATASETS.build({**cfg, 'datasets': dict(A=missing, B=wrapped)})
    assert dataset.metainfo['classes'] == ('cat', 'dog', 'traffic_light')
    assert len(dataset.metainfo['palette']) == 3
    with pytest.raises(FileNotFoundError, match='none.json'):
        dataset.full_init()


def test_lazy_then_full(two):
    lazy = MultiVocabConcatDataset(two, dict(datasets=TWO), lazy_init=True)
    eager = MultiVocabConcatDataset(two, dict(datasets=TWO))
    assert len(lazy) == 5
    assert lazy.metainfo == eager.metainfo
    assert lazy.get_cat_ids(3) == eager.get_cat_ids(3)


@pytest.mark.parametrize(
    ('vocabulary', 'error', 'text'),
    [
        (dict(datasets={'A': TWO['A']}), KeyError, r"unknown dataset 'B'; the vocabulary has \['A'\]"),
        (dict(datasets={**TWO, 'A': ['cat', 'dog', 'cow']}), ValueError, r"'A'.*only the vocabulary has \['cow'\]"),
        (dict(datasets={**TWO, 'A': ['cat']}), ValueError, r"'A'.*only the dataset has \['dog'\]"),
    ],
)
def test_dataset_and_vocabulary_that_disagree_fail_when_built(two, vocabulary, error, text):
    with pytest.raises(error, match=text):
        MultiVocabConcatDataset(two, vocabulary)


def test_bad_arguments(two):
    with pytest.raises(TypeError, match='map names'):
        MultiVocabConcatDataset(list(two.values()))
    with pytest.raises(ValueError, match='empty'):
        MultiVocabConcatDataset({})
    with pytest.raises(ValueError, match='2 colors, the vocabulary 3'):
        MultiVocabConcatDataset(two, dict(datasets=TWO), palette=[(0, 0, 0)] * 2)


def test_the_config_is_not_changed(two, pipeline):
    before = copy.deepcopy(two)
    MultiVocabConcatDataset(two, pipeline=pipeline())
    assert two == before


def test_pickle(two):
    dataset = MultiVocabConcatDataset(two, Vocabulary(TWO))
    again = pickle.loads(pickle.dumps(dataset))
    assert again.metainfo == dataset.metainfo
    assert again.get_data_info(4) == dataset.get_data_info(4)


def test_host_samplers_of_several_datasets(bccd_datasets, bccd_vocabulary):
    """MultiDataSampler draws by ratio; the batch sampler puts images of one dataset into one batch."""
    dataset = MultiVocabConcatDataset(bccd_datasets(), bccd_vocabulary)
    sampler = DATA_SAMPLERS.build(
        dict(type='MultiDataSampler', dataset_ratio=[1, 3], seed=0), default_args=dict(dataset=dataset)
    )
    drawn = [dataset.get_data_info(i)['dataset_name'] for epoch in range(20) for i in _epoch(sampler, epoch)]
    assert drawn.count('bccd_platelets') / len(drawn) == pytest.approx(0.75, abs=0.04)
    batches = DATA_SAMPLERS.build(
        dict(type='MultiDataAspectRatioBatchSampler', sampler=sampler, batch_size=[2, 4], num_datasets=2)
    )
    names = [[dataset.get_data_info(i)['dataset_name'] for i in batch] for batch in batches]
    assert {tuple(batch) for batch in names} == {('bccd_cells',) * 2, ('bccd_platelets',) * 4}


def _epoch(sampler, epoch: int) -> list[int]:
    sampler.set_epoch(epoch)
    return list(sampler)


def test_two_workers_give_the_same_batches_again(bccd_datasets, bccd_vocabulary, pipeline):
    """Random flips included; and the dataset of every sample is that of its image."""
    dataset = dict(
        type='MultiVocabConcatDataset',
        datasets=bccd_datasets(),
        vocabulary=bccd_vocabulary,
        pipeline=pipeline('LoadImageOrSkip'),
    )
    cfg = dict(batch_size=8, num_workers=2, sampler=dict(type='DefaultSampler', shuffle=True), dataset=dataset)
    runs = []
    for _ in range(2):
        loader = Runner.build_dataloader(copy.deepcopy(cfg), seed=3)
        samples = [sample for batch in loader for sample in batch['data_samples']]
        runs.append([(s.dataset_name, s.img_path, s.flip, s.gt_instances.labels.tolist()) for s in samples])
    assert runs[0] == runs[1]
    assert len({flip for _, _, flip, _ in runs[0]}) == 2
    rows = dict(bccd_cells={0, 1}, bccd_platelets={1, 2})
    assert all(set(labels) <= rows[name] for name, _, _, labels in runs[0])


def test_bccd_labels_against_the_full_annotation(bccd, bccd_datasets, bccd_vocabulary):
    """Oracle: the file with all boxes of all images. Each set has just the boxes of its own names."""
    full = json.loads((bccd / 'annotations' / 'all_val.json').read_text())
    assert [c['name'] for c in full['categories']] == ['red blood cell', 'white blood cell', 'platelets']
    dataset = MultiVocabConcatDataset(bccd_datasets(test_mode=True), bccd_vocabulary)
    allowed = dict(bccd_cells=(0, 1), bccd_platelets=(1, 2))
    assert sorted(dataset.get_data_info(i)['img_id'] for i in range(len(dataset))) == [i['id'] for i in full['images']]
    for idx in range(len(dataset)):
        info = dataset.get_data_info(idx)
        found = sorted((i['bbox_label'], i['bbox'][:2]) for i in info['instances'])
        boxes = [a for a in full['annotations'] if a['image_id'] == info['img_id']]
        expected = sorted((a['category_id'] - 1, a['bbox'][:2]) for a in boxes)
        assert found == [box for box in expected if box[0] in allowed[info['dataset_name']]]


def test_empty_and_foreign_images_are_kept_with_no_boxes(write_coco, pipeline):
    """An image without boxes, and one whose boxes are all of categories that are not among the classes."""
    cfg = write_coco('A', ['cat', 'dog', 'cow'], [[], [('cow', BOX)], [('cat', BOX)]])
    cfg['metainfo'] = dict(classes=['cat', 'dog'])
    dataset = MultiVocabConcatDataset(dict(A=cfg), pipeline=pipeline())
    labels = [dataset[i]['data_samples'].gt_instances.labels for i in range(3)]
    assert [label.tolist() for label in labels] == [[], [], [0]]
    assert [label.dtype for label in labels] == [torch.int64] * 3


def test_a_missing_image_is_replaced_in_training(two, pipeline, warnings_logged):
    Path(two['A']['data_root'], '1.jpg').unlink()
    dataset = MultiVocabConcatDataset(dict(A=two['A']), pipeline=pipeline('LoadImageOrSkip'))
    np.random.seed(0)
    assert dataset[0]['data_samples'].img_id == 2
    assert len(warnings_logged) == 1


def test_a_missing_image_is_an_error_in_evaluation(two, pipeline):
    Path(two['A']['data_root'], '1.jpg').unlink()
    cfg = {**two['A'], 'test_mode': True}
    for steps in (pipeline('LoadImageOrSkip', max_bad=0), pipeline()):
        with pytest.raises(OSError, match='1.jpg'):
            MultiVocabConcatDataset(dict(A=cfg), pipeline=steps)[0]
