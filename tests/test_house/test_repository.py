"""Documents, metafiles and packaging say what is there."""

import itertools
import re
import sys
from pathlib import Path

import pytest
import yaml
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from modelindex.load_model_index import load

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob('*.md'), *ROOT.glob('docs/*.md'), *ROOT.glob('projects/*/*.md')])
METAFILES = sorted(ROOT.glob('projects/*/metafile.yml'))

in_documents = pytest.mark.parametrize('document', DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def shell_lines(document: Path) -> list[str]:
    """Return the lines of the shell blocks of a document, comments dropped."""
    blocks = re.findall(r'^```(?:bash|sh|shell|console)\n(.*?)^```', document.read_text(encoding='utf-8'), re.M | re.S)
    lines = [line.split(' #')[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith('#')]


@in_documents
def test_paths_in_commands_exist(document):
    for line in shell_lines(document):
        for path in re.findall(r'(?<![\w./<-])(?:configs|tools|projects|tests|requirements)/[^\s\'"=;,)]+', line):
            if not re.search(r'[<>*$…]', path):  # a placeholder
                assert (ROOT / path).exists(), f'{path} in: {line}'


@in_documents
def test_configs_in_tables_exist(document):
    there = {path.name for path in ROOT.glob('configs/**/*.py')}
    for name in re.findall(r'`([\w{},.-]+_\d+xb[\w{},.-]+\.py)`', document.read_text(encoding='utf-8')):
        # a_{b,c}.py stands for a_b.py and a_c.py
        for parts in itertools.product(*(part.split(',') for part in re.split('[{}]', name))):
            assert ''.join(parts) in there, name


@in_documents
def test_make_targets_in_commands_exist(document):
    targets = set(re.findall(r'^([a-z]+):', (ROOT / 'Makefile').read_text(encoding='utf-8'), re.M))
    for line in shell_lines(document):
        for target in re.findall(r'^make ([a-z]+)', line):
            assert target in targets, line


@in_documents
def test_modules_in_commands_exist(document):
    for line in shell_lines(document):
        for plugin in re.findall(r'python -m mmplugins\.(\w+)', line):
            assert (ROOT / 'projects' / plugin / '__main__.py').is_file(), line


@in_documents
def test_links_to_files_exist(document):
    text = re.sub(r'<!--.*?-->', '', document.read_text(encoding='utf-8'), flags=re.S)
    for link in re.findall(r'\]\(([^)#\s]+)', text):
        if '://' not in link:
            assert (document.parent / link).exists(), link


@pytest.mark.parametrize('readme', sorted(ROOT.glob('projects/*/README.md')), ids=lambda path: path.parent.name)
def test_a_readme_has_two_screens(readme):
    lines = len(readme.read_text(encoding='utf-8').splitlines())
    assert lines <= 120, f'{lines} lines: what a newcomer does not need goes to DETAILS.md beside it'


def test_config_of_the_readme_builds(tmp_path):
    block = re.search(r'^```python\n(.*?)^```', (ROOT / 'README.md').read_text(encoding='utf-8'), re.M | re.S)[1]
    config = tmp_path / 'mine.py'
    config.write_text(block)
    cfg = Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    assert type(MODELS.build(cfg.model)).__name__ == 'METR'


def test_model_index_names_every_metafile():
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text(encoding='utf-8'))
    assert sorted(index['Import']) == [str(path.relative_to(ROOT)) for path in METAFILES]


def test_model_index_loads():
    names = [model.name for model in load(str(ROOT / 'model-index.yml')).models]
    assert len(names) == len(set(names))


@pytest.mark.parametrize('metafile', METAFILES, ids=lambda path: path.parent.name)
def test_metafile_describes_what_is_there(metafile):
    content = yaml.safe_load(metafile.read_text(encoding='utf-8'))
    collections = {collection['Name'] for collection in content['Collections']}
    for collection in content['Collections']:
        assert (ROOT / collection['README']).is_file(), collection['README']
    for model in content['Models']:
        assert (ROOT / model['Config']).is_file(), model['Config']
        assert model['Name'] == Path(model['Config']).stem
        assert model['In Collection'] in collections


def test_wheel_carries_what_mim_and_the_plugins_read(tmp_path, run):
    run(sys.executable, 'setup.py', '-q', 'build_py', '--build-lib', tmp_path, cwd=ROOT)
    package = tmp_path / 'mmplugins'
    wanted = [
        'tools/train.py',
        'model-index.yml',
        *(str(path.relative_to(ROOT)) for path in [*ROOT.glob('configs/**/*.py'), *METAFILES]),
    ]
    assert not [path for path in wanted if not (package / '.mim' / path).is_file()]
    data = [path.relative_to(ROOT / 'projects') for path in ROOT.glob('projects/**/*.npz')]
    assert not [str(path) for path in data if not (package / path).is_file()]


def test_setup_reads_the_version(run):
    done = run(sys.executable, '-W', 'ignore', 'setup.py', '--version', cwd=ROOT)
    assert re.search(r"__version__ = '(.*)'", (ROOT / 'projects/version.py').read_text())[1] in done.stdout
