"""The runs of H-GKD, see ``tests/standins/rehearsal.py``."""

PLUGINS = ('hgkd',)


def test_run(rehearsed, rehearse):
    rehearse(rehearsed)
