"""The vocabulary check, and pseudo boxes for names that a data set leaves out."""

import copy
from types import SimpleNamespace

import pytest
import torch
from mmdet.datasets import CocoDataset
from mmdet.registry import HOOKS
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.model import MMDistributedDataParallel
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
from mmengine.structures import InstanceData
from torch.utils.data import ConcatDataset, DataLoader

from mmplugins.metr.data.sampler import InfiniteRatioSampler
from mmplugins.metr.hooks import CheckVocabularyHook, PseudoBoxHook
from mmplugins.metr.text.vocabulary import Vocabulary

VOCABULARY = Vocabulary(dict(pets=['cat', 'dog', 'bird'], streets=['Dog', 'traffic_light']))


# -- vocabulary check -----------------------------------------------------------------------------------------------


def runner_with(model_names, **classes) -> SimpleNamespace:
    """A runner with a model of these names and a data loader of these classes for every keyword."""
    model = SimpleNamespace(vocabulary=SimpleNamespace(names=tuple(model_names)))
    loaders = {
        key: SimpleNamespace(dataset=SimpleNamespace(metainfo=dict(classes=tuple(names))), batch_sampler=None)
        for key, names in classes.items()
    }
    return SimpleNamespace(model=model, train_loop=None, val_loop='val_dataloader' in classes or None, **loaders)


def test_equal_names_pass():
    names = ['cat', 'dog']
    runner = runner_with(names, train_dataloader=names, val_dataloader=names, test_dataloader=names)
    hook = HOOKS.build(dict(type='CheckVocabularyHook'))
    hook.before_train(runner)
    hook.before_val(runner)
    hook.before_test(runner)


def test_spelling_does_not_count():
    """The paper-scale COCO config: the vocabulary has mmdet's list of COCO, the data set its own."""
    names, classes = Vocabulary(dict(coco='coco')).names, CocoDataset.METAINFO['classes']
    assert names != classes
    CheckVocabularyHook().before_train(runner_with(names, train_dataloader=classes))


@pytest.mark.parametrize(
    ('classes', 'message'),
    [
        pytest.param(
            ('cat', 'bird', 'dog'),
            r"model has 3 names and the data set of KEY 3 classes.*row 1: \('dog',\) and \('bird',\)",
            id='order',
        ),
        pytest.param(('cat', 'dog'), r"3 names .* 2 classes.*row 2: \('bird',\) and \(\)", id='too few'),
        pytest.param(('cat', 'dog', 'bird', 'bus'), r"3 names .* 4 classes.*row 3: \(\) and \('bus',\)", id='too many'),
        pytest.param((), r"0 classes.*row 0: \('cat',\) and \(\)", id='none'),
    ],
)
@pytest.mark.parametrize('stage', ['train', 'val', 'test'])
def test_mismatch_names_the_first_row(stage, classes, message):
    key = f'{stage}_dataloader'
    runner = runner_with(['cat', 'dog', 'bird'], **{key: classes})
    with pytest.raises(ValueError, match=message.replace('KEY', key)) as error:
        getattr(CheckVocabularyHook(), f'before_{stage}')(runner)
    assert f'`{key}.dataset.vocabulary` the same `datasets`, `aliases` and `keep_separate`' in str(error.value)


def test_validation_set_is_checked_before_training():
    runner = runner_with(['cat', 'dog'], train_dataloader=['cat', 'dog'], val_dataloader=['dog', 'cat'])
    with pytest.raises(ValueError, match='val_dataloader'):
        CheckVocabularyHook().before_train(runner)


def test_training_without_validation():
    CheckVocabularyHook().before_train(runner_with(['cat'], train_dataloader=['cat']))


def test_an_epoch_that_never_ends():
    runner = runner_with(['cat'], train_dataloader=['cat'])
    dataset = runner.train_dataloader.dataset
    sampler = InfiniteRatioSampler(ConcatDataset([range(3), range(2)]), dataset_ratio=[1, 4], seed=0)
    runner.train_dataloader = DataLoader(sampler.dataset, batch_size=2, sampler=sampler)
    runner.train_dataloader.dataset.metainfo = dataset.metainfo
    runner.train_loop = EpochBasedTrainLoop.__new__(EpochBasedTrainLoop)
    with pytest.raises(ValueError, match='InfiniteRatioSampler has no end.*type IterBasedTrainLoop and `max_iters`'):
        CheckVocabularyHook().before_train(runner)
    runner.train_loop = IterBasedTrainLoop.__new__(IterBasedTrainLoop)
    CheckVocabularyHook().before_train(runner)


def test_data_set_without_metainfo_is_a_mismatch():
    runner = runner_with(['cat'], train_dataloader=['cat'])
    runner.train_dataloader.dataset = SimpleNamespace()
    with pytest.raises(ValueError, match='0 classes'):
        CheckVocabularyHook().before_train(runner)


# -- pseudo boxes ---------------------------------------------------------------------------------------------------


def make_sample(dataset_name='pets', box_type=torch.Tensor) -> DetDataSample:
    """A 48 x 64 image with one cat."""
    sample = DetDataSample(metainfo=dict(img_shape=(48, 64)))
    if dataset_name is not None:
        sample.set_metainfo(dict(dataset_name=dataset_name))
    boxes = torch.tensor([[1.0, 2.0, 20.0, 30.0]])
    sample.gt_instances = InstanceData(
        bboxes=HorizontalBoxes(boxes) if box_type is HorizontalBoxes else boxes, labels=torch.tensor([0])
    )
    return sample


def make_pred(*rows) -> InstanceData:
    """Predictions from ``(label, score, box)``."""
    return InstanceData(
        labels=torch.tensor([row[0] for row in rows], dtype=torch.long),
        scores=torch.tensor([row[1] for row in rows], dtype=torch.float),
        bboxes=torch.tensor([row[2] for row in rows], dtype=torch.float).reshape(-1, 4),
    )


BOX, FAR = (10, 10, 30, 30), (35, 5, 60, 40)


@pytest.mark.parametrize('box_type', [torch.Tensor, HorizontalBoxes])
def test_only_names_outside_the_data_set_are_added(box_type):
    sample = make_sample(box_type=box_type)
    pred = make_pred((0, 0.9, BOX), (1, 0.9, FAR), (2, 0.9, BOX), (3, 0.9, FAR), (3, 0.8, BOX))
    PseudoBoxHook(jitter=0).add(sample, pred, VOCABULARY)
    gt = sample.gt_instances
    assert gt.labels.tolist() == [0, 3, 3]
    assert gt.bboxes.tolist() == [[1, 2, 20, 30], list(FAR), list(BOX)]
    assert sample.pseudo_rows == (3,)


def test_the_other_data_set_gets_other_names():
    sample = make_sample('streets')
    PseudoBoxHook(jitter=0).add(sample, make_pred((0, 0.9, BOX), (1, 0.9, FAR), (2, 0.9, FAR)), VOCABULARY)
    assert sample.gt_instances.labels.tolist() == [0, 0, 2]
    assert sample.pseudo_rows == (0, 2)


@pytest.mark.parametrize(
    'pred',
    [
        pytest.param(make_pred(), id='no prediction'),
        pytest.param(make_pred((0, 0.9, BOX), (1, 0.9, FAR)), id='annotated names only'),
        pytest.param(make_pred((3, 0.29, BOX)), id='low score'),
    ],
)
def test_nothing_to_add_leaves_the_sample_as_it_was(pred):
    sample = make_sample()
    PseudoBoxHook(score_thr=0.3).add(sample, pred, VOCABULARY)
    assert sample.gt_instances.labels.tolist() == [0]
    assert 'pseudo_rows' not in sample


def test_sample_without_data_set_is_left_alone():
    sample = make_sample(None)
    PseudoBoxHook().add(sample, make_pred((3, 0.9, BOX)), VOCABULARY)
    assert sample.gt_instances.labels.tolist() == [0]
    assert 'pseudo_rows' not in sample


def test_rows_of_the_image_come_before_those_of_the_data_set():
    """Dog is a name of the set, but nobody looked for it in this image."""
    sample = make_sample()
    sample.set_metainfo(dict(annotated_rows=[0, 3]))
    PseudoBoxHook(jitter=0).add(sample, make_pred((1, 0.9, FAR), (3, 0.9, BOX)), VOCABULARY)
    assert sample.gt_instances.labels.tolist() == [0, 1]


def test_score_threshold():
    sample = make_sample()
    PseudoBoxHook(score_thr=0.3, jitter=0).add(sample, make_pred((3, 0.31, FAR), (3, 0.29, BOX)), VOCABULARY)
    assert sample.gt_instances.bboxes[1:].tolist() == [list(FAR)]


def test_nms_is_within_a_name():
    sample = make_sample('streets')
    near = (10, 10, 30, 29)  # IoU 0.95
    pred = make_pred((0, 0.5, near), (0, 0.9, BOX), (2, 0.7, near))
    PseudoBoxHook(iou_thr=0.9, jitter=0).add(sample, pred, VOCABULARY)
    assert sorted(sample.gt_instances.labels[1:].tolist()) == [0, 2]
    assert sample.gt_instances.bboxes[1:].tolist() == [list(BOX), list(near)]  # by score


@pytest.mark.parametrize('jitter', [0.0, 0.005, 0.2])
def test_jitter_is_a_share_of_the_size_and_stays_inside(jitter):
    torch.manual_seed(0)
    boxes = [(0, 0, 64, 48), (2, 3, 12, 43), (50, 40, 64, 48)]
    moved = []
    for _ in range(50):
        sample = make_sample()
        pred = make_pred(*[(3, 0.9 - i / 10, box) for i, box in enumerate(boxes)])
        PseudoBoxHook(jitter=jitter).add(sample, pred, VOCABULARY)
        moved.append(sample.gt_instances.bboxes[1:])
    moved, boxes = torch.stack(moved), torch.tensor(boxes, dtype=torch.float)
    size = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    assert ((moved - boxes).abs() <= jitter * size + 1e-4).all()
    assert (moved >= 0).all() and (moved <= torch.tensor([64.0, 48.0, 64.0, 48.0])).all()
    assert ((moved[:, 1] - boxes[1]).abs().max() > 0) == (jitter > 0)


@pytest.fixture
def training(build_detector, mixed_batch):
    """Return a function that gives a runner with a model, and the batch."""

    def make(kind='METR', epoch=7, iteration=0):
        # All names and all queries, so that every image has predictions of names outside its data set.
        model = build_detector(kind, num_categories=4, test_cfg=dict(max_per_img=300))
        return SimpleNamespace(model=model, epoch=epoch, iter=iteration), copy.deepcopy(mixed_batch)

    return make


@pytest.mark.parametrize('kind', ['METR', 'DeformableMETR'])
def test_a_step_trains_the_names_of_pseudo_boxes(training, kind):
    runner, batch = training(kind)
    model = runner.model
    before = [len(sample.gt_instances) for sample in batch['data_samples']]
    PseudoBoxHook(score_thr=0.0).before_train_iter(runner, 0, batch)
    assert model.training
    for sample, count in zip(batch['data_samples'], before, strict=True):
        annotated = model.vocabulary.annotated_mask(sample.dataset_name)
        new = sample.gt_instances.labels[count:]
        assert len(new) and not annotated[new].any()
        assert sample.pseudo_rows == tuple(sorted(set(new.tolist())))

    data = model.data_preprocessor(batch, True)
    head_inputs = model.forward_transformer(model.extract_feat(data['inputs']), data['data_samples'])
    categories = head_inputs['categories']
    for allowed, sample in zip(categories.allowed, batch['data_samples'], strict=True):
        assert allowed[list(sample.pseudo_rows)].all()
    logits = categories.logits[-1]
    logits.retain_grad()
    sum(model.cem.loss(categories).values()).backward()
    for grad, sample in zip(logits.grad, batch['data_samples'], strict=True):
        assert (grad[list(sample.pseudo_rows)] < 0).all()  # a step raises the logits
    losses = model(**model.data_preprocessor(batch, True), mode='loss')
    sum(losses.values()).backward()
    assert all(value.isfinite() for value in losses.values())


def test_pseudo_boxes_are_the_predictions_of_the_model(training):
    """In pixels of the network input, image by image."""
    runner, batch = training()
    model = runner.model.eval()
    original = copy.deepcopy(batch)
    data = model.data_preprocessor(copy.deepcopy(batch), False)
    with torch.no_grad():
        expected = model.predict(data['inputs'], data['data_samples'], rescale=False)
    PseudoBoxHook(score_thr=0.0, iou_thr=1.0, jitter=0).before_train_iter(runner, 0, batch)
    for sample, old, result in zip(batch['data_samples'], original['data_samples'], expected, strict=True):
        pred = result.pred_instances
        outside = ~model.vocabulary.annotated_mask(sample.dataset_name)[pred.labels]
        count = len(old.gt_instances)
        assert torch.equal(sample.gt_instances.bboxes[:count], old.gt_instances.bboxes)
        torch.testing.assert_close(sample.gt_instances.bboxes[count:], pred.bboxes[outside], atol=1e-3, rtol=1e-4)
        assert torch.equal(sample.gt_instances.labels[count:], pred.labels[outside])


@pytest.mark.parametrize(('epoch', 'grows'), [(0, False), (6, False), (7, True), (20, True)])
def test_start_epoch(training, epoch, grows):
    runner, batch = training(epoch=epoch)
    before = [len(sample.gt_instances) for sample in batch['data_samples']]
    PseudoBoxHook(start_epoch=7, score_thr=0.0).before_train_iter(runner, 0, batch)
    after = [len(sample.gt_instances) for sample in batch['data_samples']]
    assert (after > before) == grows


@pytest.mark.parametrize(('iteration', 'grows'), [(99, False), (100, True)])
def test_start_iteration(training, iteration, grows):
    """Iteration-based runs stay in epoch 0."""
    runner, batch = training(epoch=0, iteration=iteration)
    before = [len(sample.gt_instances) for sample in batch['data_samples']]
    PseudoBoxHook(start_iter=100, score_thr=0.0).before_train_iter(runner, 0, batch)
    assert ([len(sample.gt_instances) for sample in batch['data_samples']] > before) == grows


def test_an_epoch_that_never_comes():
    runner = SimpleNamespace(train_loop=IterBasedTrainLoop.__new__(IterBasedTrainLoop))
    with pytest.raises(ValueError, match='waits for epoch 7.*give `start_iter`'):
        PseudoBoxHook().before_train(runner)
    PseudoBoxHook(start_iter=0).before_train(runner)
    runner.train_loop = EpochBasedTrainLoop.__new__(EpochBasedTrainLoop)
    PseudoBoxHook().before_train(runner)


def test_the_hook_leaves_no_gradient_and_no_other_trace_in_the_batch(training):
    runner, batch = training()
    original = copy.deepcopy(batch)
    PseudoBoxHook(score_thr=1.1).before_train_iter(runner, 0, batch)
    assert all(parameter.grad is None for parameter in runner.model.parameters())
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(batch['inputs'], original['inputs'], strict=True))
    for mine, theirs in zip(batch['data_samples'], original['data_samples'], strict=True):
        assert set(mine.metainfo) == set(theirs.metainfo)
        assert torch.equal(mine.gt_instances.bboxes, theirs.gt_instances.bboxes)


def test_the_model_behind_a_wrapper_is_used(training):
    runner, batch = training()
    wrapper = MMDistributedDataParallel.__new__(MMDistributedDataParallel)
    torch.nn.Module.__init__(wrapper)
    wrapper.module = runner.model
    runner.model = wrapper
    PseudoBoxHook(score_thr=0.0).before_train_iter(runner, 0, batch)
    assert all('pseudo_rows' in sample for sample in batch['data_samples'])
