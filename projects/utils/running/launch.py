"""What ``tools/train.py`` and ``tools/test.py`` share: arguments, config, runner."""

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import torch.distributed as dist
from mmengine.config import Config, ConfigDict, DictAction
from mmengine.device import get_device
from mmengine.hooks import Hook
from mmengine.registry import METRICS, RUNNERS
from mmengine.runner import FlexibleRunner, Runner

from ..cpu_products import FasterCPUProductsHook
from .runner import SurvivingFlexibleRunner, SurvivingRunner
from .threads import warn_if_busy


def build_parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with the arguments that training and testing have in common."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('config', help='path of the config')
    parser.add_argument('--work-dir', help='folder of logs and checkpoints; default: work_dirs/<config name>')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='override settings of the config: a.b=1 list=1,2 nested="[(1,2),(3,4)]" (no spaces in a value)',
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    # torch.distributed.launch, which mim uses, passes it; torchrun sets the environment variable instead.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    return parser


def load_config(args: argparse.Namespace) -> Config:
    """Read the config and apply ``--launcher``, ``--cfg-options`` and ``--work-dir``."""
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = Config.fromfile(check_file(args.config, 'Config'))
    cfg.launcher = args.launcher
    if args.cfg_options:
        cfg.merge_from_dict(args.cfg_options)
    if args.work_dir:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs', Path(args.config).stem))
    return cfg


def check_file(path: str, what: str) -> str:
    """Return ``path``, or exit with a message if it is a local path without a file."""
    if '://' not in path and not Path(path).is_file():
        raise SystemExit(f'{what} not found: {path} (working directory: {Path.cwd()})')
    return path


def check_work_dir(path: str) -> None:
    """Exit with a message if nothing can be written to ``path``."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise SystemExit(
            f'The work dir {path} cannot be written ({error.strerror}); --work-dir names another.'
        ) from None


def enable_amp(cfg: Config) -> None:
    """Make the optimizer wrapper of ``cfg`` train in mixed precision."""
    if get_device() == 'cpu':
        raise SystemExit('--amp needs a GPU: mmengine has no mixed-precision training on a CPU.')
    kind = cfg.optim_wrapper.get('type', 'OptimWrapper')
    if kind not in ('OptimWrapper', 'AmpOptimWrapper'):
        raise SystemExit(f'--amp replaces OptimWrapper, but optim_wrapper.type of the config is {kind}.')
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')


def enable_auto_scale_lr(cfg: Config) -> None:
    """Scale the learning rate by the real batch size over ``auto_scale_lr.base_batch_size``."""
    if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
        raise SystemExit('--auto-scale-lr needs auto_scale_lr = dict(base_batch_size=...) in the config.')
    cfg.auto_scale_lr.enable = True


def enable_pictures(cfg: Config, folder: str) -> None:
    """Make the host's visualization hook write predictions as pictures; each host spells that differently."""
    hook = cfg.get('default_hooks', {}).get('visualization', {})
    match hook.get('type', '').rpartition('.')[2]:
        case 'DetVisualizationHook':  # mmdet, mmrotate; the folder is made under <work dir>/<time>/
            hook.update(draw=True, test_out_dir=folder)
        case 'SegVisualizationHook':  # mmseg
            hook.update(draw=True)
            cfg.visualizer.save_dir = folder
        case 'VisualizationHook':  # mmpretrain
            hook.update(enable=True, out_dir=folder)
        case other:
            raise SystemExit(f'--show-dir needs a visualization hook of a host in default_hooks, found {other!r}.')


def enable_views(cfg: Config) -> None:
    """Test on several views of each image, as mmdet does: by ``tta_model`` of the config, on its ``tta_pipeline``."""
    if missing := [key for key in ('tta_model', 'tta_pipeline') if key not in cfg]:
        raise SystemExit(f'--tta needs {" and ".join(missing)} in the config.')
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    dataset.pipeline = cfg.tta_pipeline


def build_runner(cfg: Config) -> Runner | FlexibleRunner:
    """Build the runner that the config asks for: ``runner_type``, a ``strategy``, or the plain one.

    With ``MMPLUGINS_ONEDNN=1`` in the environment it trains with the faster products on a CPU.
    """
    check_work_dir(cfg.work_dir)
    prepare_cpu_group(cfg)
    if 'runner_type' in cfg:
        runner = RUNNERS.build(cfg)
    else:
        runner = (SurvivingFlexibleRunner if 'strategy' in cfg else SurvivingRunner).from_cfg(cfg)
    if os.environ.get('MMPLUGINS_ONEDNN') == '1':
        runner.register_hook(FasterCPUProductsHook())
    warn_if_busy(runner.logger)
    return runner


def prepare_cpu_group(cfg: Config) -> None:
    """Make several processes work on a machine without GPU; do nothing elsewhere.

    mmengine's launcher calls ``torch.cuda.set_device`` in any case. It leaves a process group that exists
    alone, so we create it. By default it passes DDP and FSDP the number of a GPU; DDP wants none for a model on the
    CPU, FSDP the name of the device.
    """
    if cfg.launcher == 'none' or get_device() != 'cpu':
        return
    if cfg.launcher != 'pytorch':
        raise SystemExit(f'--launcher {cfg.launcher} needs GPUs; on a CPU use tools/dist_train.sh (torchrun).')
    if not dist.is_initialized():
        dist.init_process_group('gloo')
    if cfg.get('strategy', {}).get('type') == 'FSDPStrategy':
        put_fsdp_on_cpu(cfg.strategy)
        return
    owner, key = (cfg.strategy, 'model_wrapper') if 'strategy' in cfg else (cfg, 'model_wrapper_cfg')
    # The first three are what mmengine uses when the config says nothing.
    owner[key] = {
        'type': 'MMDistributedDataParallel',
        'broadcast_buffers': False,
        'find_unused_parameters': cfg.get('find_unused_parameters', False),
        **(owner.get(key) or {}),
        'device_ids': None,
    }


def put_fsdp_on_cpu(strategy: ConfigDict) -> None:
    """Make ``FSDPStrategy`` work without a GPU, which torch supports for tests only."""
    strategy.model_wrapper = {**(strategy.get('model_wrapper') or {}), 'device_id': 'cpu'}
    if strategy.get('state_dict_cfg') == 'full':
        # torch frees a weight after it "moved" it to the CPU, where it already was: a segmentation fault.
        options = dict(rank0_only=True, offload_to_cpu=False)
        strategy.state_dict_cfg = dict(
            state_dict_type='FULL_STATE_DICT',
            state_dict_config=dict(type='FullStateDictConfig', **options),
            optim_state_dict_config=dict(type='FullOptimStateDictConfig', **options),
        )


class DumpPredictions(Hook):
    """Write all predictions of a test run to a pickle file, as the host's own ``tools/test.py`` does.

    mmdet's has no ground truth, whose masks cannot be read without mmdet, and masks are run-length encoded.

    A hook, because evaluators that hold one metric per dataset (mmdet's ``MultiDatasetsEvaluator``) never call
    a metric that is appended to their list.

    Args:
        path: Output file, ``.pkl`` or ``.pickle``.
        scope: ``default_scope`` of the config.
    """

    def __init__(self, path: str, scope: str | None = None) -> None:
        kind = 'mmdet.DumpDetResults' if scope == 'mmdet' else 'mmengine.DumpResults'
        self.metric = METRICS.build(dict(type=kind, out_file_path=path))

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Keep the predictions of one batch."""
        self.metric.process(data_batch, [sample.to_dict() for sample in outputs])

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Gather the predictions of all ranks and write them."""
        self.metric.evaluate(len(runner.test_dataloader.dataset))
