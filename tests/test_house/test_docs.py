"""``make docs``: the site builds strictly, holds every public name and config, and no link of it leads nowhere."""

import ast
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).resolve().parents[2]
PLUGINS = sorted(path.parent.name for path in ROOT.glob('projects/*/metafile.yml'))

pytestmark = pytest.mark.slow


class PageReader(HTMLParser):
    """The anchors and links of a page, and what a browser fetches to show it."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.anchors, self.links, self.fetched = set(), set(), set()
        self.feed(page.read_text(encoding='utf-8'))

    def handle_starttag(self, tag: str, attrs: list) -> None:
        attrs = dict(attrs)
        self.anchors |= {attrs['id']} if 'id' in attrs else set()
        self.links |= {attrs['href']} if tag == 'a' and 'href' in attrs else set()
        self.fetched |= {attrs['src']} if 'src' in attrs else set()
        self.fetched |= {attrs['href']} if tag == 'link' and attrs.get('rel') == 'stylesheet' else set()


@pytest.fixture(scope='module')
def site(run, tmp_path_factory) -> dict[Path, PageReader]:
    """Return the pages of the site, built where a warning is an error."""
    pytest.importorskip('mkdocs', reason="the site needs pip install 'mmplugins[docs]'")
    folder = tmp_path_factory.mktemp('site').resolve()
    run(sys.executable, '-m', 'mkdocs', 'build', '--strict', '--quiet', '--site-dir', folder, cwd=ROOT)
    return {page: PageReader(page) for page in folder.rglob('*.html')}


def start_of(site: dict[Path, PageReader]) -> Path:
    """Return the folder of the site."""
    return min(site, key=lambda page: len(page.parts)).parent


def test_no_link_leads_nowhere(site):
    for page, content in site.items():
        for link in content.links | content.fetched:
            parts = urlsplit(link)
            if parts.scheme or page.name == '404.html':
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            assert target.is_file(), f'{link} on {page.name} of {page.parent.name}'
            if parts.fragment and target in site:
                assert unquote(parts.fragment) in site[target].anchors | {'__top'}, f'{link} in {page}'


def test_nothing_is_fetched_from_elsewhere(site):
    assert not [link for content in site.values() for link in content.fetched if urlsplit(link).netloc]


@pytest.mark.parametrize('plugin', PLUGINS)
def test_every_public_name_is_described(site, plugin):
    tree = ast.parse((ROOT / f'projects/{plugin}/__init__.py').read_text(encoding='utf-8'))
    # Of the package itself; what is assigned is an older name.
    imported = (node for node in tree.body if isinstance(node, ast.ImportFrom) and node.level)
    names = [alias.name for node in imported for alias in node.names if not alias.name.startswith('_')]
    anchors = site[start_of(site) / f'projects/{plugin}/API.html'].anchors
    assert names
    assert not [name for name in names if f'mmplugins.{plugin}.{name}' not in anchors]


def test_every_config_is_in_the_model_zoo(site):
    links = site[start_of(site) / 'docs/model_zoo.html'].links
    configs = {f'../{path.relative_to(ROOT)}' for path in ROOT.glob('configs/*/*.py') if path.parent.name != '_base_'}
    assert configs <= links


def test_the_pages_of_a_plugin_are_there(site):
    start = start_of(site)
    for readme in ROOT.glob('projects/*/README.md'):
        pages = ('index', 'DETAILS', 'RESULTS', 'API')
        assert all(start / f'projects/{readme.parent.name}/{page}.html' in site for page in pages)
    assert re.search('<title>mmplugins</title>', (start / 'index.html').read_text(encoding='utf-8'))
