"""Fixtures that load ``tests/standins``. By path: other packages install a top-level package `tests`."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope='session')
def standins() -> ModuleType:
    """Return the package of stand-ins."""
    folder = Path(__file__).resolve().parents[1] / 'standins'
    spec = importlib.util.spec_from_file_location('standins', folder / '__init__.py')
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='session')
def data(standins, tmp_path_factory) -> Path:
    """Return a folder ``data`` with every family of stand-ins."""
    folder = tmp_path_factory.mktemp('world') / 'data'
    standins.write_all(folder)
    return folder
