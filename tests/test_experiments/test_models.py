"""What shipped configs reached."""

import json

from experiments.frame.models import write_models

PLACE = dict(dataset='BCCD', machine='A', date='2026-01-01')


def test_mean_over_seeds_of_what_all_have(tmp_path):
    seeds = {0: dict(AP50=0.1, AP75=0.3), 7: dict(AP50=0.20004)}
    found = write_models(tmp_path / 'models.json', dict(net=dict(PLACE, seeds=seeds)))
    assert found['net']['metrics'] == dict(AP50=0.15)
    assert found['net']['seeds'] == {'0': dict(AP50=0.1, AP75=0.3), '7': dict(AP50=0.2)}
    assert json.loads((tmp_path / 'models.json').read_text()) == found


def test_other_configs_and_notes_stay(tmp_path):
    path = tmp_path / 'models.json'
    write_models(path, dict(b=dict(PLACE, seeds={0: dict(AP50=0.1)}, note='by hand'), c=dict(PLACE, seeds={0: {}})))
    found = write_models(path, dict(b=dict(PLACE, seeds={0: dict(AP50=0.3)}), a=dict(PLACE, seeds={1: {}})))
    assert list(found) == ['a', 'b', 'c']
    assert found['b']['metrics'] == dict(AP50=0.3) and found['b']['note'] == 'by hand'
