"""Bring published annotations into the form that a training reads, and say what they hold."""

from __future__ import annotations

import argparse

from . import check, lvis, objects365, openimages

PARTS = dict(objects365=objects365, openimages=openimages, lvis=lvis, check=check)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add one command a data set, and ``check``."""
    commands = parser.add_subparsers(dest='part', required=True)
    for name, module in PARTS.items():
        first = module.__doc__.partition('\n')[0]
        command = commands.add_parser(name, help=first, description=module.__doc__)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
