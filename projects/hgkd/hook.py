"""The mmengine hook that puts a frozen teacher beside a student and drives the weight of the distillation.

Not in the paper (arXiv 2309.09571): all of it, beside the fact that the teacher is frozen.
"""

from __future__ import annotations

import torch
from mmengine.config import ConfigDict
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS
from torch import Tensor, nn

from .schedule import WeightSchedule
from .teachers.loading import build_teacher, fingerprint
from .teachers.provider import TeacherProvider


@HOOKS.register_module()
class GenerativeDistillHook(Hook):
    """Builds the teacher, gives it to the student for the time of the training, and takes it away again.

    The student is a :class:`mmplugins.hgkd.HGKD` or any model with a slot ``teacher``, a ``distill_weight``, and
    ``predict_features(images, active) -> ((B, C, h, w), active)``. The teacher is in no parameter list, no
    checkpoint, no DDP bucket and no EMA copy. A resumed run builds it anew and compares its weights with a fingerprint
    in the checkpoint.

    Args:
        teacher: Config of a network in ``MODELS``, or the network itself.
        checkpoint: File with all weights of the teacher, alone or behind ``backbone.``: ``.npz``, ``.safetensors`` or
            of ``torch.save``. Not needed with an ``init_cfg`` of type ``Pretrained``, a ``CLIPGenerator``, which reads
            its own file, or a network that is given as it is.
        taps: Names of modules of the teacher whose outputs are the features, see :class:`TeacherProvider`. Default: the
            last block of a ViT-B.
        mode: ``'full'`` (default), ``'same_mask'`` or ``'visible'``: what the teacher sees.
        target_norm: ``'ln'`` (default), ``'l2'`` or ``'none'``.
        input_norm: ``dict(mean=, std=)`` of three values each, as the teacher was trained, in the units of the
            student's data preprocessor and in its order of channels. None: the same as the student's.
        weight: Of the distillation loss: a number, or the arguments of :class:`WeightSchedule`.
        stop_epoch: From this epoch on (counted from 0) the weight is 0 and the teacher does not run.
        autocast: ``'float16'`` or ``'bfloat16'`` for the teacher; None: float32 even where the student uses AMP.
        resize_input: Whether the teacher gets the images resized so that its grid is that of the student (patch 14).
            Not in the paper.
        log: Whether the weight, and what the student's ``distill_log`` holds, are logged.
        verify: ``'sha256'``: resuming with other weights or settings of the teacher is an error; False: only a warning.

    Raises:
        ValueError: An argument is not allowed; the teacher is not fully filled; teacher and student do not fit.
    """

    priority = 'NORMAL'

    def __init__(
        self,
        teacher: dict | nn.Module,
        checkpoint: str | None = None,
        taps: tuple[str, ...] | list[str] = ('layers.11',),
        mode: str = 'full',
        target_norm: str = 'ln',
        input_norm: dict | None = None,
        weight: float | dict = 1.0,
        stop_epoch: int | None = None,
        autocast: str | None = None,
        resize_input: bool = False,
        log: bool = True,
        verify: str | bool = 'sha256',
    ) -> None:
        if isinstance(taps, str) or not taps or len(set(taps)) != len(taps):
            raise ValueError(f'taps must be a list of different names of modules, got {taps!r}')
        if verify not in ('sha256', False):
            raise ValueError(f"verify must be 'sha256' or False, got {verify!r}")
        if input_norm is not None and set(input_norm) != {'mean', 'std'}:
            raise ValueError(f'input_norm must be dict(mean=, std=), got {input_norm}')
        self.teacher_cfg = teacher
        self.checkpoint = checkpoint
        self.taps = tuple(taps)
        self.mode = mode
        self.target_norm = target_norm
        self.input_norm = input_norm
        self.schedule = WeightSchedule(**weight) if isinstance(weight, dict) else WeightSchedule(start=weight)
        self.stop_epoch = stop_epoch
        self.autocast = autocast
        self.resize_input = resize_input
        self.log = log
        self.verify = verify
        self.provider: TeacherProvider | None = None
        self.record: dict = {}

    def before_run(self, runner: Runner) -> None:
        """Build the teacher, fit it to the student and attach it."""
        student = self._student(runner)
        if getattr(student, 'head', None) is None:
            raise ValueError(
                f'the {type(student).__name__} has no head that compares features: set `head` in the model'
            )
        device = next(student.parameters()).device
        teacher = build_teacher(self.teacher_cfg, self.checkpoint).to(device)
        pred, active, stride = self._probe_student(student, device)
        self.provider = TeacherProvider(
            teacher,
            self.taps,
            mode=self.mode,
            target_norm=self.target_norm,
            input_norm=self._input_norm(student),
            autocast=self.autocast,
            stride=stride,
            resize_input=self.resize_input,
        )
        images = torch.zeros(1, 3, *self._input_size(student), device=device)
        target = self.provider(images, active)
        self._check_fit(student, pred, target)
        given = self.teacher_cfg
        self.record = dict(
            # Plain containers: a checkpoint must open without mmengine's classes, and without running code.
            teacher=ConfigDict(given).to_dict() if isinstance(given, dict) else type(given).__name__,
            sha256=fingerprint(teacher),
            mode=self.mode,
            taps=list(self.taps),
            target_norm=self.target_norm,
        )
        self._num_parameters = sum(parameter.numel() for parameter in teacher.parameters())
        self._target_shape = tuple(target.shape[1:])
        # Past `nn.Module.__setattr__`, so that it is certainly no submodule.
        object.__setattr__(student, 'teacher', self.provider)

    def before_train(self, runner: Runner) -> None:
        """Log which teacher it is."""
        print_log(
            f'teacher: {type(self.provider.teacher).__name__}, {self._num_parameters / 1e6:.2f} M parameters, sha256 '
            f'{self.record["sha256"][:16]}…, mode {self.mode}, taps {list(self.taps)} -> targets {self._target_shape}',
            logger='current',
        )

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        """Set the weight of this iteration."""
        stopped = self.stop_epoch is not None and runner.epoch >= self.stop_epoch
        self.provider.paused = stopped
        self._student(runner).distill_weight = 0.0 if stopped else self.schedule(runner.epoch, runner.iter)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        """Log the weight and what the student says about its last targets."""
        if not self.log:
            return
        student = self._student(runner)
        runner.message_hub.update_scalar('train/distill_weight', student.distill_weight)
        if not self.provider.paused:
            for name, value in student.distill_log.items():
                runner.message_hub.update_scalar(f'train/distill_{name}', value)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Write down which teacher it was; its weights must not be there.

        Raises:
            RuntimeError: A weight of the teacher is in the checkpoint.
        """
        inside = [key for key in checkpoint.get('state_dict', {}) if 'teacher' in key.split('.')]
        if inside:
            raise RuntimeError(f'the checkpoint holds weights of a teacher: {inside[:3]}')
        checkpoint.setdefault('meta', {})['distill'] = self.record

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare the teacher with that of the run that is resumed; a checkpoint to start from may have any.

        Raises:
            ValueError: Another teacher, or other settings, and ``verify`` is on.
        """
        if not getattr(runner, '_resume', False):
            return
        before = (checkpoint.get('meta') or {}).get('distill')
        if before is None:
            print_log('the resumed checkpoint does not say which teacher it had', logger='current', level=30)
            return
        changed = [
            f'{key} was {before.get(key)}, is {self.record[key]}'
            for key in ('sha256', 'mode', 'taps', 'target_norm')
            if before.get(key) != self.record[key]
        ]
        if not changed:
            return
        text = f'the teacher is not that of the resumed run: {"; ".join(changed)}'
        if self.verify:
            raise ValueError(f'{text}. Give the same teacher, or verify=False to go on with the other')
        print_log(text, logger='current', level=30)

    def after_run(self, runner: Runner) -> None:
        """Detach the teacher and let it go."""
        if self.provider is not None:
            self.provider.close()
            object.__setattr__(self._student(runner), 'teacher', None)
            self.provider = None

    def _student(self, runner: Runner) -> nn.Module:
        model = runner.model
        while is_model_wrapper(model):
            model = model.module
        for name in ('teacher', 'distill_weight', 'predict_features'):
            if not hasattr(model, name):
                raise ValueError(
                    f'GenerativeDistillHook needs a student like HGKD; a {type(model).__name__} has no `{name}`'
                )
        return model

    @staticmethod
    def _input_size(student: nn.Module) -> tuple[int, int]:
        size = student.input_size
        return (size, size) if isinstance(size, int) else tuple(size)

    @torch.no_grad()
    def _probe_student(self, student: nn.Module, device: torch.device) -> tuple[Tensor, Tensor, tuple[float, float]]:
        """Return prediction and mask for a blank image, and the stride of the prediction in pixels."""
        size = self._input_size(student)
        cells = [side // student.downsample_raito for side in size]
        active = torch.ones(1, 1, *cells, dtype=torch.bool, device=device)  # given, so no random number is drawn
        training = student.training
        student.eval()
        try:
            pred, _ = student.predict_features(torch.zeros(1, 3, *size, device=device), active)
        finally:
            student.train(training)
        return pred, active, tuple(side / cell for side, cell in zip(size, pred.shape[-2:], strict=True))

    def _input_norm(self, student: nn.Module) -> tuple[list[float], list[float]] | None:
        """Return scale and shift that give ``x_t = (x std_s + mean_s - mean_t) / std_t``."""
        if self.input_norm is None:
            return None
        preprocessor = student.data_preprocessor
        mean, std = (
            getattr(preprocessor, key).flatten().tolist() if hasattr(preprocessor, key) else [default] * 3
            for key, default in (('mean', 0.0), ('std', 1.0))
        )
        other = zip(mean, std, self.input_norm['mean'], self.input_norm['std'], strict=True)
        pairs = [(s / std_t, (m - mean_t) / std_t) for m, s, mean_t, std_t in other]
        return [scale for scale, _ in pairs], [shift for _, shift in pairs]

    def _check_fit(self, student: nn.Module, pred: Tensor, target: Tensor) -> None:
        """Compare prediction ``(1, C, h, w)`` and target of a blank image; check what the mode needs."""
        if pred.shape[-2:] != target.shape[-2:]:
            rows, columns = self._input_size(student)
            raise ValueError(
                f'for an image of {rows} x {columns} pixels the teacher gives a grid of {target.shape[2]} x '
                f'{target.shape[3]}, the student predicts {pred.shape[2]} x {pred.shape[3]}. Set the stride of the '
                "student's predictor to the teacher's patch, or resize_input=True to resize what the teacher sees"
            )
        if pred.shape[1] != target.shape[1]:
            raise ValueError(
                f'the teacher gives {target.shape[1]} channels, the student predicts {pred.shape[1]}: set out_channels '
                f'of the student to {target.shape[1]}'
            )
        supervise = getattr(student.head, 'supervise', None)
        if self.mode == 'visible' and supervise != 'visible':
            raise ValueError(
                "mode 'visible' gives targets only where the student sees the image: set supervise='visible' in the "
                f"student's head, not {supervise!r}"
            )
