"""One run at a time in a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(folder: Path, otherwise: str | None = None) -> Iterator[None]:
    """Keep other runs out of a folder until the block ends, however it ends.

    Args:
        folder: Made if it is not there.
        otherwise: What to say where another run is in it; None waits for that one.

    Raises:
        SystemExit: Another run is in it.
    """
    import fcntl  # not on Windows, where the pages that this package makes can be read all the same

    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (fcntl.LOCK_NB if otherwise else 0))
        yield
    except BlockingIOError:
        raise SystemExit(otherwise) from None
    finally:
        os.close(handle)
