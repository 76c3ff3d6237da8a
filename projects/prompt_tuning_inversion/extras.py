"""Packages that only parts of the plugin need, imported where they are used."""

from __future__ import annotations

import importlib
from types import ModuleType

HINT = 'pip install --no-build-isolation -e ".[pti]"'


def require(name: str, hint: str = HINT) -> ModuleType:
    """Import a package.

    Raises:
        ImportError: It is not there, or fails to import; the message names the command that installs it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f'prompt_tuning_inversion needs {name}, whose import failed ({error}): {hint}') from error
