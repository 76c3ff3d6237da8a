"""PIE-Bench: 512 x 512 pictures below ``annotation_images``, prompts and masks in ``mapping_file.json``."""

import json
from pathlib import Path

import numpy as np

from .pictures import paint, save

# Runs, start and length, over the rows of 512 x 512. Some edits of the benchmark may change the whole picture.
WHOLE = [0, 512 * 512]
SQUARE = [number for row in range(100, 300) for number in (512 * row + 100, 200)]
# Path, prompt of the picture, prompt of the edit, type of the edit, mask.
ENTRIES = (
    ('0_random_140/000000000000', 'a slanted [mountain] bicycle', 'a slanted [rusty mountain] bicycle', '0', WHOLE),
    ('1_change_object_80/1_artificial/1_animal/111000000000', 'a [cat] sitting', 'a [dog] sitting', '1', SQUARE),
    ('6_change_color_40/1_artificial/4_outdoor/614000000003', 'a [red] car', 'a [blue] car', '6', SQUARE),
)


def write(root: Path) -> None:
    """Write the mapping and its pictures."""
    rng = np.random.default_rng(0)
    mapping = {}
    for path, source, target, edit_type, mask in ENTRIES:
        save(paint(rng, (512, 512), [(100, 100, 300, 100, 300, 300, 100, 300)]), root / f'annotation_images/{path}.jpg')
        mapping[path.rpartition('/')[2]] = dict(
            image_path=f'{path}.jpg',
            original_prompt=source,
            editing_prompt=target,
            editing_instruction='Change it',
            editing_type_id=edit_type,
            blended_word='',
            mask=mask,
        )
    (root / 'mapping_file.json').write_text(json.dumps(mapping))
