"""The runs of METR, see ``tests/standins/rehearsal.py``."""

import pytest

PLUGINS = ('metr',)
pytestmark = pytest.mark.usefixtures('prepared')


def test_run(rehearsed, rehearse):
    rehearse(rehearsed)
