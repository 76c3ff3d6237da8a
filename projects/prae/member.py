"""What a member of an ensemble has in its config."""

from __future__ import annotations

from collections.abc import Iterator

from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.hub import get_config


def read_config(config: str | dict) -> Config:
    """Read a config: a path, ``mmdet::folder/file.py``, or a dict.

    Raises:
        ValueError: If it has no model.
    """
    if isinstance(config, dict):
        cfg = Config(dict(config))
    else:
        cfg = get_config(config) if '::' in config else Config.fromfile(config)
    if 'model' not in cfg:
        raise ValueError(f'{config} has no model')
    if 'data_preprocessor' in cfg:
        cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)  # as the runner does
    return cfg


def test_dataset(cfg: Config) -> dict:
    """The innermost data set of the test data loader; empty if there is none."""
    dataset = cfg.get('test_dataloader', {}).get('dataset', {})
    while 'dataset' in dataset:
        dataset = dataset['dataset']
    return dataset


def classes_of(cfg: Config) -> tuple[str, ...]:
    """Names of a member's labels, from its test data.

    Raises:
        ValueError: If it has none.
    """
    dataset = test_dataset(cfg)
    classes = dataset.get('metainfo', {}).get('classes')
    if classes is None and 'type' in dataset:
        classes = getattr(DATASETS.get(dataset['type']), 'METAINFO', {}).get('classes')
    if not classes:
        raise ValueError('a member’s config has no test data with classes: give `classes` beside its `config`')
    return tuple(classes)


def test_pipeline(cfg: Config) -> list[dict]:
    """How a member reads an image, without annotations; empty if its config does not say."""
    pipeline = [dict(step) for step in test_dataset(cfg).get('pipeline', ())]
    return [step for step in pipeline if not step['type'].split('.')[-1].startswith('LoadAnnotations')]


def score_threshold(model: dict) -> float:
    """Highest ``score_thr`` anywhere in ``test_cfg``, 0 if there is none: boxes below it never come out."""
    return max(_values(model.get('test_cfg') or {}, 'score_thr'), default=0.0)


def _values(node: object, key: str) -> Iterator:
    """Yield every value of ``key`` in nested dicts."""
    if isinstance(node, dict):
        for name, value in node.items():
            if name == key:
                yield value
            yield from _values(value, key)
