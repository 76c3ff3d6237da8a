"""Jobs of the plugin that a user runs from anywhere: ``python -m mmplugins.prae <verb>``."""

from __future__ import annotations

import argparse
import logging
import sys
import warnings

from mmplugins.utils.verbs import run_verb

from .verbs import apply, compare, evaluate, fit, pack, split, tune

VERBS = {
    'fit': (fit, 'boxes on annotated images -> calibration file'),
    'tune': (tune, 'settings of the fusion, and what they gain -> calibration file'),
    'apply': (apply, 'calibration file and boxes -> fused boxes'),
    'eval': (evaluate, 'AP of several files side by side'),
    'split': (split, 'annotation file -> fit and test images'),
    'compare': (compare, 'plain fusion against PRAE, two folds, intervals'),
    'pack': (pack, 'ensemble config -> one checkpoint with all members'),
}


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all verbs; each sets ``run`` to the function that does the job."""
    parser = argparse.ArgumentParser(prog='python -m mmplugins.prae', description=__doc__)
    verbs = parser.add_subparsers(dest='verb', required=True)
    for name, (module, text) in VERBS.items():
        verb = verbs.add_parser(name, help=text, description=module.run.__doc__)
        module.add_arguments(verb)
        verb.set_defaults(run=module.run)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one verb, with its log and warnings as plain lines, and return the exit status."""
    logger = logging.getLogger('mmplugins.prae')
    handler = logging.StreamHandler()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('always', UserWarning)
            warnings.showwarning = lambda message, *_: print(f'warning: {message}', file=sys.stderr)
            return run_verb(build_parser(), argv, also=(KeyError,))
    finally:
        logger.removeHandler(handler)


if __name__ == '__main__':
    sys.exit(main())
