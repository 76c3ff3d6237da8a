"""Several mmdet detectors as one: their boxes are refined and fused as in arXiv 2105.03139.

Not in the paper, whose code reads result files: our decision, so that an ensemble can go wherever a detector can.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence

import torch
from mmdet.models import BaseDetector
from mmdet.registry import MODELS, TASK_UTILS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.dist import get_backend
from mmengine.runner import load_checkpoint
from mmengine.structures import InstanceData

from .calibration.detectors import Calibration, check_names
from .calibration.file import load
from .instances import joined
from .member import classes_of, read_config, score_threshold, test_pipeline

HIGH_SCORE_THR = 0.05


@MODELS.register_module()
class EnsembleDetector(BaseDetector):
    """N detectors in one model, for ``tools/test.py``, ``DetInferencer`` and every metric of mmdet.

    Each member has its own data preprocessor, ``test_cfg`` and test pipeline, by which it reads the image again, as it
    was trained for another size than the next one. The images go in as the pipeline packs them, ``(3, H, W)`` each;
    boxes ``(M, 4)`` come out in pixels of the original image. It cannot be trained: train the members.

    Weights come from one checkpoint of the ensemble (``python -m mmplugins.prae pack``), else, at the first batch, from
    the members' own checkpoints.

    Args:
        detectors: For each member a dict: ``config``, a path, ``mmdet::…`` or a dict with ``model`` and
            ``test_dataloader``; ``checkpoint``, a path, may be absent; ``name``, as in the calibration file;
            ``classes``, names of its labels, default: those of its config's test data. They must be in the order of the
            labels, which mmdet's ``CocoDataset`` takes from the categories of the annotation file, not from the config.
        calibration: File that ``fit`` wrote. None: raw scores.
        fusion: Of :class:`PRAEFusion`. None: boxes are not fused but given with the field ``detector``, and data
            samples say which classes each member has, ``known``, as :class:`PRAEFitMetric` needs them.
        classes: Names of the labels that come out, in the order of the data set that is tested on. None: the members'
            classes in order of appearance.
        share_inputs: All members take the images as the data loader packs them, which saves reading them again: right
            if their test pipelines, and that of the ensemble's config, are the same. Images that are not files need it.
        sequential_gpu: Keep one member on the device at a time; on one GPU only.
        backbone: Not used. ``mmdet.apis.init_detector`` looks for it in every model's config, so an ensemble's has
            ``backbone=dict()``.

    Raises:
        ValueError: If names are repeated, classes unknown, a member is to read images and has no test pipeline, or
            ``sequential_gpu`` is to run on several GPUs; at the first batch: if weights are missing or of another
            detector, or the calibration is of other detectors.
    """

    def __init__(
        self,
        detectors: Sequence[dict],
        calibration: str | None = None,
        fusion: dict | None = None,
        classes: Sequence[str] | None = None,
        share_inputs: bool = False,
        sequential_gpu: bool = False,
        backbone: dict | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        self.names = [detector['name'] for detector in detectors]
        check_names(self.names)
        configs = [read_config(detector['config']) for detector in detectors]
        self.members = torch.nn.ModuleList(MODELS.build(config.model) for config in configs)
        self.member_classes = tuple(
            tuple(detector.get('classes') or classes_of(config))
            for detector, config in zip(detectors, configs, strict=True)
        )
        self.classes = tuple(classes or dict.fromkeys(name for names in self.member_classes for name in names))
        self.dataset_meta = dict(classes=self.classes)
        self.checkpoints = [detector.get('checkpoint') for detector in detectors]
        self.calibration = calibration
        self.fusion = None if fusion is None else TASK_UTILS.build({'type': 'PRAEFusion', **fusion})
        if sequential_gpu and get_backend() == 'nccl':
            raise ValueError(
                'sequential_gpu keeps weights on the CPU, and processes cannot share them by NCCL: test in one process '
                'without a launcher, or set sequential_gpu=False'
            )
        self.sequential_gpu = sequential_gpu
        self.share_inputs = share_inputs
        self._pipelines = [] if share_inputs else [Compose(test_pipeline(config)) for config in configs]
        self._curves: Calibration | None = None
        self._has_weights = False
        self.register_buffer('_anchor', torch.zeros(0), persistent=False)  # says which device is ours
        self._check(configs)

    def _check(self, configs: Sequence[Config]) -> None:
        for name, config, names in zip(self.names, configs, self.member_classes, strict=True):
            if not self.share_inputs and not test_pipeline(config):
                raise ValueError(f'the config of {name} has no test pipeline to read images by: set share_inputs=True')
            threshold = score_threshold(config.model)
            if threshold >= HIGH_SCORE_THR:
                text = f'{name} drops boxes with scores below {threshold}, which an ensemble could use'
                warnings.warn(f'{text}: lower its score_thr to 0.01 or less', stacklevel=3)
            if not set(names) & set(self.classes):
                raise ValueError(f'{name} knows {names}, none of which is in {self.classes}')

    def load_members(self) -> None:
        """Load each member from its own checkpoint.

        Raises:
            ValueError: If a member has none, its file does not exist, or the weights are of another detector.
        """
        for name, member, path in zip(self.names, self.members, self.checkpoints, strict=True):
            if path is None or not ('://' in str(path) or os.path.isfile(path)):
                raise ValueError(
                    f'{name} has no weights: its checkpoint is {path}, and no checkpoint of the ensemble was loaded '
                    f'(made by `python -m mmplugins.prae pack <config> -o ensemble.pth`)'
                )
            try:
                load_checkpoint(member, path, map_location='cpu', strict=True, revise_keys=[(r'^module\.', '')])
            except RuntimeError as error:
                raise ValueError(f'{path} is not a checkpoint of {name}: {error}') from error
        self._has_weights = True

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args, **kwargs) -> None:
        """Notice that weights of the members are in a checkpoint; they are loaded by the members themselves.

        Raises:
            ValueError: If they are of other members: mmengine would only log it.
        """
        start = f'{prefix}members.'
        given = {key for key in state_dict if key.startswith(start)}
        if given:
            wanted = {start + key for key in self.members.state_dict()}
            if given != wanted:
                raise ValueError(
                    f'the checkpoint is of another ensemble: {len(wanted - given)} weights are missing, '
                    f'{len(given - wanted)} are not known, the first is {min(given ^ wanted)}'
                )
            self._has_weights = True
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def init_weights(self) -> None:
        """Do nothing: the members come with weights."""

    def _apply(self, fn: Callable, recurse: bool = True) -> EnsembleDetector:
        """Move to a device: with ``sequential_gpu`` the members stay where they are."""
        return super()._apply(fn, recurse and not self.sequential_gpu)

    @torch.no_grad()
    def test_step(self, data: dict) -> list[DetDataSample]:
        """Detect in a batch.

        Args:
            data: ``inputs``, images ``(3, H, W)``, and ``data_samples``, as the data loader collates them.

        Returns:
            The data samples with ``pred_instances``: ``bboxes (M, 4)`` xyxy in pixels of the original image,
            ``scores (M,)``, ``labels (M,)``, index of ``classes``.
        """
        self._prepare()
        views = [self._run_member(number, data) for number in range(len(self.members))]
        samples = list(data['data_samples'])
        if self.fusion is None:
            results = [joined(image) for image in zip(*views, strict=True)]
            for sample in samples:
                sample.set_metainfo(dict(known=self.member_classes))
        else:
            sizes = [sample.ori_shape[:2] for sample in samples]
            results = self.fusion(views, self._curves, sizes)
        return self.add_pred_to_datasample(samples, results)

    val_step = test_step

    def _prepare(self) -> None:
        """Load what is needed before the first batch."""
        if not self._has_weights:
            self.load_members()
        if self._curves is None:
            if self.calibration is None:
                curves = Calibration.identity(self.names, self.classes)
            else:
                curves = load(self.calibration).select(self.names).for_classes(self.classes)
            self._curves = curves.knowing(self.member_classes)

    def _run_member(self, number: int, data: dict) -> list[InstanceData]:
        """Predictions of a member on each image, with our labels; boxes of classes that we do not have are dropped."""
        member = self.members[number]
        own = self._own_inputs(number, data)
        if self.sequential_gpu:
            member.to(self._anchor.device)
        samples = member.test_step(own)
        if self.sequential_gpu:
            member.to('cpu')
        place = {name: label for label, name in enumerate(self.classes)}
        table = torch.tensor([place.get(name, -1) for name in self.member_classes[number]], device=self._anchor.device)
        found = []
        for sample in samples:
            instances = sample.pred_instances
            instances.labels = table[instances.labels]
            found.append(instances[instances.labels >= 0])
        return found

    def _own_inputs(self, number: int, data: dict) -> dict:
        """The batch for a member: a copy, or the images read again by its own pipeline."""
        if self.share_inputs:
            return dict(inputs=list(data['inputs']), data_samples=[s.clone() for s in data['data_samples']])
        batch = []
        for sample in data['data_samples']:
            path = sample.metainfo.get('img_path')
            if path is None:
                raise ValueError(
                    'each member reads the image again by its own test pipeline, but this one has no file: give a '
                    'path, or set share_inputs=True if the pipelines are the same'
                )
            batch.append(self._pipelines[number](dict(img_path=path, img_id=sample.metainfo.get('img_id', 0))))
        return pseudo_collate(batch)

    def loss(self, batch_inputs: torch.Tensor, batch_data_samples: list) -> dict:
        """Not possible.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError('an EnsembleDetector is not trained: train its members')

    def predict(self, batch_inputs: torch.Tensor, batch_data_samples: list) -> list:
        """Not possible: each member normalizes images ``(N, 3, H, W)`` in its own way, which :meth:`test_step` does.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError('call test_step with what the data loader gives')

    def _forward(self, batch_inputs: torch.Tensor, batch_data_samples: list | None = None) -> tuple:
        """Raw outputs of all members for a batch ``(N, 3, H, W)`` that is normalized already."""
        return tuple(member(batch_inputs, batch_data_samples, mode='tensor') for member in self.members)

    def extract_feat(self, batch_inputs: torch.Tensor) -> tuple:
        """Features of all members for a batch ``(N, 3, H, W)`` that is normalized already."""
        return tuple(member.extract_feat(batch_inputs) for member in self.members)
