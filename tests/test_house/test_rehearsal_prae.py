"""The runs of PRAE, see ``tests/standins/rehearsal.py``."""

PLUGINS = ('prae',)


def test_run(rehearsed, rehearse):
    rehearse(rehearsed)
