"""What shipped configs reached, for RESULTS.md and the metafile: ``results/models.json`` of a plugin."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import mean

from mmplugins.utils.atomic import write_text


def write_models(path: Path, measured: Mapping[str, dict]) -> dict[str, dict]:
    """Write what configs reached, with the mean over their seeds; other configs, and what people noted, stay.

    Args:
        path: JSON file.
        measured: Name of a config to ``dataset``, ``seeds`` (seed to metric to value), ``machine``, ``date``, and
            perhaps a ``note``, which replaces that of the file. A metric that a seed lacks has no mean.

    Returns:
        All that the file has now, by name.
    """
    models = json.loads(path.read_text(encoding='utf-8')) if path.is_file() else {}
    for name, model in measured.items():
        rows = [{key: round(value, 4) for key, value in row.items()} for row in model['seeds'].values()]
        metrics = {key: round(mean(row[key] for row in rows), 4) for key in rows[0] if all(key in row for row in rows)}
        seeds = dict(zip(map(str, model['seeds']), rows, strict=True))
        models[name] = {**models.get(name, {}), **model, 'metrics': metrics, 'seeds': seeds}
    models = dict(sorted(models.items()))
    write_text(path, json.dumps(models, indent=1) + '\n')
    return models
