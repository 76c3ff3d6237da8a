"""What is wrong with an environment and what to do about it.

Standard library only and no import of ours from outside this folder: ``tools/install_checks.py`` reads it where nothing
is installed yet, ``python -m mmplugins doctor`` where something may be broken.
"""

from typing import NamedTuple


class Problem(NamedTuple):
    """One thing that is wrong.

    Attributes:
        what: The sentence that says what is wrong, without its full stop.
        cure: What to do, a sentence or a command.
    """

    what: str
    cure: str

    def __str__(self) -> str:
        return f'{self.what}.\n  {self.cure}'
