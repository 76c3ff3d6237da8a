"""The runs of O²DETR, see ``tests/standins/rehearsal.py``."""

PLUGINS = ('o2detr',)


def test_run(rehearsed, rehearse):
    rehearse(rehearsed)
