"""A folder of classes as few-shot learning has it: CUB, miniImageNet, CIFAR-FS, or one's own, in one line of a config.

Not in the paper: the layouts. They are those of the sets' authors and of what is usual beside them.
"""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from pathlib import Path

from mmengine.logging import MMLogger
from mmpretrain.registry import DATASETS

from .datasets import IMAGE_SUFFIXES, LeafFolderDataset, files_below, is_junk
from .episodes import split_classes

PARTS = ('train', 'val', 'test')
# What others call the same: Chen et al. 2019 have base, val and novel.
NAMES = dict(
    train=('train', 'base', 'meta_train'),
    val=('val', 'valid', 'validation', 'meta_val'),
    test=('test', 'novel', 'meta_test'),
)


def read_csv(file: Path) -> dict[str, list[str]]:
    """Return files by class of a table with the columns ``filename`` and ``label`` (Ravi and Larochelle, 2017)."""
    with file.open(newline='', encoding='utf-8') as lines:
        table = csv.DictReader(lines)
        if not {'filename', 'label'} <= set(table.fieldnames or ()):
            raise ValueError(f'{file} has the columns {table.fieldnames}; it needs filename and label')
        members = defaultdict(list)
        for row in table:
            members[row['label']].append(row['filename'])
    return dict(members)


def read_json(file: Path) -> dict[str, list[str]]:
    """Return files or folders by class of one of three forms.

    ``{class: [file, ...]}``; ``class_names`` and ``class_roots`` (easy-few-shot-learning); ``label_names``,
    ``image_names`` and ``image_labels`` (Chen et al., 2019).
    """
    found = json.loads(file.read_text(encoding='utf-8'))
    if {'class_names', 'class_roots'} <= set(found):
        return {name: [root] for name, root in zip(found['class_names'], found['class_roots'], strict=True)}
    if {'label_names', 'image_names', 'image_labels'} <= set(found):
        members = defaultdict(list)
        for name, label in zip(found['image_names'], found['image_labels'], strict=True):
            members[found['label_names'][label]].append(name)
        return dict(members)
    if found and all(isinstance(value, list) for value in found.values()):
        return found
    raise ValueError(
        f'{file} has the keys {sorted(found)[:5]}: expected class_names and class_roots, or label_names, image_names '
        'and image_labels, or lists of files by class'
    )


def read_txt(file: Path) -> dict[str, list[str]]:
    """Return the classes of a list with one a line, each its own folder (CIFAR-FS; Bertinetto et al., 2019)."""
    return {name: [name] for name in file.read_text(encoding='utf-8').splitlines() if name}


READERS = {'.csv': read_csv, '.json': read_json, '.txt': read_txt}


@DATASETS.register_module()
class FewShotFolder(LeafFolderDataset):
    """The classes of one part of a folder, however it says which they are.

    In this order: a list ``<part>.csv``, ``.json`` or ``.txt`` anywhere below (miniImageNet of Ravi and Larochelle,
    CUB, CIFAR-FS); a folder ``<part>/<class>/*``; else, if no part has either, all folders of images, divided
    64 : 16 : 20 by a seed. ``base`` and ``novel`` are ``train`` and ``test``. The log says which. Paths of lists are
    looked for by their last parts.

    Args:
        data_root: The folder.
        part: ``train``, ``val`` or ``test``.
        ratio: Shares of the parts where nothing divides the classes.
        seed: Of that division.
        **kwargs: Of mmpretrain's ``BaseDataset``, ``pipeline`` above all.

    Raises:
        FileNotFoundError: There are no images, a list names some that are not there, or other parts have lists or
            folders and this one has none.
        ValueError: A list has another form or a name that fits several files, several lists are of this part, or
            ``part`` is none.
    """

    def __init__(
        self, data_root: str, part: str, ratio: tuple[float, ...] = (0.64, 0.16, 0.2), seed: int = 0, **kwargs
    ) -> None:
        if part not in PARTS:
            raise ValueError(f'part must be one of {PARTS}, got {part!r}')
        self.part, self.ratio, self.seed = part, ratio, seed
        super().__init__(data_root=data_root, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Find the division, and list the images of the part."""
        root = Path(self.data_root)
        tables = files_below(root, READERS)
        lists = {part: [path for path in tables if path.stem in names] for part, names in NAMES.items()}
        folders = {part: folder_of_classes(root, names) for part, names in NAMES.items()}
        own, folder = lists[self.part], folders[self.part]
        others = [part for part in PARTS if lists[part] or folders[part]]
        if len(own) > 1:
            raise ValueError(f'{[str(path) for path in own]} all list the part {self.part}: keep one')
        if own:
            how, data_list = str(own[0]), self._of_list(root, READERS[own[0].suffix.lower()](own[0]), own[0])
        elif folder:
            self.data_prefix = dict(img_path=str(folder))
            how, data_list = str(folder), super().load_data_list()
        elif others:
            raise FileNotFoundError(
                f'{root} says which classes are {" and ".join(others)}, but not which are {self.part}: add '
                f'{self.part}.csv or {self.part}/<class>, or name another part in the config'
            )
        else:
            how, data_list = f'seed {self.seed}', self._of_seed(super().load_data_list())
        MMLogger.get_current_instance().info(
            f'{root}: {self.part} has {len(self.CLASSES)} classes and {len(data_list)} images, by {how}'
        )
        return data_list

    def _of_list(self, root: Path, members: dict[str, list[str]], file: Path) -> list[dict]:
        by_end = defaultdict(list)  # name to paths, of images and of their folders
        for path in files_below(root):
            by_end[path.name].append(path)
            by_end[path.parent.name].append(path)
        data_list = []
        for label, (name, entries) in enumerate(members.items()):
            for entry in entries:
                found = longest_ends(by_end[Path(entry).name], entry)
                if not found:
                    raise FileNotFoundError(f'{file} lists {entry} of class {name}, which is not below {root}')
                if len(found) > 1 and Path(entry).suffix.lower() in IMAGE_SUFFIXES:
                    raise ValueError(f'{file} lists {entry}, which may be {found[0]} or {found[1]}: add the folder')
                data_list += [dict(img_path=str(path), gt_label=label) for path in found]
        self._metainfo['classes'] = tuple(members)
        return data_list

    def _of_seed(self, data_list: list[dict]) -> list[dict]:
        names = self.CLASSES
        chosen = split_classes(range(len(names)), self.part, self.ratio, self.seed)
        self._metainfo['classes'] = tuple(names[label] for label in chosen)
        place = {label: i for i, label in enumerate(chosen)}
        return [dict(one, gt_label=place[one['gt_label']]) for one in data_list if one['gt_label'] in place]


def is_class(path: Path) -> bool:
    """Whether a path may be the folder of a class."""
    return path.is_dir() and not is_junk(Path(path.name))


def folder_of_classes(root: Path, names: tuple[str, ...]) -> Path | None:
    """Return the first folder of one of the names that holds folders: one of images is a class that is called so."""
    folders = (root / name for name in names)
    return next((folder for folder in folders if any(map(is_class, folder.glob('*')))), None)


def longest_ends(paths: list[Path], entry: str) -> list[Path]:
    """Return the images whose path, or the path of whose folder, agrees with an entry in most of the last parts.

    Lists hold paths of the machine they were made on.

    Args:
        paths: Images that have the last part of the entry as their name or their folder's.
        entry: Path of an image or a folder, with any parents.
    """

    def agreement(path: Path) -> int:
        own = path if path.name == Path(entry).name else path.parent
        pairs = zip(own.parts[::-1], Path(entry).parts[::-1], strict=False)
        return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(own.parts), len(Path(entry).parts)))

    best = max(map(agreement, paths), default=0)
    return [path for path in paths if agreement(path) == best]
