"""Every config parses, its model and data pipelines build, and it has no fault that shows without running it.

Without data, weights or network. The runs are in the files ``test_rehearsal_<plugin>.py`` beside.
"""

import json
import re
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import pytest
import yaml
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import DATASETS, MODELS, init_default_scope
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted(path for path in ROOT.glob('configs/*/*.py') if path.parent.name != '_base_')
MODELS_SAID = {
    model['Name']: model['Metadata']
    for path in ROOT.glob('projects/*/metafile.yml')
    for model in yaml.safe_load(path.read_text(encoding='utf-8'))['Models']
}
# What decides which samples a data set has.
IDENTITY = ('type', 'data_root', 'ann_file', 'data_prefix', 'split', 'part', 'classes', 'class_split', 'metainfo')


def find(node: object, key: str) -> Iterator:
    """Yield every value of ``key`` in nested dicts and lists."""
    if isinstance(node, dict):
        for name, value in node.items():
            if name == key:
                yield value
            yield from find(value, key)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from find(value, key)


def samples(dataset: object, inherited: dict | None = None) -> Iterator[str]:
    """Yield what identifies the samples of each data set in a nest of wrappers."""
    if isinstance(dataset, (list, tuple)):
        for one in dataset:
            yield from samples(one, inherited)
    elif isinstance(dataset, dict):
        own = {**(inherited or {}), **{key: dataset[key] for key in IDENTITY if key in dataset}}
        inner = dataset.get('dataset') or dataset.get('datasets')
        if isinstance(inner, dict) and 'type' not in inner:
            inner = list(inner.values())
        if inner:
            yield from samples(inner, own)
        else:
            yield json.dumps(own, sort_keys=True, default=str)


@pytest.fixture(scope='module', params=CONFIGS, ids=lambda path: path.stem)
def cfg(request) -> Config:
    cfg = Config.fromfile(request.param)  # once for all tests of a config
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    return cfg


@pytest.fixture(scope='module')
def model(cfg) -> nn.Module:
    """The model, without values: `init_weights` makes them, and millions of random numbers before it take seconds."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ('uniform_', 'normal_'):
            patch.setattr(Tensor, name, lambda self, *args, **kwargs: self)
        return MODELS.build(deepcopy(cfg.model))


def test_model_builds(model):
    assert sum(parameter.numel() for parameter in model.parameters()) > 0


def test_pipelines_build(cfg):
    loaders = [cfg.get(f'{split}_dataloader') or {} for split in ('train', 'val', 'test')]
    pipelines = list(find(loaders, 'pipeline'))
    assert pipelines
    for pipeline in pipelines:
        Compose(deepcopy(pipeline))


def test_datasets_are_registered(cfg):
    # Not built: the data of a paper-scale config is not here.
    loaders = [cfg.get(f'{split}_dataloader') or {} for split in ('train', 'val', 'test')]
    for dataset in find(loaders, 'dataset'):
        with DATASETS.switch_scope_and_registry(dataset.get('_scope_')) as registry:
            assert registry.get(dataset['type']) is not None, dataset['type']


def test_user_decides_about_paths(cfg):
    assert cfg.get('work_dir') is None
    # The default work dir of another of our configs is all that can be expected to be there.
    assert (cfg.get('load_from') or 'work_dirs/').startswith('work_dirs/')


def test_custom_imports_fail_loudly(cfg):
    imports = cfg.get('custom_imports')  # a baseline with the host's modules only has none
    if imports is not None:
        assert imports.allow_failed_imports is False
        assert all(name.startswith('mmplugins.') for name in imports.imports)


@pytest.mark.parametrize('part', ['val', 'test'])
def test_is_not_judged_on_its_training_set(cfg, part):
    if not (cfg.get('train_dataloader') and cfg.get(f'{part}_dataloader')):
        pytest.skip('does not train, or has no such part')
    common = set(samples(cfg.train_dataloader.dataset)) & set(samples(cfg[f'{part}_dataloader'].dataset))
    assert not common, f'the {part} set is the training set: {common}'


def test_batch_size_is_that_of_the_name(cfg):
    if not cfg.get('train_cfg'):
        pytest.skip('does not train')
    gpus, batch = map(int, re.search(r'_(\d+)xb(\d+)', Path(cfg.filename).stem).groups())
    assert cfg.train_dataloader.batch_size == batch, f'the name says {batch} samples a GPU'
    base = (cfg.get('auto_scale_lr') or {}).get('base_batch_size')
    total = gpus * batch * cfg.optim_wrapper.get('accumulative_counts', 1)
    assert base == total, f'the name says {total} samples a step, auto_scale_lr.base_batch_size is {base}'


def test_metafile_says_how_long_it_trains(cfg):
    said = MODELS_SAID.get(Path(cfg.filename).stem, {})  # another test misses those that no metafile names
    loop = cfg.get('train_cfg') or {}
    lengths = {key: loop[name] for key, name in (('Epochs', 'max_epochs'), ('Iterations', 'max_iters')) if name in loop}
    assert {key: said[key] for key in ('Epochs', 'Iterations') if key in said} == lengths
    if 'Batch Size' in said:
        gpus, batch = map(int, re.search(r'_(\d+)xb(\d+)', Path(cfg.filename).stem).groups())
        assert said['Batch Size'] == gpus * batch


def test_average_of_weights_has_statistics_too(cfg, model):
    hooks = [hook for hook in cfg.get('custom_hooks') or [] if hook['type'].endswith('EMAHook')]
    if all(hook.get('update_buffers') for hook in hooks):
        return
    names = [name for name, module in model.named_modules() if isinstance(module, _BatchNorm)]
    assert not names, f'EMAHook averages weights of {len(names)} batch norms, not their statistics: update_buffers=True'


def test_has_no_path_of_a_machine(cfg):
    text = Path(cfg.filename).read_text(encoding='utf-8')
    paths = re.findall(r"""['"]((?:[A-Za-z]:\\|/|~/)[^'"]*)['"]""", text)
    assert not paths, f"paths of somebody's machine: {paths}"


def test_can_be_resumed(cfg):
    if cfg.get('train_cfg'):
        hook = cfg.default_hooks.checkpoint
        for key in ('save_optimizer', 'save_param_scheduler'):
            assert hook.get(key, True), f'{key}=False: a resumed run starts with a fresh one'


def test_is_in_the_metafile(cfg):
    path = Path(cfg.filename).relative_to(ROOT)
    metafile = yaml.safe_load((ROOT / f'projects/{path.parts[1]}/metafile.yml').read_text(encoding='utf-8'))
    listed = [model['Config'] for model in metafile['Models']]
    assert listed.count(path.as_posix()) == 1, f'{path} is {listed.count(path.as_posix())} times in the metafile'
