"""Names of several datasets in one vocabulary, without touching any annotation file.

METR (arXiv 2304.03580, abstract) pretrains on several datasets "with no manual label-space integration". The authors'
code read one merged annotation file made beforehand; building the union in code, by normalized name, is ours.

Shapes: ``V`` is the number of names in the vocabulary.
"""

from __future__ import annotations

import copy
import unicodedata
from collections.abc import Mapping, Sequence

import torch
from mmdet.evaluation import get_classes
from torch import Tensor


def normalize_name(name: str) -> str:
    """Return the form in which two class names are compared.

    Unicode NFKC, case folded, ``_`` and ``-`` become spaces, runs of spaces collapse. Brackets stay, because they tell
    meanings apart (``"mouse (computer)"``). ``"Traffic_Light"`` and ``"traffic light"`` give the same string.
    """
    folded = unicodedata.normalize('NFKC', name).casefold()
    return ' '.join(folded.replace('_', ' ').replace('-', ' ').split())


class Vocabulary:
    """One row per meaning, for the class names of several datasets.

    Rows are numbered in the order in which names are first seen, so appending a dataset moves no row.

    Args:
        datasets: Dataset name to its class names, in the dataset's own order; or to the name of a dataset whose
            classes mmdet knows: ``'coco'``, ``'objects365v2'``, ``'oid_v6'``, ``'voc'``, …
        aliases: Class name to the name it stands for (``{'tvmonitor': 'tv'}``); chains are followed. A dataset's name
            to such a mapping is for the classes of this dataset alone, and comes first: ``{'openimages': {'mouse':
            'mouse (animal)'}}`` where the mouse of another set is that of a computer. None: no aliases.
        keep_separate: Names that mean different things in different datasets: each dataset gets a row of its own,
            called ``"name (dataset)"`` so that the row keeps its name when another dataset is appended. Their embedding
            is the same, so where all names are asked at once only a trainable bank tells them apart; an alias of one
            dataset does so in any case. None (default): not used.

    Attributes:
        names: ``V`` display names, in the spelling that was seen first.
        datasets: Dataset name to its class names, as given.
        lookup_names: ``V`` normalized names by which an embedding is found; for a separate row the plain name.

    Raises:
        TypeError: If the names of a dataset are not strings.
        ValueError: If there is no dataset or no class, two classes of one dataset share a row, aliases form a cycle,
            or an alias or a name to keep separate is a class of no dataset.

    Note:
        Not in the paper: our decision, because users of joint training ask for it. ``aliases`` and ``keep_separate``
        are both empty by default, so the union is by name alone.
    """

    def __init__(
        self,
        datasets: Mapping[str, Sequence[str] | str],
        aliases: Mapping[str, str | Mapping[str, str]] | None = None,
        keep_separate: Sequence[str] | str | None = None,
    ) -> None:
        self.datasets = {name: _checked_classes(name, classes) for name, classes in datasets.items()}
        if not self.datasets:
            raise ValueError('an empty vocabulary: `datasets` names no dataset')
        nested = {name: target for name, target in (aliases or {}).items() if isinstance(target, Mapping)}
        self._own_aliases = _checked_own_aliases(nested, self.datasets)
        plain = {name: target for name, target in (aliases or {}).items() if name not in nested}
        self._aliases = _checked_aliases(plain, self.datasets)
        keep_separate = [keep_separate] if isinstance(keep_separate, str) else keep_separate or ()
        self._arguments = dict(datasets=self.datasets, aliases=dict(aliases or {}), keep_separate=list(keep_separate))
        self._separate = self._checked_separate(keep_separate)
        self.names: tuple[str, ...] = ()
        self.lookup_names: tuple[str, ...] = ()
        self._row_of: dict[str, int] = {}  # normalized display name -> row
        self._rows = {name: [self._add(name, c) for c in classes] for name, classes in self.datasets.items()}
        self._check_one_row_per_class()

    def __len__(self) -> int:
        return len(self.names)

    def __eq__(self, other: object) -> bool:
        """Equal when every row has the same name and embedding and every dataset the same classes and rows."""
        if not isinstance(other, Vocabulary):
            return NotImplemented
        mine = (self.names, self.lookup_names, self.datasets, self._rows)
        return mine == (other.names, other.lookup_names, other.datasets, other._rows)

    __hash__ = None  # equal by content, and the content holds dicts

    def __repr__(self) -> str:
        sizes = ', '.join(f'{name}: {len(rows)}' for name, rows in self._rows.items())
        return f'Vocabulary({len(self)} names; {sizes})'

    def index(self, name: str) -> int:
        """Return the row of a class name in any spelling, or of an alias.

        Raises:
            KeyError: If no row has this name, or several datasets keep it separate.
        """
        spelled = normalize_name(name)
        for key in (spelled, self._resolve(spelled)):
            if key in self._row_of:
                return self._row_of[key]
        shared = [
            n for n, lookup in zip(self.names, self.lookup_names, strict=True) if lookup == self._resolve(spelled)
        ]
        if shared:
            raise KeyError(f'{name!r} is kept separate; write one of {shared}')
        raise KeyError(f'{name!r} is not in the vocabulary of {len(self)} names')

    def rows(self, dataset_name: str) -> list[int]:
        """Return the row of each class of a dataset, in the dataset's own order.

        Raises:
            KeyError: If the vocabulary has no dataset of this name.
        """
        if dataset_name not in self._rows:
            raise KeyError(f'unknown dataset {dataset_name!r}; the vocabulary has {list(self._rows)}')
        return list(self._rows[dataset_name])

    def annotated_mask(self, dataset_name: str) -> Tensor:
        """Return a bool ``(V,)`` tensor: True where the dataset annotates the row's category."""
        mask = torch.zeros(len(self), dtype=torch.bool)
        mask[self.rows(dataset_name)] = True
        return mask

    def annotated_in(self, metainfo: Mapping) -> Tensor | None:
        """Return which rows are annotated in an image: whether they are in it is known.

        Args:
            metainfo: Of the image. ``annotated_rows``, the rows themselves, is read before ``dataset_name``, whose rows
                all are.

        Returns:
            Bool ``(V,)``; None if the image says nothing.

        Raises:
            KeyError: The vocabulary has no data set of that name.
        """
        if 'annotated_rows' in metainfo:
            mask = torch.zeros(len(self), dtype=torch.bool)
            mask[list(metainfo['annotated_rows'])] = True
            return mask
        name = metainfo.get('dataset_name')
        return None if name is None else self.annotated_mask(name)

    def to_config(self) -> dict:
        """Return plain data from which ``Vocabulary(**data)`` makes an equal vocabulary."""
        return copy.deepcopy(self._arguments)

    def to_metainfo(self) -> dict:
        """Return plain Python data for a dataset's metainfo, safe to store in a checkpoint.

        Returns:
            ``classes``: the ``V`` names; ``datasets``: dataset name to rows; ``dataset_classes``: dataset name to the
            names of these rows as the dataset spells them.
        """
        return dict(
            classes=self.names,
            datasets={name: list(rows) for name, rows in self._rows.items()},
            dataset_classes=dict(self.datasets),
        )

    def _resolve(self, normalized: str) -> str:
        """Follow aliases from a normalized name."""
        while normalized in self._aliases:
            normalized = normalize_name(self._aliases[normalized])
        return normalized

    def _display(self, class_name: str) -> str:
        """Return the spelling in which a class is shown: that of its last alias, else its own."""
        while normalize_name(class_name) in self._aliases:
            class_name = self._aliases[normalize_name(class_name)]
        return class_name

    def _add(self, dataset_name: str, class_name: str) -> int:
        """Return the row of a class of a dataset; make it if it is new."""
        class_name = self._own_aliases.get(dataset_name, {}).get(normalize_name(class_name), class_name)
        lookup, display = self._resolve(normalize_name(class_name)), self._display(class_name)
        if lookup in self._separate:
            display = f'{display} ({dataset_name})'
        key = normalize_name(display)
        if key not in self._row_of:
            self._row_of[key] = len(self.names)
            self.names += (display,)
            self.lookup_names += (lookup,)
        return self._row_of[key]

    def _checked_separate(self, names: Sequence[str]) -> set[str]:
        """Return the normalized names to keep separate; each must be a class of some dataset."""
        known = {self._resolve(normalize_name(c)) for classes in self.datasets.values() for c in classes}
        missing = [name for name in names if self._resolve(normalize_name(name)) not in known]
        if missing:
            raise ValueError(f'`keep_separate` has names that are a class of no dataset: {missing}')
        return {self._resolve(normalize_name(name)) for name in names}

    def _check_one_row_per_class(self) -> None:
        """Refuse two classes of one dataset in one row: its predictions could not be told apart again."""
        for dataset_name, rows in self._rows.items():
            for row in rows:
                same = [c for c, r in zip(self.datasets[dataset_name], rows, strict=True) if r == row]
                if len(same) > 1:
                    raise ValueError(f'dataset {dataset_name!r}: the classes {same} are one name, {self.names[row]!r}')


def _checked_classes(dataset_name: str, classes: Sequence[str] | str) -> tuple[str, ...]:
    """Return the class names of a dataset as a tuple, or say what is wrong with them."""
    if isinstance(classes, str):
        try:
            classes = get_classes(classes)
        except ValueError as error:
            raise ValueError(
                f'dataset {dataset_name!r}: mmdet knows no dataset {classes!r}; a single class is ({classes!r},)'
            ) from error
    if not all(isinstance(name, str) for name in classes):
        raise TypeError(f'dataset {dataset_name!r}: class names must be a sequence of strings, got {classes!r}')
    if not classes or not all(normalize_name(name) for name in classes):
        raise ValueError(f'dataset {dataset_name!r}: needs at least one class and no blank names, got {classes!r}')
    return tuple(classes)


def _checked_own_aliases(
    aliases: Mapping[str, Mapping[str, str]], datasets: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, str]]:
    """Return the aliases of single datasets, keyed by normalized name; refuse datasets and names that there are not."""
    keyed = {}
    for dataset_name, own in aliases.items():
        keyed[dataset_name] = {normalize_name(name): target for name, target in own.items()}
        missing = set(keyed[dataset_name]) - {normalize_name(c) for c in datasets.get(dataset_name, ())}
        if dataset_name not in datasets or missing:
            raise ValueError(f'`aliases` has names that are no class of dataset {dataset_name!r}: {sorted(missing)}')
    return keyed


def _checked_aliases(aliases: Mapping[str, str], datasets: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return aliases keyed by normalized name; refuse cycles and names that no dataset has.

    The target may be a new name: an alias then renames.
    """
    keyed = {normalize_name(name): target for name, target in aliases.items()}
    known = {normalize_name(c) for classes in datasets.values() for c in classes}
    known |= {normalize_name(target) for target in keyed.values()}
    missing = [name for name in aliases if normalize_name(name) not in known]
    if missing:
        raise ValueError(f'`aliases` has names that are a class of no dataset: {missing}')
    for start in keyed:
        chain = [start]
        while chain[-1] in keyed:
            chain.append(normalize_name(keyed[chain[-1]]))
            if chain[-1] in chain[:-1]:
                raise ValueError(f'`aliases` form a cycle: {" -> ".join(chain)}')
    return keyed
