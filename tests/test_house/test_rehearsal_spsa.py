"""The runs of SPSA, see ``tests/standins/rehearsal.py``."""

PLUGINS = ('spsa',)


def test_run(rehearsed, rehearse):
    rehearse(rehearsed)
