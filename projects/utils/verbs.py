"""The end of every ``python -m mmplugins.<plugin> <verb>``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence


def run_verb(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None = None, also: tuple[type[Exception], ...] = ()
) -> int:
    """Run one verb; what the user can put right is said in one line, without a traceback.

    Args:
        parser: Of all verbs, in ``verb``; each sets ``run`` to the function that does the job.
        argv: Arguments; those of the process if None.
        also: Errors of this plugin that the user can put right, beside wrong values, files and missing packages.

    Returns:
        The exit status: 0, or 1 after such an error.
    """
    args = parser.parse_args(argv)
    try:
        args.run(args)
    except (ValueError, OSError, ImportError, *also) as error:
        text = error.args[0] if isinstance(error, KeyError) else error  # str() of a KeyError puts it in quotes
        print(f'{args.verb}: {text}', file=sys.stderr)
        return 1
    return 0
