"""The calibration file: JSON that people can read and that loads without torch.

Not in the paper, whose code keeps the curves in memory: our decision, so that curves are fitted once, on data that is
not the test data, and the file can say later on which images that was.
"""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import warnings
from collections.abc import Iterable
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np

from ...utils.atomic import write_text
from ..boxes.tables import Dataset
from ..fusion.options import FuseConfig
from .curves import Curve, Levels
from .detectors import Calibration, DetectorCurves
from .options import FitConfig

FORMAT = 'mmplugins.prae calibration'
VERSION = 2
HASH_DIGITS = 10  # hexadecimal; two of a million images are mistaken for each other with probability below one half


def fingerprints(dataset: Dataset) -> list[str]:
    """A short hash for each image: of its path in the annotation file, and where there is none of its id.

    Of the path, not of the name alone: frames of different videos have the same names.
    """
    names = (name or f'id {image_id}' for image_id, name in zip(dataset.image_ids, dataset.file_names, strict=True))
    paths = (posixpath.normpath(name.replace('\\', '/')) for name in names)
    return [hashlib.sha1(path.encode()).hexdigest()[:HASH_DIGITS] for path in paths]


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
        options=asdict(calib.cfg),
        fusion=asdict(calib.fusion),
        classes=list(calib.classes),
        detectors=[_detector_to_dict(detector) for detector in calib.detectors],
        after=calib.after and _curve_to_dict(calib.after),
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
    cfg, fusion = _options(FitConfig, data['options']), _options(FuseConfig, data['fusion'])
    after = data['after'] and _curve_from_dict(data['after'])
    return Calibration(detectors, classes, cfg, frozenset(data['fit']['images']), fusion, after)


def _options(kind: type, values: dict) -> FitConfig | FuseConfig:
    unknown = sorted(set(values) - {field.name for field in fields(kind)})
    if unknown:
        raise ValueError(f'unknown options {unknown}')
    # JSON has no tuples.
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def _detector_to_dict(detector: DetectorCurves) -> dict:
    return dict(
        name=detector.name,
        num_boxes=detector.num_boxes,
        misplaced=detector.misplaced,
        known=list(detector.known),
        **_curve_to_dict(detector.curve),
        # A category has the thresholds of its detector, and its steps follow from its levels.
        categories={name: _levels_to_dict(own.levels) for name, own in detector.by_category.items()},
    )


def _detector_from_dict(data: dict) -> DetectorCurves:
    curve = _curve_from_dict(data)
    by_category = {}
    for name, entry in data['categories'].items():
        levels = _levels_from_dict(entry)
        own = np.interp(curve.ranks, levels.center, levels.sp) if curve.kind == 'table' else curve.steps
        by_category[name] = replace(curve, steps=own, levels=levels)
    known = tuple(data['known'])
    return DetectorCurves(
        str(data['name']), curve, by_category, known, int(data['num_boxes']), float(data['misplaced'])
    )


def _curve_to_dict(curve: Curve) -> dict:
    return dict(
        kind=curve.kind,
        transform=curve.transform,
        limits=list(curve.limits),
        levels=_levels_to_dict(curve.levels),
        # Thresholds are exact: a rounded one would move boxes that lie on it.
        thresholds=curve.thresholds.tolist(),
        steps=curve.steps.tolist(),
        ranks=curve.ranks.tolist(),
    )


def _curve_from_dict(data: dict) -> Curve:
    thresholds, steps, ranks = (np.array(data[key], dtype=np.float64) for key in ('thresholds', 'steps', 'ranks'))
    if data['kind'] not in ('table', 'scaled', 'identity'):
        raise ValueError(f'unknown kind of curve {data["kind"]!r}')
    if data['kind'] == 'table' and not 2 <= len(thresholds) + 1 == len(steps) == len(ranks):
        raise ValueError(f'{len(thresholds)} thresholds, {len(steps)} steps, {len(ranks)} ranks')
    if (np.diff(thresholds) <= 0).any() or not all(np.isfinite(x).all() for x in (thresholds, steps, ranks)):
        raise ValueError('thresholds must rise and be finite')
    limits = tuple(float(x) for x in data['limits'])
    levels = _levels_from_dict(data['levels'])
    if data['kind'] == 'scaled' and len(levels.sp) != 24:
        raise ValueError(f'{len(levels.sp)} fixed levels, expected 24')
    return Curve(data['kind'], thresholds, steps, levels, data['transform'], limits, ranks)


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
