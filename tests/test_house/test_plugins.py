"""What holds for every plugin in projects/, whichever there are."""

import importlib
import inspect
import re
import sys
from pathlib import Path

import pytest
from torch import nn

ROOT = Path(__file__).resolve().parents[2]
PLUGINS = sorted(path.parent.name for path in ROOT.glob('projects/*/__init__.py') if path.parent.name != 'utils')
# The host packages that a plugin's own import may need, or several such sets, each of which is enough. A new plugin
# adds its line.
HOSTS = {
    'cae': [{'mmpretrain'}],
    'dsnet': [{'mmpretrain', 'mmdet'}],
    'hgkd': [{'mmpretrain'}],
    'its_maml': [{'mmpretrain'}],
    'metr': [{'mmdet'}],
    'o2detr': [{'mmdet', 'mmrotate'}],
    'prae': [{'mmdet'}],
    'prompt_tuning_inversion': [set()],
    'spsa': [{'mmpretrain'}, {'mmdet'}],
}
OPTIONAL = {
    'sentence_transformers', 'transformers', 'spconv', 'diffusers', 'accelerate', 'onnx', 'onnxruntime', 'timm',
    'ensemble_boxes', 'mlxtend', 'torchattacks', 'foolbox', 'skdim',
}  # fmt: skip

IMPORT_WITHOUT = """
import importlib, sys

hidden = {hidden!r}

class Without:  # a finder that does not find the hidden packages: import fails, find_spec gives None
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.partition('.')[0] in hidden else self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
importlib.import_module('mmplugins.{plugin}')
"""
# A shape in a docstring: (N, C, H, W), (B*K, Q, D), (N, 4).
SHAPE = re.compile(r'\([A-Z][^()]*,[^()]*\)')


@pytest.mark.slow
@pytest.mark.parametrize('plugin', PLUGINS)
def test_imports_with_only_its_host(plugin, run):
    assert plugin in HOSTS, f'add the hosts of {plugin} to HOSTS in {Path(__file__).name}'
    for hosts in HOSTS[plugin]:
        hidden = OPTIONAL | ({'mmdet', 'mmpretrain', 'mmrotate', 'mmseg'} - hosts)
        if 'mmpretrain' in hosts:
            hidden -= {'transformers'}  # mmpretrain asks for the distribution, not the import, and then needs it
        hidden = sorted(hidden)
        run(sys.executable, '-W', 'ignore', '-c', IMPORT_WITHOUT.format(hidden=hidden, plugin=plugin))


@pytest.mark.parametrize('plugin', PLUGINS)
def test_public_names_exist_and_are_documented(plugin):
    module = importlib.import_module(f'mmplugins.{plugin}')
    public = {name: getattr(module, name) for name in module.__all__}
    without = [name for name, thing in public.items() if not (thing.__doc__ or '').strip()]
    assert not without, 'no docstring'


@pytest.mark.parametrize('plugin', PLUGINS)
def test_modules_state_their_shapes(plugin):
    module = importlib.import_module(f'mmplugins.{plugin}')
    classes = [getattr(module, name) for name in module.__all__]
    modules = [thing for thing in classes if inspect.isclass(thing) and issubclass(thing, nn.Module)]
    without = []
    for cls in modules:
        # The class, its own methods, or the legend at the top of its file.
        own = [cls, *(value for value in vars(cls).values() if inspect.isfunction(value)), inspect.getmodule(cls)]
        if not any(SHAPE.search(thing.__doc__ or '') for thing in own):
            without.append(cls.__name__)
    assert not without, 'no shape like (N, C) in the docstrings'


def test_plugins_do_not_import_each_other():
    for plugin in PLUGINS:
        others = '|'.join(set(PLUGINS) - {plugin}) or '(?!)'
        for file in ROOT.glob(f'projects/{plugin}/**/*.py'):
            found = re.search(rf'mmplugins\.({others})\b|from \.\.({others})\b', file.read_text(encoding='utf-8'))
            assert not found, f'{file.relative_to(ROOT)}: {found[0]}'
