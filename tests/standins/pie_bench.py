"""PIE-Bench: 512 x 512 pictures below ``annotation_images``, prompts and masks in ``mapping_file.json``."""

import json
from pathlib import Path

import numpy as np

from .pictures import paint, save

# Path, prompt of the picture, prompt of the edit, type of the edit.
ENTRIES = (
    ('0_random_140/000000000000', 'a slanted [mountain] bicycle', 'a slanted [rusty mountain] bicycle', '0'),
    ('1_change_object_80/1_artificial/1_animal/111000000000', 'a [cat] sitting', 'a [dog] sitting', '1'),
    ('6_change_color_40/1_artificial/4_outdoor/614000000003', 'a [red] car', 'a [blue] car', '6'),
)


def write(root: Path) -> None:
    """Write the mapping and its pictures. A mask is runs, start and length, over the rows of 512 x 512."""
    rng = np.random.default_rng(0)
    mapping = {}
    for path, source, target, edit_type in ENTRIES:
        save(paint(rng, (512, 512), [(100, 100, 300, 100, 300, 300, 100, 300)]), root / f'annotation_images/{path}.jpg')
        mapping[path.rpartition('/')[2]] = dict(
            image_path=f'{path}.jpg',
            original_prompt=source,
            editing_prompt=target,
            editing_instruction='Change it',
            editing_type_id=edit_type,
            blended_word='',
            mask=[number for row in range(100, 300) for number in (512 * row + 100, 200)],
        )
    (root / 'mapping_file.json').write_text(json.dumps(mapping))
