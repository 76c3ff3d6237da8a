"""The house that CONTRIBUTING.md draws: who may import whom, and what stands in which registry."""

import ast
import importlib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import mmengine.registry
import pytest

ROOT = Path(__file__).resolve().parents[2]
PLUGINS = sorted(path.parent.name for path in ROOT.glob('projects/*/__init__.py') if path.parent.name != 'utils')
# Roots of import names. `mmplugins` is the folder projects/, see setup.py.
PACKAGES = {'mmplugins': ROOT / 'projects', 'experiments': ROOT / 'tools/experiments'}
# Whoever adds a name asks first whether a user may have a class of that name: both in one registry are a KeyError.
IN_ROOT_REGISTRIES = {
    'DDIMInversionEditor', 'DiffusionParts', 'EditCLIPScore', 'EditFriendlyEditor', 'EditLPIPS', 'EditMSE', 'EditPSNR',
    'EditPairDataset', 'EditSSIM', 'EditStructureDistance', 'FasterCPUProductsHook', 'GenerativeDistillHook',
    'HGKDDistilledModel', 'LoadEditImage', 'NegativePromptEditor', 'NullTextInversionEditor', 'PromptTuningInversion',
    'SDEditEditor', 'SPSA', 'SPSAInserter', 'SPSANet', 'SaveEditGridHook', 'TintedDigitAccuracy',
    'TintedDigitAutoencoder', 'TintedDigitDenoiser', 'TintedDigits', 'TintedScenes',
}  # fmt: skip
MOST_FILES = 16  # in one room


def module_name(path: Path) -> str:
    """Return the import name of a file: ``projects/prae/files/coco.py`` is ``mmplugins.prae.files.coco``."""
    for package, folder in PACKAGES.items():
        if path.is_relative_to(folder):
            parts = path.relative_to(folder).with_suffix('').parts
            return '.'.join((package, *(part for part in parts if part != '__init__')))
    raise ValueError(path)


FILES = {module_name(path): path for folder in PACKAGES.values() for path in sorted(folder.rglob('*.py'))}


def imports(name: str) -> set[str]:
    """Modules of this repository that a module imports, anywhere in it but for type checkers."""
    path, found = FILES[name], set()
    package = name if path.name == '__init__.py' else name.rpartition('.')[0]
    tree = ast.parse(path.read_text(encoding='utf-8'))
    typing = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and 'TYPE_CHECKING' in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in typing:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = '.'.join(package.split('.')[: len(package.split('.')) - node.level + 1]) if node.level else ''
            base = '.'.join(filter(None, (base, node.module)))
            # `from package import module` names the module; any other name stands in the package itself.
            found |= {f'{base}.{a.name}' if f'{base}.{a.name}' in FILES else base for a in node.names}
    return {module for module in found if module in FILES and module != name}


def room(name: str) -> str:
    """The part below the package: ``prae`` of ``mmplugins.prae.files.coco``."""
    return f'{name}..'.split('.')[1]


def test_imports_are_found():
    assert 'mmplugins.utils.atomic' in imports('experiments.frame.experiment')
    assert {'mmplugins.spsa.layer', 'mmplugins.spsa.functional'} <= imports('mmplugins.spsa')


@pytest.mark.parametrize('plugin', PLUGINS)
def test_a_plugin_imports_no_other(plugin):
    for name in FILES:
        if name.startswith(f'mmplugins.{plugin}.') or name == f'mmplugins.{plugin}':
            others = {target for target in imports(name) if room(target) not in (plugin, 'utils', 'version', '')}
            assert not others, name


def test_utils_import_no_plugin():
    for name in FILES:
        if name.startswith('mmplugins.utils'):
            assert {room(target) for target in imports(name)} <= {'utils'}, name


def test_experiments_of_a_plugin_import_no_other():
    allowed = dict(frame={'frame', 'utils', ''}, workloads={'workloads', ''})
    for name in FILES:
        if name.startswith('experiments.'):
            own = {'frame', 'workloads', 'utils', room(name), ''}
            assert {room(target) for target in imports(name)} <= allowed.get(room(name), own), name


def test_no_module_imports_itself_on_a_way_round():
    # What a package's __init__.py hands on is no use of it: it stands for the rooms behind it.
    graph = {name: {target for target in imports(name) if FILES[target].name != '__init__.py'} for name in FILES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(' -> '.join(error.args[1]))


def test_products_know_no_experiment():
    for name in FILES:
        if name.startswith('mmplugins'):
            assert not {target for target in imports(name) if target.startswith('experiments')}, name


def test_no_room_is_a_hall():
    for folder in [*(ROOT / 'projects').rglob('*/'), *(ROOT / 'tools/experiments').rglob('*/')]:
        files = list(folder.glob('*.py'))
        assert len(files) <= MOST_FILES, f'{folder.relative_to(ROOT)} has {len(files)} files: which rooms does it have?'


def test_nothing_with_a_common_name_in_the_root_registries():
    for name in FILES:
        if name in {f'mmplugins.{plugin}' for plugin in PLUGINS} or name.startswith('mmplugins.utils.'):
            importlib.import_module(name)
    registries = [thing for thing in vars(mmengine.registry).values() if isinstance(thing, mmengine.registry.Registry)]
    ours = {
        name
        for registry in registries
        for name, thing in registry.module_dict.items()
        if getattr(thing, '__module__', '').startswith('mmplugins.')
    }
    assert ours == IN_ROOT_REGISTRIES
