"""The runs of Prompt Tuning Inversion, see ``tests/standins/rehearsal.py``."""

PLUGINS = ('prompt_tuning_inversion',)


def test_run(rehearsed, rehearse):
    rehearse(rehearsed)
