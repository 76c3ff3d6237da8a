"""Arguments that several verbs have."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ..calibration.detectors import check_names


def parse_named(pairs: Sequence[str]) -> dict[str, str]:
    """Split ``NAME=FILE`` arguments.

    Raises:
        ValueError: If one has no ``=``, or two have one name.
    """
    wrong = [pair for pair in pairs if not all(pair.partition('=')[::2])]
    if wrong:
        raise ValueError(f'--det {wrong[0]}: expected NAME=FILE')
    check_names([pair.partition('=')[0] for pair in pairs])
    return dict(pair.split('=', 1) for pair in pairs)


def given(args: argparse.Namespace, names: Sequence[str]) -> dict[str, object]:
    """Return those of the options that the user gave; the others are the preset's."""
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}
