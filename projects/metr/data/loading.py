"""Image loading that survives single bad files in training."""

from __future__ import annotations

import logging

import mmcv
import mmengine.fileio as fileio
import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmdet.registry import TRANSFORMS
from mmengine.logging import print_log

GRACE = 10  # bad files before their share is looked at: early on one file is a large share


@TRANSFORMS.register_module()
class LoadImageOrSkip(LoadImageFromFile):
    """Load an image; skip a missing, unreadable or truncated file with a counted warning.

    For such a file it returns None, and the dataset (``BaseDataset.__getitem__`` in training) takes another image
    at random. Each bad file is logged once, by each worker process, with the running count of that process.

    Not in the paper: our decision, because one broken file among millions must not end a long run, and many broken
    files must not pass unseen. OpenCV decodes a truncated JPEG without an error and fills the rest with gray, so the
    end of the image is looked for as well.

    In a pipeline for evaluation write ``max_bad=0``: the first bad file is then an error that names it. In a test
    pipeline that ``DetInferencer`` reads, write mmdet's ``LoadImageFromFile``: the inferencer looks for that name.

    Args:
        max_bad: Largest share of files that may be bad, in [0, 1); counted in each worker process, from the tenth bad
            file on. 0: none may.
        **kwargs: See :class:`mmcv.transforms.LoadImageFromFile`; results are the same.

    Raises:
        ValueError: If ``max_bad`` is out of range.
        OSError: In use, for a bad file, if ``max_bad`` is 0 or the share is above it.
    """

    def __init__(self, max_bad: float = 0.1, **kwargs) -> None:
        super().__init__(**kwargs)
        if not 0 <= max_bad < 1:
            raise ValueError(f'`max_bad` must be in [0, 1), got {max_bad}')
        self.max_bad = max_bad
        self.seen = 0
        self.bad: set[str] = set()

    def transform(self, results: dict) -> dict | None:
        """Add ``img`` ``(H, W, 3)`` BGR 0–255, ``img_shape`` and ``ori_shape``; None for a file to be skipped."""
        self.seen += 1
        path = results['img_path']
        try:
            image = self._load(path)
        # Each file backend and each decoder (cv2, PIL, tifffile) has errors of its own, with no common base.
        except Exception as error:
            self._count(path, error)
            return None
        results['img'] = image
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results

    def _load(self, path: str) -> np.ndarray:
        """Return the decoded image. Not the host's method: the end of the image is looked for in the same bytes."""
        content = fileio.get(path, backend_args=self.backend_args)
        if is_truncated(content):
            raise OSError('the file is truncated')
        image = mmcv.imfrombytes(content, flag=self.color_type, backend=self.imdecode_backend) if content else None
        if image is None:
            raise OSError('the file is empty or no image')
        return image.astype(np.float32) if self.to_float32 else image

    def _count(self, path: str, error: Exception) -> None:
        """Log a bad file once; raise if there are too many."""
        new = path not in self.bad
        self.bad.add(path)
        if self.max_bad == 0:
            raise OSError(f'cannot load image {path}: {error}') from error
        if new:
            text = f'skipped image {path}: {error} ({len(self.bad)} bad of {self.seen} loaded in this process)'
            print_log(text, logger='current', level=logging.WARNING)
        if len(self.bad) >= GRACE and len(self.bad) > self.max_bad * self.seen:
            raise OSError(
                f'{len(self.bad)} of {self.seen} images could not be loaded, more than max_bad={self.max_bad}; '
                f'is `data_prefix` right? The last one: {path}: {error}'
            ) from error

    def __repr__(self) -> str:
        return f'{super().__repr__()[:-1]}, max_bad={self.max_bad})'


def is_truncated(content: bytes) -> bool:
    """Return whether a JPEG lacks its end-of-image marker or a PNG its last chunk; False for other formats.

    What cameras and web servers append does not count: the film of a motion photo is megabytes behind the marker.
    """
    if content.startswith(b'\xff\xd8'):
        return content.find(b'\xff\xd9', _start_of_scan(content)) < 0
    if content.startswith(b'\x89PNG\r\n\x1a\n'):
        return b'IEND' not in content
    return False


def _start_of_scan(content: bytes) -> int:
    """Return where the pixels of a JPEG begin: behind its segments, one of which may hold a thumbnail with an end."""
    position = 2
    while content[position : position + 1] == b'\xff' and content[position : position + 2] != b'\xff\xda':
        # A marker, and the length of what follows it; any number of 0xff may stand before a marker.
        filled = content[position : position + 2] == b'\xff\xff'
        position += 1 if filled else 2 + int.from_bytes(content[position + 2 : position + 4], 'big')
    return position
