"""Whether hosts and mmplugins import: what does not fit together shows there, in a sentence of their own."""

import importlib
import importlib.util
import warnings
from collections.abc import Iterable

from . import Problem

HOSTS = ('mmengine', 'mmcv', 'mmdet', 'mmpretrain', 'mmseg', 'mmrotate')
ALL = (*HOSTS, 'mim', 'mmplugins')


def installed(names: Iterable[str]) -> list[str]:
    """Return which of the packages are there, without importing them."""
    return [name for name in names if importlib.util.find_spec(name)]


def problems(names: Iterable[str]) -> list[Problem]:
    """Import packages; return those that fail."""
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # the hosts' own, which a user can do nothing about
        for name in names:
            try:
                importlib.import_module(name)
            except Exception as error:  # a package that does not fit may fail in any way
                cure = 'bash tools/install.sh brings versions that go together.'
                if 'libGL' in str(error):
                    cure = 'Debian, Ubuntu: apt-get install libgl1 libglib2.0-0'
                found.append(Problem(f'import {name}: {type(error).__name__}: {error}', cure))
    return found
