"""Find the experiments of a plugin by its name."""

import importlib
from types import ModuleType

from experiments import ROOT


def load(plugin: str, kind: str) -> ModuleType:
    """Import ``experiments.<plugin>.<kind>``.

    Args:
        plugin: Name of a folder in tools/experiments.
        kind: ``'claims'`` or ``'benchmark'``.

    Raises:
        SystemExit: There is none; the message names those that there are.
    """
    there = sorted(
        path.parent.name for path in ROOT.glob(f'tools/experiments/*/{kind}.py') if path.parent.name != 'frame'
    )
    if plugin not in there:
        raise SystemExit(f'no {kind} of {plugin!r}; there are those of {", ".join(there)}')
    return importlib.import_module(f'experiments.{plugin}.{kind}')
