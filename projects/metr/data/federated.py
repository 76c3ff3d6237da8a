"""Annotation files that say for each image what was looked for, as LVIS does (arXiv 1908.03195, section 2.2).

An image of such a file has ``neg_category_ids``: looked for and not there; and ``not_exhaustive_category_ids``: there,
but not every object has a box. Of all other categories without a box nothing is known. ``prepare openimages`` writes
the verified labels of OpenImages in the same form.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

NEGATIVE, PARTLY_BOXED = 'neg_category_ids', 'not_exhaustive_category_ids'


def is_federated(images: Iterable[dict]) -> bool:
    """Return whether any image says what was looked for."""
    return any(NEGATIVE in image for image in images)


def known_categories(image: dict, annotations: Sequence[dict]) -> tuple[set[int], set[int]]:
    """Return the categories that are known to be in an image or not, and those with objects that have no box.

    A crowd (``iscrowd``; a group in OpenImages) is one box around several objects; it is not the box of any single one.
    A category that has nothing else belongs to neither set.

    Args:
        image: Its entry in the file.
        annotations: Of the image.

    Returns:
        Known categories, and the part of them whose boxes are not all there.
    """
    present = {annotation['category_id'] for annotation in annotations}
    crowded = {annotation['category_id'] for annotation in annotations if annotation.get('iscrowd')}
    boxed = {annotation['category_id'] for annotation in annotations if not annotation.get('iscrowd')}
    absent = set(image.get(NEGATIVE, ())) - present
    partly = (crowded | set(image.get(PARTLY_BOXED, ()))) & boxed
    return boxed | absent, partly


def judged_categories(image: dict, annotations: Sequence[dict]) -> set[int]:
    """Return the categories of which a detection in the image is right or wrong: present, or looked for in vain."""
    return {annotation['category_id'] for annotation in annotations} | set(image.get(NEGATIVE, ()))


def excuses(image: dict) -> list[dict]:
    """Return annotations that excuse detections without a box: LVIS does not count them where boxes are not all there.

    COCO's evaluation forgives a detection inside a crowd, so it is given one as large as the image and its surroundings
    for each category of which boxes are missing.
    """
    width, height = image['width'], image['height']
    box = [-width, -height, 3 * width, 3 * height]
    return [
        dict(image_id=image['id'], category_id=category, bbox=box, area=width * height, iscrowd=1)
        for category in image.get(PARTLY_BOXED, ())
    ]
