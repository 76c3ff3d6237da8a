"""The runs of DS-Net, see ``tests/standins/rehearsal.py``."""

PLUGINS = ('dsnet',)


def test_run(rehearsed, rehearse):
    rehearse(rehearsed)
