"""Hooks of mkdocs: which files of the repository are pages of the site, and the pages that are made from others.

A page keeps its path, so that the links of the repository are those of the site.
"""

from pathlib import Path

import yaml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PLUGINS = sorted(path.parent.name for path in ROOT.glob('projects/*/metafile.yml'))
# Pages, their pictures, and what they link to.
SHOWN = (
    *(
        'README.md',
        'CONTRIBUTING.md',
        'CHANGELOG.md',
        'LICENSES.md',
        'LICENSE',
        'Dockerfile',
        'docs/*.md',
        'docs/*.css',
    ),
    *('projects/*/*.md', 'projects/*/results/**/*.png', 'projects/*/results/**/*.jpg', 'requirements/torch.txt'),
    *('configs/*/*.py', 'tests/data/*/README.md'),
)


def title(plugin: str) -> str:
    """Return the heading of a plugin's README."""
    with open(ROOT / f'projects/{plugin}/README.md', encoding='utf-8') as file:
        return file.readline().strip('# \n')


def model_zoo() -> str:
    """Return the page of all configs, by their metafiles."""
    parts = ['# Model zoo', 'Every config, and what was measured with it. There are no weights to download.']
    for plugin in PLUGINS:
        content = yaml.safe_load((ROOT / f'projects/{plugin}/metafile.yml').read_text(encoding='utf-8'))
        parts.append(f'## {title(plugin)}')
        rows = ['| config | data | length | batch | validation |', '|---|---|---|---|---|']
        for model in content['Models']:
            meta = model['Metadata']
            data = meta.get('Training Data', '')
            length = next((f'{meta[unit]:,} {unit.lower()}' for unit in ('Epochs', 'Iterations') if unit in meta), '')
            metrics = [metric for result in model['Results'] or () for metric in result['Metrics'].items()]
            cells = (
                f'[{model["Name"]}](../{model["Config"]})',
                data if isinstance(data, str) else ', '.join(data),
                length,
                meta.get('Batch Size', ''),
                ', '.join(f'{name} {value}' for name, value in metrics),
            )
            rows.append('| ' + ' | '.join(map(str, cells)) + ' |')
        parts.append('\n'.join(rows))
    return '\n\n'.join(parts)


def results() -> str:
    """Return the page of all verdicts: the tables of the READMEs."""
    parts = ['# Results']
    for plugin in PLUGINS:
        readme = (ROOT / f'projects/{plugin}/README.md').read_text(encoding='utf-8')
        table = readme.partition('<!-- claims -->')[2].partition('<!-- end -->')[0].strip()
        parts.append(f'## {title(plugin)}\n\n{table.replace("(RESULTS.md)", f"(../projects/{plugin}/RESULTS.md)")}')
    return '\n\n'.join(parts)


def api(plugin: str) -> str:
    """Return the page of a plugin's public names, by their docstrings."""
    return f'# API of {title(plugin)}\n\n::: mmplugins.{plugin}'


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Lay out the navigation."""

    def pages_of(plugin: str) -> list:
        others = ('Details', 'Results', 'API')
        folder = f'projects/{plugin}'
        return [f'{folder}/README.md', *({name: f'{folder}/{name.upper()}.md'} for name in others)]

    data = [path.relative_to(ROOT).as_posix() for path in sorted(ROOT.glob('tests/data/*/README.md'))]
    config.nav = [
        {'Start': 'README.md'},
        {'Plugins': [{title(plugin): pages_of(plugin)} for plugin in PLUGINS]},
        {'Results': 'docs/results.md'},
        {'Model zoo': 'docs/model_zoo.md'},
        {'Tools you know': 'docs/tools.md'},
        {'More': ['CONTRIBUTING.md', 'CHANGELOG.md', 'LICENSES.md', {'Small data': data}]},
    ]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Put the repository's pages in the place of those that mkdocs found in docs/."""
    site = Files([file for file in files if not Path(file.abs_src_path or '').is_relative_to(config.docs_dir)])
    for path in sorted(path for pattern in SHOWN for path in ROOT.glob(pattern)):
        site.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    made = {'docs/results.md': results(), 'docs/model_zoo.md': model_zoo()}
    made.update({f'projects/{plugin}/API.md': api(plugin) for plugin in PLUGINS})
    for path, text in made.items():
        site.append(File.generated(config, path, content=text))
    return site


def on_page_markdown(markdown: str, page: Page, **kwargs) -> None:
    """Leave out the column of neighbors where a page has none."""
    if page.parent is None:
        page.meta['hide'] = ['navigation']
