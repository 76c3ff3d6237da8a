"""The runs of METR, see ``tests/standins/rehearsal.py``."""

PLUGINS = ('metr',)


def test_run(rehearsed, rehearse):
    rehearse(rehearsed)
