import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.evaluation import CocoMetric, MultiDatasetsEvaluator
from mmengine.evaluator import Evaluator
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmplugins.metr import MultiVocabConcatDataset, VocabCocoMetric

NAMES = ('bccd_cells', 'bccd_platelets')
# Row of the vocabulary -> category id of the file, written by hand: 0 red blood cell, 1 white blood cell, 2 platelets.
CATEGORY = dict(bccd_cells={0: 1, 1: 2}, bccd_platelets={2: 1, 1: 2})


@pytest.fixture
def ann_files(bccd) -> dict[str, str]:
    return {name: str(bccd / 'annotations' / f'{name.removeprefix("bccd_")}_val.json') for name in NAMES}


@pytest.fixture
def dataset(bccd_datasets, bccd_vocabulary):
    return MultiVocabConcatDataset(bccd_datasets(test_mode=True, serialize_data=False), bccd_vocabulary)


@pytest.fixture
def predictions(dataset) -> list[dict]:
    """Model outputs, as an evaluator hands them on: shifted ground truth, wrong labels of all rows, random scores."""
    rng = np.random.default_rng(0)
    samples = []
    for idx in range(len(dataset)):
        info = dataset.get_data_info(idx)
        boxes = np.array([i['bbox'] for i in info['instances']], dtype=np.float32).reshape(-1, 4)
        boxes = np.concatenate([boxes, boxes]) + rng.normal(0, 4, (2 * len(boxes), 4)).astype(np.float32)
        labels = np.array([i['bbox_label'] for i in info['instances']] * 2, dtype=np.int64)
        wrong = rng.random(len(labels)) < 0.3
        labels[wrong] = rng.integers(0, 3, wrong.sum())
        pred = dict(bboxes=torch.tensor(boxes), labels=torch.tensor(labels), scores=torch.rand(len(labels)))
        samples.append(
            dict(
                img_id=info['img_id'], ori_shape=(240, 320), dataset_name=info['dataset_name'], pred_instances=pred
            )  # fmt: skip
        )
    return samples


def oracle(ann_file: str, name: str, samples: list[dict]) -> np.ndarray:
    """COCO's own evaluation of the predictions of one dataset, translated by hand."""
    found = []
    for sample in samples:
        pred = sample['pred_instances']
        for (x1, y1, x2, y2), row, score in zip(
            pred['bboxes'].tolist(), pred['labels'].tolist(), pred['scores'].tolist(), strict=True
        ):
            if sample['dataset_name'] == name and row in CATEGORY[name]:
                category = CATEGORY[name][row]
                box = [x1, y1, x2 - x1, y2 - y1]
                found.append(dict(image_id=sample['img_id'], category_id=category, bbox=box, score=score))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(ann_file)
        evaluation = COCOeval(truth, truth.loadRes(found), 'bbox')
        # mmdet's detection limits; its mAP is over the largest of them as well.
        evaluation.params.maxDets = [100, 300, 1000]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval['precision'][..., 0, -1]  # all areas, most detections
    return np.array([precision[precision > -1].mean(), precision[0][precision[0] > -1].mean()])


def evaluate(evaluator, meta: dict, samples: list[dict]) -> dict:
    evaluator.dataset_meta = meta
    for start in range(0, len(samples), 4):
        evaluator.process(data_samples=samples[start : start + 4], data_batch={})
    return evaluator.evaluate(len(samples))


def test_two_datasets_in_one_run_equal_pycocotools(ann_files, dataset, predictions):
    metrics = [VocabCocoMetric(ann_file=ann_files[name], dataset_name=name) for name in NAMES]
    found = evaluate(MultiDatasetsEvaluator(metrics, dataset_prefixes=NAMES), dataset.metainfo, predictions)
    for name in NAMES:
        expected = oracle(ann_files[name], name, predictions)
        got = [found[f'{name}/coco/bbox_mAP'], found[f'{name}/coco/bbox_mAP_50']]
        assert got == pytest.approx(expected, abs=6e-4)  # mmdet rounds to three digits
        assert 0.1 < expected[0] < expected[1] < 0.99


def test_plain_evaluator_with_two_metrics_gives_the_same(ann_files, dataset, predictions):
    metrics = [VocabCocoMetric(ann_file=ann_files[name], dataset_name=name, prefix=name) for name in NAMES]
    found = evaluate(Evaluator(metrics), dataset.metainfo, predictions)
    for name in NAMES:
        assert found[f'{name}/bbox_mAP'] == pytest.approx(oracle(ann_files[name], name, predictions)[0], abs=6e-4)


@pytest.mark.parametrize('named', [True, False], ids=['one of the vocabulary', 'plain'])
def test_alone_on_one_dataset(ann_files, bccd_datasets, bccd_vocabulary, predictions, named):
    """Over a MultiVocabConcatDataset of one, and over the bare dataset, whose labels are in the file's order."""
    name = 'bccd_platelets'
    cfg = bccd_datasets(test_mode=True, serialize_data=False)[name]
    dataset = MultiVocabConcatDataset({name: cfg}, bccd_vocabulary)
    samples = [sample for sample in predictions if sample['dataset_name'] == name]
    expected = oracle(ann_files[name], name, samples)
    if not named:
        dataset = dataset.datasets[0]
        local = torch.tensor([-1, 1, 0])  # the file has platelets first
        samples = [{k: v for k, v in sample.items() if k != 'dataset_name'} for sample in samples]
        for sample in samples:
            pred = sample['pred_instances']
            keep = pred['labels'] > 0
            sample['pred_instances'] = {k: v[keep] for k, v in {**pred, 'labels': local[pred['labels']]}.items()}
    metric = VocabCocoMetric(ann_file=ann_files[name], dataset_name=name)
    found = evaluate(Evaluator([metric]), dataset.metainfo, samples)
    assert found['coco/bbox_mAP'] == pytest.approx(expected[0], abs=6e-4)


def test_perfect_predictions_score_one(ann_files, dataset, predictions):
    for idx, sample in enumerate(predictions):
        instances = dataset.get_data_info(idx)['instances']
        labels = torch.tensor([i['bbox_label'] for i in instances], dtype=torch.long)
        boxes = torch.tensor([i['bbox'] for i in instances]).reshape(-1, 4)
        sample['pred_instances'] = dict(bboxes=boxes, labels=labels, scores=torch.ones(len(labels)))
    metrics = [VocabCocoMetric(ann_file=ann_files[name], dataset_name=name) for name in NAMES]
    found = evaluate(MultiDatasetsEvaluator(metrics, dataset_prefixes=NAMES), dataset.metainfo, predictions)
    assert [found[f'{name}/coco/bbox_mAP'] for name in NAMES] == [1, 1]


def test_predictions_are_not_changed(ann_files, dataset, predictions):
    before = [sample['pred_instances']['labels'].clone() for sample in predictions]
    metric = VocabCocoMetric(ann_file=ann_files['bccd_cells'], dataset_name='bccd_cells')
    metric.dataset_meta = dataset.metainfo
    metric.process({}, predictions)
    assert all((a == b['pred_instances']['labels']).all() for a, b in zip(before, predictions, strict=True))


def test_no_prediction_at_all_is_zero(ann_files, dataset, predictions):
    """With all predictions outside the dataset's rows mmdet returns no number, and save_best has nothing to compare."""
    for sample in predictions:
        sample['pred_instances']['labels'].fill_(2)
    metric = VocabCocoMetric(ann_file=ann_files['bccd_cells'], dataset_name='bccd_cells')
    found = evaluate(Evaluator([metric]), dataset.metainfo, predictions)
    assert found['coco/bbox_mAP'] == found['coco/bbox_mAP_50'] == 0
    assert len(found) == 6


def test_aliases_and_separate_names(ann_files, bccd_datasets, bccd_vocabulary, predictions):
    """Names of rows that no file has: the metric finds the categories all the same."""
    vocabulary = dict(bccd_vocabulary, keep_separate=['white blood cell'], aliases={'platelets': 'thrombocyte'})
    dataset = MultiVocabConcatDataset(bccd_datasets(test_mode=True, serialize_data=False), vocabulary)
    assert dataset.metainfo['classes'][2:] == ('White_Blood_Cell (bccd_platelets)', 'thrombocyte')
    name = 'bccd_platelets'
    expected = oracle(ann_files[name], name, predictions)
    moved = torch.tensor([0, 2, 3])  # row of the old vocabulary -> row of the new one, for this dataset
    for sample in predictions:
        sample['pred_instances']['labels'] = moved[sample['pred_instances']['labels']]
    metric = VocabCocoMetric(ann_file=ann_files[name], dataset_name=name)
    found = evaluate(Evaluator([metric]), dataset.metainfo, predictions)
    assert found['coco/bbox_mAP'] == pytest.approx(expected[0], abs=6e-4)


# --- what can be wrong ------------------------------------------------------------------------------------------------


def test_unknown_dataset_fails_when_the_evaluator_is_built(ann_files, dataset):
    metric = VocabCocoMetric(ann_file=ann_files['bccd_cells'], dataset_name='cells')
    with pytest.raises(KeyError, match=r"unknown dataset 'cells'; the vocabulary has \['bccd_cells', 'bccd_platelets'"):
        metric.dataset_meta = dataset.metainfo


def test_other_classes_fail_when_the_evaluator_is_built(ann_files, dataset):
    metric = VocabCocoMetric(ann_file=ann_files['bccd_platelets'], dataset_name='bccd_cells')
    with pytest.raises(ValueError, match=r"platelets_val.json has no category \['red blood cell'\]"):
        metric.dataset_meta = dataset.metainfo


def test_metrics_in_another_order_than_the_datasets(ann_files, dataset, predictions):
    metrics = [VocabCocoMetric(ann_file=ann_files[name], dataset_name=name) for name in reversed(NAMES)]
    with pytest.raises(ValueError, match="no sample of dataset 'bccd_platelets' among 36.*order of the datasets"):
        evaluate(MultiDatasetsEvaluator(metrics, dataset_prefixes=NAMES), dataset.metainfo, predictions)


def test_image_of_another_file(ann_files, dataset, predictions):
    predictions[0]['img_id'] = 10**6
    metric = VocabCocoMetric(ann_file=ann_files['bccd_cells'], dataset_name='bccd_cells')
    with pytest.raises(ValueError, match='does not list: ids .*1000000'):
        evaluate(Evaluator([metric]), dataset.metainfo, predictions)


def test_label_outside_the_vocabulary(ann_files, dataset, predictions):
    predictions[0]['pred_instances']['labels'][0] = 3
    metric = VocabCocoMetric(ann_file=ann_files['bccd_cells'], dataset_name='bccd_cells')
    with pytest.raises(ValueError, match='label 3 is predicted, the dataset has 3 names'):
        evaluate(Evaluator([metric]), dataset.metainfo, predictions)


def test_sample_without_a_dataset_name(ann_files, dataset, predictions):
    del predictions[0]['dataset_name']
    metric = VocabCocoMetric(ann_file=ann_files['bccd_cells'], dataset_name='bccd_cells')
    with pytest.raises(KeyError, match='no `dataset_name`'):
        evaluate(Evaluator([metric]), dataset.metainfo, predictions)


def test_missing_and_broken_annotation_file(tmp_path):
    with pytest.raises(FileNotFoundError, match='none.json'):
        VocabCocoMetric(ann_file=str(tmp_path / 'none.json'), dataset_name='A')
    (tmp_path / 'cut.json').write_text('{"images": [')
    with pytest.raises(ValueError, match='cut off'):
        VocabCocoMetric(ann_file=str(tmp_path / 'cut.json'), dataset_name='A')


@pytest.mark.parametrize('federated', [False, True])
def test_results_of_a_test_set_are_written_as_by_the_host(write_coco, tmp_path, federated):
    """Images without annotations, some of which say what was looked for: there too all that was found is written."""

    def edit(data):
        del data['annotations']
        if federated:
            data['images'][0].update(neg_category_ids=[1], not_exhaustive_category_ids=[])

    ann_file = f'{write_coco("A", ["cat", "dog"], [[], []], edit=edit)["data_root"]}/ann.json'
    samples = [
        dict(
            img_id=number,
            ori_shape=(48, 64),
            pred_instances=dict(
                bboxes=torch.tensor([[30.0, 6, 50, 16], [1, 2, 3, 4]]),
                scores=torch.tensor([0.75, 0.5]),
                labels=torch.tensor([0, 1]),
            ),
        )
        for number in (1, 2)
    ]
    ours, host = str(tmp_path / 'ours'), str(tmp_path / 'host')
    for metric in (
        VocabCocoMetric(ann_file, 'A', format_only=True, outfile_prefix=ours),
        CocoMetric(ann_file, format_only=True, outfile_prefix=host),
    ):
        evaluate(Evaluator(metric), dict(classes=['cat', 'dog']), samples)
    written = [json.loads(Path(f'{prefix}.bbox.json').read_text()) for prefix in (ours, host)]
    assert written[0] == written[1]
    assert len(written[0]) == 4
    with pytest.raises(ValueError, match='needs the lists images, categories, annotations'):
        VocabCocoMetric(ann_file, 'A')


# --- two ranks --------------------------------------------------------------------------------------------------------


def _rank(rank: int, folder: str, ann_files: dict, meta: dict, samples: list[dict]) -> None:
    """Evaluate every second sample on each of two ranks, as a sampler deals them out."""
    torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    padded = samples + samples[: len(samples) % 2]
    metrics = [VocabCocoMetric(ann_file=ann_files[name], dataset_name=name) for name in NAMES]
    evaluator = MultiDatasetsEvaluator(metrics, dataset_prefixes=NAMES)
    evaluator.dataset_meta = meta
    evaluator.process(data_samples=padded[rank::2], data_batch={})
    found = evaluator.evaluate(len(samples))
    Path(folder, f'{rank}.json').write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


def test_two_ranks_equal_one(tmp_path, ann_files, dataset, predictions):
    """71 samples, so that the last one of rank 1 is padding, which the evaluator must cut off at the right place."""
    samples = predictions[:-1]
    meta = dataset.metainfo
    meta['cumulative_sizes'] = [36, 71]
    metrics = [VocabCocoMetric(ann_file=ann_files[name], dataset_name=name) for name in NAMES]
    expected = evaluate(MultiDatasetsEvaluator(metrics, dataset_prefixes=NAMES), meta, samples)
    args = (str(tmp_path), ann_files, meta, samples)
    # fork: with pytest's importlib mode a spawned process cannot import this file
    torch.multiprocessing.start_processes(_rank, args, nprocs=2, start_method='fork')
    assert [json.loads((tmp_path / f'{rank}.json').read_text()) for rank in (0, 1)] == [expected, expected]


@pytest.mark.parametrize(
    ('arguments', 'text'),
    [
        (dict(metric_items=['mAP', 'AP50']), r"`metric_items` \['AP50'\] are none of"),
        (dict(proposal_nums=(100, 300)), 'must be three numbers'),
        (dict(metric='segm'), "metric 'segm': .* have no segmentation"),
    ],
    ids=['items', 'numbers', 'masks'],
)
def test_what_the_host_would_refuse_at_the_end_is_refused_at_once(ann_files, arguments, text):
    with pytest.raises(ValueError, match=text):
        VocabCocoMetric(ann_files['bccd_cells'], 'bccd_cells', **arguments)


def test_what_is_no_box_is_left_out(write_coco):
    """COCO's evaluation fails on it at its end; and takes a match with annotation 0 for none."""

    def edit(data):
        data['annotations'][0]['bbox'] = [4, 6, 20]
        data['annotations'][1]['id'] = 0

    cfg = write_coco('A', ['cat'], [[('cat', [4, 6, 20, 10]), ('cat', [30, 6, 20, 10])]], edit=edit)
    metric = VocabCocoMetric(f'{cfg["data_root"]}/ann.json', 'A', metric_items=['mAP'])
    evaluator = Evaluator(metric)
    found = dict(
        bboxes=torch.tensor([[30.0, 6, 50, 16]]), scores=torch.ones(1), labels=torch.zeros(1, dtype=torch.long)
    )
    sample = dict(img_id=1, ori_shape=(48, 64), pred_instances=found)
    assert evaluate(evaluator, dict(classes=['cat']), [sample])['coco/bbox_mAP'] == 1
