"""Images by class that mmpretrain has no dataset for; any dataset of mmpretrain can be made episodic as it is.

Not in the paper: which files hold the images. The paper uses miniImageNet, CIFAR-FS and Omniglot.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from pathlib import Path

import numpy as np
from mmengine.dataset import force_full_init
from mmpretrain.datasets import BaseDataset
from mmpretrain.registry import DATASETS

IMAGE_SUFFIXES = ('.png', '.jpg', '.jpeg', '.bmp', '.webp', '.ppm', '.tif', '.tiff')


def is_junk(path: Path) -> bool:
    """Whether a path, relative to the data, is hidden or below ``__MACOSX``, which macOS adds to its archives."""
    return any(part.startswith('.') or part == '__MACOSX' for part in path.parts)


def files_below(root: Path, suffixes: Container[str] = IMAGE_SUFFIXES) -> list[Path]:
    """Return the files of some kinds below a folder, sorted; without hidden ones, see ``is_junk``.

    Args:
        root: The folder; itself and its parents may be hidden.
        suffixes: In small letters, of images by default.
    """
    files = (path for path in root.rglob('*') if path.suffix.lower() in suffixes)
    return sorted(path for path in files if not is_junk(path.relative_to(root)))


class ArrayDataset(BaseDataset):
    """Images that lie in one array, with classes that are turned copies of others if wanted.

    A sample of the pipeline has ``img``, ``(H, W, C)`` uint8 as ``LoadImageFromFile`` would give it, so that the
    transforms of mmpretrain follow.

    Args:
        turns: Quarter turns, each of which makes a class of its own of every class (Santoro et al., 2016).
        pool: Average blocks of ``pool x pool`` pixels.
        **kwargs: Of mmpretrain's ``BaseDataset``.

    Raises:
        ValueError: ``pool`` does not divide the images; images that are not square are turned by an odd number of
            turns.
    """

    def __init__(self, turns: Sequence[int] = (0,), pool: int = 1, ann_file: str = '', **kwargs) -> None:
        self.turns, self.pool = tuple(turns), pool
        # Not serialized: the images are one array already, and pickles of its rows would be copies.
        super().__init__(ann_file=ann_file, serialize_data=False, **kwargs)

    def read_images(self) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """Return images ``(N, H, W)`` or ``(N, H, W, C)`` uint8, labels ``(N,)`` and the names of the classes."""
        raise NotImplementedError

    def load_data_list(self) -> list[dict]:
        """Turn, pool, and list the images."""
        images, labels, names = self.read_images()
        images = images[..., None] if images.ndim == 3 else images
        height, width = images.shape[1:3]
        if height % self.pool or width % self.pool:
            raise ValueError(f'pool={self.pool} does not divide images of {height} x {width} pixels')
        if height != width and any(turn % 2 for turn in self.turns):
            raise ValueError(f'turns={self.turns} needs square images, these are {height} x {width}')
        if self.pool > 1:
            blocks = images.reshape(len(images), height // self.pool, self.pool, width // self.pool, self.pool, -1)
            images = blocks.mean((2, 4)).round().astype(np.uint8)
        suffixes = {turn: f'/turn{turn}' if turn else '' for turn in self.turns}
        self._metainfo['classes'] = tuple(name + suffix for suffix in suffixes.values() for name in names)
        data_list = []
        for number, turn in enumerate(self.turns):
            turned = np.ascontiguousarray(np.rot90(images, turn, axes=(1, 2)))
            for image, label in zip(turned, labels, strict=True):
                data_list.append(
                    dict(
                        img=image,
                        img_shape=image.shape[:2],
                        ori_shape=image.shape[:2],
                        gt_label=int(label) + number * len(names),
                    )
                )
        return data_list

    @force_full_init
    def get_gt_labels(self) -> np.ndarray:
        """Return the labels ``(N,)`` without copying the images, as the host would."""
        return np.array([sample['gt_label'] for sample in self.data_list])


@DATASETS.register_module()
class PackedDataset(ArrayDataset):
    """Black-and-white drawings with one bit a pixel, as ``tools/data/omniglot_samples.py`` packs them.

    The file has ``bits`` ``(classes, drawings, bytes)`` uint8, ``shape`` (height, width) and ``classes``, names such as
    ``train/Greek/03``. Ink is 255.

    Args:
        ann_file: The ``.npz`` file, relative to ``data_root``.
        part: Only classes whose name starts with ``<part>/``; all if empty.
        turns, pool: See ``ArrayDataset``; a pooled pixel is the share of ink.
        **kwargs: Of mmpretrain's ``BaseDataset``, ``data_root`` and ``pipeline`` above all.

    Raises:
        ValueError: No class of the file belongs to ``part``.
    """

    def __init__(self, ann_file: str, part: str = '', **kwargs) -> None:
        self.part = part
        super().__init__(ann_file=ann_file, **kwargs)

    def read_images(self) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """Return images ``(N, H, W)``, labels ``(N,)`` and the names of the classes."""
        with np.load(self.ann_file) as file:
            bits, (height, width), classes = file['bits'], file['shape'], file['classes'].tolist()
        chosen = [i for i, name in enumerate(classes) if not self.part or name.startswith(f'{self.part}/')]
        if not chosen:
            parts = sorted({name.split('/')[0] for name in classes})
            raise ValueError(f'{self.ann_file} has no class of part {self.part!r}; it has {parts}')
        bits = bits[chosen]
        images = np.unpackbits(bits, axis=-1)[..., : height * width].reshape(-1, height, width) * np.uint8(255)
        labels = np.repeat(np.arange(len(chosen)), bits.shape[1])
        return images, labels, [classes[i] for i in chosen]


@DATASETS.register_module()
class DigitsDataset(ArrayDataset):
    """Handwritten digits of scikit-learn, 8x8 pixels, about 180 of each; needs scikit-learn and no download.

    Args:
        digits: Which digits are the classes.
        turns, pool: See ``ArrayDataset``. With ``turns=(0, 1, 2, 3)`` seven digits give 28 classes.
        **kwargs: Of mmpretrain's ``BaseDataset``.
    """

    def __init__(self, digits: Sequence[int] = tuple(range(10)), **kwargs) -> None:
        self.digits = tuple(digits)
        super().__init__(**kwargs)

    def read_images(self) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """Return images ``(N, 8, 8)``, labels ``(N,)`` and the names of the classes."""
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise ImportError('DigitsDataset needs scikit-learn: pip install scikit-learn') from error
        data = load_digits()
        chosen = np.isin(data.target, self.digits)
        images = (data.images[chosen] * (255 / 16)).round().astype(np.uint8)  # 17 gray levels
        labels = np.array([self.digits.index(digit) for digit in data.target[chosen]])
        return images, labels, [str(digit) for digit in self.digits]


@DATASETS.register_module()
class LeafFolderDataset(BaseDataset):
    """Every folder that holds images is a class, however deep it lies, as Omniglot's ``<alphabet>/<character>/*.png``.

    For one level of folders mmpretrain's ``CustomDataset`` does the same. Hidden files and folders are left out.

    Args:
        data_root, data_prefix: The folder that is searched.
        classes: Names, relative paths such as ``Greek/character03``, that are taken, or a file with one a line; a
            name of a parent (``Greek``) takes all below. All if None.
        **kwargs: Of mmpretrain's ``BaseDataset``.

    Raises:
        FileNotFoundError: There are no images, or a name in ``classes`` has none.
    """

    def __init__(self, data_root: str = '', data_prefix: str = '', ann_file: str = '', **kwargs) -> None:
        super().__init__(ann_file=ann_file, data_root=data_root, data_prefix=data_prefix, **kwargs)

    def load_data_list(self) -> list[dict]:
        """List the images of the chosen folders."""
        root = Path(self.img_prefix)
        files = files_below(root)
        names = sorted({path.parent.relative_to(root).as_posix() for path in files})
        if not names:
            raise FileNotFoundError(f'no images below {root.resolve()}; expected <folders>/<class>/*.png')
        if self.CLASSES is not None:
            wanted = tuple(self.CLASSES)
            missing = [name for name in wanted if not any(f'{leaf}/'.startswith(f'{name}/') for leaf in names)]
            if missing:
                raise FileNotFoundError(f'{len(missing)} of the classes have no images below {root}: {missing[:5]}')
            names = [leaf for leaf in names if any(f'{leaf}/'.startswith(f'{name}/') for name in wanted)]
        self._metainfo['classes'] = tuple(names)
        index = {name: i for i, name in enumerate(names)}
        labels = [(path, index.get(path.parent.relative_to(root).as_posix())) for path in files]
        return [dict(img_path=str(path), gt_label=label) for path, label in labels if label is not None]
