"""Hooks of METR: the vocabulary check, and pseudo boxes for names that a data set leaves out."""

import torch
from mmdet.registry import HOOKS
from mmengine.dataset import InfiniteSampler
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from mmengine.structures import InstanceData
from torch import Tensor
from torchvision.ops import batched_nms

from mmplugins.utils.wrappers import model_of

from .text.vocabulary import normalize_name


@HOOKS.register_module()
class CheckVocabularyHook(Hook):
    """Compare the vocabulary of the model with the classes of each data set before the first image is read.

    Without it a mismatch shows as wrong labels, or as an ``IndexError`` at the first evaluation. Also refuse a run of
    epochs whose sampler has no end, as :class:`InfiniteRatioSampler`: the first epoch would never be over.
    """

    def before_train(self, runner: Runner) -> None:
        """Check the training and the validation set, and that an epoch ends.

        Raises:
            ValueError: Names and classes differ, or the run counts epochs and its sampler has no end.
        """
        sampler = getattr(runner.train_dataloader.batch_sampler, 'sampler', None)
        if isinstance(sampler, InfiniteSampler) and isinstance(runner.train_loop, EpochBasedTrainLoop):
            raise ValueError(
                f'{type(sampler).__name__} has no end, for which EpochBasedTrainLoop would wait in its first epoch: '
                'give `train_cfg` the type IterBasedTrainLoop and `max_iters`, or another `train_dataloader.sampler`'
            )
        self._check(runner, 'train_dataloader', runner.train_dataloader)
        if runner.val_loop is not None:
            self._check(runner, 'val_dataloader', runner.val_dataloader)

    def before_val(self, runner: Runner) -> None:
        """Check the validation set."""
        self._check(runner, 'val_dataloader', runner.val_dataloader)

    def before_test(self, runner: Runner) -> None:
        """Check the test set."""
        self._check(runner, 'test_dataloader', runner.test_dataloader)

    def _check(self, runner: Runner, key: str, dataloader: object) -> None:
        names = model_of(runner).vocabulary.names
        metainfo = getattr(dataloader.dataset, 'metainfo', {})
        classes = tuple(metainfo.get('classes', ()))
        # Spelling does not count: mmdet writes "traffic_light" in one list of COCO and "traffic light" in another.
        same = [normalize_name(a) == normalize_name(b) for a, b in zip(names, classes, strict=False)]
        if all(same) and len(names) == len(classes):
            return
        row = same.index(False) if False in same else len(same)
        raise ValueError(
            f'The model has {len(names)} names and the data set of {key} {len(classes)} classes; they differ first at '
            f'row {row}: {names[row : row + 1]} and {classes[row : row + 1]}. Give `model.vocabulary` and '
            f'`{key}.dataset.vocabulary` the same `datasets`, `aliases` and `keep_separate`.'
        )


@HOOKS.register_module()
class PseudoBoxHook(Hook):
    """Confident predictions become boxes of the names that an image's data set does not annotate.

    The released code has it as an option (from epoch 7, score 0.1, NMS IoU 0.9, jitter 0.5 %, one image a GPU). Not in
    the paper: our decision to limit it to names *outside* the image's data set, where annotations are missing; inside,
    they are not. Works for any batch size.

    Args:
        start_epoch: First epoch, counted from 0. For runs that count epochs.
        start_iter: First iteration, counted from 0; then ``start_epoch`` is not read. None (default): not used.
        score_thr: Least score of a pseudo box.
        iou_thr: IoU of the NMS among pseudo boxes of one name.
        jitter: Noise of each coordinate, as a share of the box's width or height.
    """

    def __init__(
        self,
        start_epoch: int = 7,
        start_iter: int | None = None,
        score_thr: float = 0.1,
        iou_thr: float = 0.9,
        jitter: float = 0.005,
    ) -> None:
        self.start_epoch = start_epoch
        self.start_iter = start_iter
        self.score_thr = score_thr
        self.iou_thr = iou_thr
        self.jitter = jitter

    def before_train(self, runner: Runner) -> None:
        """Refuse a run in which the first epoch never comes.

        Raises:
            ValueError: The run counts iterations and ``start_iter`` is not given.
        """
        if self.start_iter is None and isinstance(runner.train_loop, IterBasedTrainLoop):
            raise ValueError(
                f'PseudoBoxHook waits for epoch {self.start_epoch}; IterBasedTrainLoop counts none: give `start_iter`'
            )

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        """Add pseudo boxes to the batch in place."""
        early = runner.epoch < self.start_epoch if self.start_iter is None else runner.iter < self.start_iter
        if early:
            return
        model = model_of(runner)
        model.eval()
        with torch.no_grad():
            data = model.data_preprocessor(dict(data_batch), False)
            predictions = model.predict(data['inputs'], data['data_samples'], rescale=False)
        model.train()
        for sample, prediction in zip(data_batch['data_samples'], predictions, strict=True):
            self.add(sample, prediction.pred_instances.cpu(), model.vocabulary)

    def add(self, sample: object, pred: InstanceData, vocabulary: object) -> None:
        """Add the pseudo boxes of one image.

        Args:
            sample: Data sample with ``annotated_rows`` or ``dataset_name``; ``gt_instances`` grows and ``pseudo_rows``
                names the new rows. A sample that has neither is fully annotated and left alone.
            pred: ``bboxes (n, 4)`` xyxy in pixels of the network input, ``scores (n,)``, ``labels (n,)``.
            vocabulary: Of the model.
        """
        annotated = vocabulary.annotated_in(sample.metainfo)
        if annotated is None:
            return
        outside = ~annotated[pred.labels]
        pred = pred[outside & (pred.scores >= self.score_thr)]
        pred = pred[batched_nms(pred.bboxes, pred.scores, pred.labels, self.iou_thr)]
        if not len(pred):
            return
        gt = sample.gt_instances
        boxes = self._jitter(pred.bboxes, sample.img_shape)
        merged = InstanceData(
            bboxes=torch.cat([_tensor(gt.bboxes), boxes.to(_tensor(gt.bboxes))]),
            labels=torch.cat([gt.labels, pred.labels.to(gt.labels)]),
        )
        sample.gt_instances = merged
        sample.set_metainfo(dict(pseudo_rows=tuple(pred.labels.unique().tolist())))

    def _jitter(self, boxes: Tensor, img_shape: tuple[int, int]) -> Tensor:
        size = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
        boxes = boxes + (2 * torch.rand_like(boxes) - 1) * self.jitter * size
        height, width = img_shape[:2]
        return torch.minimum(boxes.clamp(min=0), boxes.new_tensor([width, height, width, height]))


def _tensor(boxes: object) -> Tensor:
    """The plain tensor of boxes that may be mmdet's ``HorizontalBoxes``."""
    return getattr(boxes, 'tensor', boxes)
