"""The calibration file: JSON that people can read and that loads without torch.

Not in the paper, whose code keeps the curves in memory: our decision, so that curves are fitted once, on data that is
not the test data, and the file can say later on which images that was.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np

from ...utils.atomic import write_text
from ..boxes.tables import Dataset
from .curves import Curve, Levels
from .detectors import Calibration, DetectorCurves
from .options import FitConfig

FORMAT = 'mmplugins.prae calibration'
VERSION = 1
HASH_DIGITS = 10  # hexadecimal; two of a million images are mistaken for each other with probability below one half


def fingerprints(dataset: Dataset) -> list[str]:
    """A short hash for each image: of its file name, without folder, and where there is none of its id."""
    names = (name or f'id {image_id}' for image_id, name in zip(dataset.image_ids, dataset.file_names, strict=True))
    # The name without its folder: `train/1.jpg` of one tool is `1.jpg` of another.
    return [hashlib.sha1(os.path.basename(name).encode()).hexdigest()[:HASH_DIGITS] for name in names]


def overlap(calib: Calibration, dataset: Dataset) -> int:
    """Number of images of a data set that the curves were fitted on."""
    return sum(mark in calib.fit_images for mark in fingerprints(dataset))


def warn_about_overlap(count: int, total: int) -> None:
    """Warn if test images were fitted on.

    Args:
        count: So many were.
        total: Of so many.
    """
    if count:
        warnings.warn(f'fitted on {count} of {total} test images; scores are optimistic', stacklevel=2)


def save(calib: Calibration, path: str | os.PathLike) -> None:
    """Write a calibration file; whoever reads ``path`` meanwhile sees the old file or the whole new one."""
    data = dict(
        format=FORMAT,
        version=VERSION,
        preset=calib.preset,
        options=asdict(calib.cfg),
        classes=list(calib.classes),
        detectors=[_detector_to_dict(detector) for detector in calib.detectors],
        fit=dict(num_images=len(calib.fit_images), digest=_digest(calib.fit_images), images=sorted(calib.fit_images)),
    )
    write_text(path, _dump(data))


def load(path: str | os.PathLike) -> Calibration:
    """Read a calibration file.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is empty, cut off, no calibration, of another version, or does not fit together.
    """
    path = Path(path)
    text = path.read_text(encoding='utf-8')
    if not text.strip():
        raise ValueError(f'{path} is empty')
    try:
        data = json.loads(text)
    except ValueError as error:
        raise ValueError(f'{path} is cut off or not JSON: {error}') from error
    if not isinstance(data, dict) or data.get('format') != FORMAT:
        raise ValueError(f'{path} is not a calibration file of mmplugins.prae')
    if data.get('version') != VERSION:
        raise ValueError(
            f'{path} has format version {data.get("version")}, this is version {VERSION}: '
            f'fit again with `python -m mmplugins.prae fit`'
        )
    try:
        calib = _from_dict(data)
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise ValueError(f'{path} is broken: {type(error).__name__}: {error}') from error
    if _digest(calib.fit_images) != data['fit']['digest']:
        warnings.warn(f'{path}: the list of fit images was changed after fitting', stacklevel=2)
    return calib


def _from_dict(data: dict) -> Calibration:
    classes = tuple(str(name) for name in data['classes'])
    detectors = tuple(_detector_from_dict(entry) for entry in data['detectors'])
    for detector in detectors:
        strange = (set(detector.known) | set(detector.by_category)) - set(classes)
        if strange:
            raise ValueError(f'{detector.name} has classes {sorted(strange)} that are not listed')
    unknown = sorted(set(data['options']) - {field.name for field in fields(FitConfig)})
    if unknown:
        raise ValueError(f'unknown options {unknown}')
    cfg = FitConfig(**data['options'])
    return Calibration(detectors, classes, cfg, data['preset'], frozenset(data['fit']['images']))


def _detector_to_dict(detector: DetectorCurves) -> dict:
    curve = detector.curve
    return dict(
        name=detector.name,
        num_boxes=detector.num_boxes,
        known=list(detector.known),
        kind=curve.kind,
        transform=curve.transform,
        limits=list(curve.limits),
        levels=_levels_to_dict(curve.levels),
        # Thresholds are exact: a rounded one would move boxes that lie on it.
        thresholds=curve.thresholds.tolist(),
        steps=curve.steps.tolist(),
        ranks=curve.ranks.tolist(),
        # A category has the thresholds of its detector, and its steps follow from its levels.
        categories={name: _levels_to_dict(own.levels) for name, own in detector.by_category.items()},
    )


def _detector_from_dict(data: dict) -> DetectorCurves:
    thresholds, steps, ranks = (np.array(data[key], dtype=np.float64) for key in ('thresholds', 'steps', 'ranks'))
    if data['kind'] not in ('table', 'scaled', 'identity'):
        raise ValueError(f'unknown kind of curve {data["kind"]!r}')
    if data['kind'] == 'table' and not len(thresholds) + 1 == len(steps) == len(ranks):
        raise ValueError(f'{len(thresholds)} thresholds, {len(steps)} steps, {len(ranks)} ranks')
    if (np.diff(thresholds) <= 0).any() or not all(np.isfinite(x).all() for x in (thresholds, steps, ranks)):
        raise ValueError('thresholds must rise and be finite')
    limits = tuple(float(x) for x in data['limits'])
    common = (data['kind'], thresholds, steps, _levels_from_dict(data['levels']), data['transform'], limits, ranks)
    curve = Curve(*common)
    if curve.kind == 'scaled' and len(curve.levels.sp) != 24:
        raise ValueError(f'{len(curve.levels.sp)} fixed levels, expected 24')
    by_category = {}
    for name, entry in data['categories'].items():
        levels = _levels_from_dict(entry)
        own = np.interp(ranks, levels.center, levels.sp) if curve.kind == 'table' else steps
        by_category[name] = Curve(curve.kind, thresholds, own, levels, curve.transform, limits, ranks)
    return DetectorCurves(str(data['name']), curve, by_category, tuple(data['known']), int(data['num_boxes']))


def _levels_to_dict(levels: Levels) -> dict:
    return {name: getattr(levels, name).tolist() for name in ('center', 'sp', 'n', 'hits')}


def _levels_from_dict(data: dict) -> Levels:
    columns = [np.array(data[name], dtype=np.float64) for name in ('center', 'sp', 'n', 'hits')]
    if len({len(column) for column in columns}) != 1 or not all(np.isfinite(column).all() for column in columns):
        raise ValueError('levels of different lengths, or not finite')
    return Levels(*columns)


def _digest(images: Iterable[str]) -> str:
    return hashlib.sha1('\n'.join(sorted(images)).encode()).hexdigest()


def _dump(value: object, indent: int = 0) -> str:
    """JSON with a line for each field and none for each number."""
    pad = ' ' * (indent + 1)
    if isinstance(value, dict) and value:
        items = (f'{pad}{json.dumps(key)}: {_dump(item, indent + 1)}' for key, item in value.items())
        return '{\n' + ',\n'.join(items) + '\n' + ' ' * indent + '}'
    if isinstance(value, list) and value and isinstance(value[0], dict):
        items = (pad + _dump(item, indent + 1) for item in value)
        return '[\n' + ',\n'.join(items) + '\n' + ' ' * indent + ']'
    return json.dumps(value, allow_nan=False)
