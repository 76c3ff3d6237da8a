"""Every config parses, and its model and data pipelines build, without data, weights or network."""

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import DATASETS, MODELS, init_default_scope

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted(path for path in ROOT.glob('configs/**/*.py') if '_base_' not in path.parts)


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


@pytest.fixture(scope='module', params=CONFIGS, ids=lambda path: path.stem)
def cfg(request) -> Config:
    cfg = Config.fromfile(request.param)  # once for all tests of a config
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    return cfg


def test_model_builds(cfg):
    model = MODELS.build(deepcopy(cfg.model))  # weights are made by init_weights, so nothing is downloaded here
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
