"""The runs of METR, see ``tests/standins/rehearsal.py``."""

from pathlib import Path

import pytest

PLUGINS = ('metr',)


@pytest.fixture(scope='module', autouse=True)
def prepared(data: Path) -> None:
    """Make of the published annotations what the joint config reads, as its first lines say."""
    from mmplugins.metr.__main__ import main

    for part, folder in dict(objects365='objects365v2', openimages='openimages').items():
        assert main(['prepare', part, str(data / folder)]) == 0


def test_run(rehearsed, rehearse):
    rehearse(rehearsed)
