"""The runs of CAE, see ``tests/standins/rehearsal.py``."""

PLUGINS = ('cae',)


def test_run(rehearsed, rehearse):
    rehearse(rehearsed)
