"""The runs of ITS-MAML, see ``tests/standins/rehearsal.py``."""

PLUGINS = ('its_maml',)


def test_run(rehearsed, rehearse):
    rehearse(rehearsed)
