"""The mmengine hook that puts a frozen teacher beside a student and drives the weight of the distillation.

Not in the paper (arXiv 2309.09571): all of it, beside the fact that the teacher is frozen.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmengine.config import ConfigDict
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn
from torch.nn.modules.utils import _pair as to_2tuple

from mmplugins.utils.wrappers import model_of

from .schedule import WeightSchedule, epochs_done
from .student import Student
from .teachers.loading import build_teacher, fingerprint, without_sources
from .teachers.probe import image_channels, noise_image
from .teachers.provider import TeacherProvider


@HOOKS.register_module()
class GenerativeDistillHook(Hook):
    """Builds the teacher, gives it to the student for the time of the training, and takes it away again.

    The student is a :class:`mmplugins.hgkd.HGKD`, or any model under ``HGKDDistilledModel``. The teacher is in no
    parameter list, no checkpoint, no DDP bucket and no EMA copy, and ``val`` and ``test`` do not need it. A resumed run
    builds it anew and compares its weights with a fingerprint in the checkpoint.

    Args:
        teacher: Config of a network of mmpretrain, timm, torchvision or transformers, see ``build_teacher``, or the
            network itself.
        checkpoint: File with all weights of the teacher, alone or behind ``backbone.``, in any format of
            ``read_weights``; a MAE also in FAIR's or transformers' names. Not needed with an ``init_cfg`` of type
            ``Pretrained``, where its library brings weights (``pretrained=True``, ``weights``, ``from_pretrained``),
            with a ``CLIPGenerator``, which reads its own file, or for a network that is given as it is.
        taps: Names of modules of the teacher whose outputs are the features, see :class:`Taps`. Default: the last block
            of a ViT-B.
        mode: ``'full'`` (default), ``'same_mask'`` or ``'visible'``: what the teacher sees.
        target_norm: ``'ln'`` (default), ``'l2'`` or ``'none'``.
        input_norm: ``dict(mean=, std=)`` of a value for each channel of the teacher, as it was trained, in the units
            of the student's data preprocessor and in its order of channels. None: the same as the student's.
        input_channels: Channels of the student's images that the teacher sees: ``[0, 0, 0]`` for gray images before a
            teacher of color, ``[2, 1, 0]`` to turn BGR into RGB. None: all. Not in the paper.
        weight: Of the distillation loss: a number, or the arguments of :class:`WeightSchedule`.
        stop_epoch: From this epoch on (counted from 0) the weight is 0 and the teacher does not run. In an
            iteration-based loop an epoch is a pass over the data.
        autocast: ``'float16'`` or ``'bfloat16'`` for the teacher; None: float32 even where the student uses AMP.
        resize_input: True: the teacher gets the images resized so that its grid is that of the student (patch 14). A
            number or ``(height, width)``: resized to that, for a teacher of a fixed size. Not in the paper.
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
        taps: Sequence[str] = ('layers.11',),
        mode: str = 'full',
        target_norm: str = 'ln',
        input_norm: dict | None = None,
        input_channels: Sequence[int] | None = None,
        weight: float | dict = 1.0,
        stop_epoch: int | None = None,
        autocast: str | None = None,
        resize_input: bool | int | Sequence[int] = False,
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
        self.input_channels = input_channels if input_channels is None else list(input_channels)
        self.schedule = WeightSchedule(**weight) if isinstance(weight, dict) else WeightSchedule(start=weight)
        self.stop_epoch = stop_epoch
        self.autocast = autocast
        self.resize_input = resize_input if isinstance(resize_input, (bool, int)) else list(resize_input)
        self.log = log
        self.verify = verify
        self.provider: TeacherProvider | None = None
        self.record: dict = {}
        self._before: dict | None = None

    def before_train(self, runner: Runner) -> None:
        """Build the teacher, fit it to the student, attach it, and log which one it is.

        Not in ``before_run``, which ``val`` and ``test`` call too.
        """
        student = self._student(runner)
        device = next(student.parameters()).device
        with torch.random.fork_rng(devices=[device] if device.type == 'cuda' else []):  # any teacher, same crops
            teacher = build_teacher(self.teacher_cfg, self.checkpoint).to(device)
        self.record = self._describe(teacher, student)
        if self._before is not None:
            self._compare(self._before)
        self.provider = self.provide(teacher, student)
        targets = student.check_teacher(
            self.provider, noise_image(image_channels(student), to_2tuple(student.input_size), device)
        )
        # Past `nn.Module.__setattr__`, so that it is certainly no submodule.
        object.__setattr__(student, 'teacher', self.provider)
        number = sum(parameter.numel() for parameter in teacher.parameters())
        print_log(
            f'teacher: {type(teacher).__name__}, {number / 1e6:.2f} M parameters, sha256 '
            f'{self.record["sha256"][:16]}…, mode {self.mode}, taps {list(self.taps)} -> targets '
            f'{[tuple(target.shape[1:]) for target in targets]}',
            logger='current',
        )

    def provide(self, teacher: nn.Module, student: Student) -> TeacherProvider:
        """Return what runs a teacher on the device of its weights, for a student."""
        return TeacherProvider(
            teacher,
            self.taps,
            mode=self.mode,
            target_norm=self.target_norm,
            input_norm=self._input_norm(student),
            input_channels=self.input_channels,
            autocast=self.autocast,
            stride=student.target_stride,
            resize_input=self.resize_input,
        )

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        """Set the weight of this iteration."""
        epoch = epochs_done(runner)
        stopped = self.stop_epoch is not None and epoch >= self.stop_epoch
        self.provider.paused = stopped
        self._student(runner).distill_weight = 0.0 if stopped else self.schedule(epoch, runner.iter)

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
        """Keep what a resumed checkpoint says about its teacher; one to start from may have had any."""
        if not getattr(runner, '_resume', False):
            return
        self._before = (checkpoint.get('meta') or {}).get('distill')
        if self._before is None:
            print_log('the resumed checkpoint does not say which teacher it had', logger='current', level=30)

    def after_train(self, runner: Runner) -> None:
        """Detach the teacher and let it go."""
        self.provider.close()
        object.__setattr__(self._student(runner), 'teacher', None)
        self.provider = None

    def _describe(self, teacher: nn.Module, student: Student) -> dict:
        """Return what a checkpoint says about the teacher: all that changes the targets."""
        given = self.teacher_cfg
        return dict(
            # Plain containers: a checkpoint must open without mmengine's classes, and without running code.
            teacher=ConfigDict(given).to_dict() if isinstance(given, dict) else type(given).__name__,
            sha256=fingerprint(teacher),
            mode=self.mode,
            taps=list(self.taps),
            target_norm=self.target_norm,
            input_norm=self._input_norm(student),
            input_channels=self.input_channels,
            resize_input=self.resize_input,
            autocast=self.autocast,
            target_stride=student.target_stride,
        )

    def _compare(self, before: dict) -> None:
        """Compare the teacher with that of the run that is resumed.

        Raises:
            ValueError: Another teacher, or other settings, and ``verify`` is on.
        """
        # The same weights may come from another place, but not into another network: heads or eps change no weight.
        was, now = ({**record, 'teacher': without_sources(record.get('teacher'))} for record in (before, self.record))
        changed = [f'{key} was {was[key]}, is {now[key]}' for key in now if key in before and was[key] != now[key]]
        if not changed:
            return
        text = f'the teacher is not that of the resumed run: {"; ".join(changed)}'
        if self.verify:
            raise ValueError(f'{text}. Give the same teacher, or verify=False to go on with the other')
        print_log(text, logger='current', level=30)

    @staticmethod
    def _student(runner: Runner) -> Student:
        model = model_of(runner)
        if not isinstance(model, Student):
            raise ValueError(
                f'GenerativeDistillHook needs a student: put the {type(model).__name__} of your config into '
                "model=dict(type='HGKDDistilledModel', student=…)"
            )
        return model

    def _input_norm(self, student: nn.Module) -> list[list[float]] | None:
        """Return scale and shift that give ``x_t = (x std_s + mean_s - mean_t) / std_t``."""
        if self.input_norm is None:
            return None
        preprocessor, theirs = student.data_preprocessor, self.input_norm
        channels = self.input_channels or range(len(theirs['mean']))
        mean, std = (
            [getattr(preprocessor, key).flatten().tolist()[channel] for channel in channels]
            if hasattr(preprocessor, key)
            else [default] * len(channels)
            for key, default in (('mean', 0.0), ('std', 1.0))
        )
        other = list(zip(mean, std, theirs['mean'], theirs['std'], strict=True))
        return [[s / std_t for _, s, _, std_t in other], [(m - mean_t) / std_t for m, _, mean_t, std_t in other]]
