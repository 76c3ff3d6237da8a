"""Files for DOTA's evaluation server, from patches whose names say where they were.

``DOTAMetric`` merges and writes; it finds out that a name has no position, or that the target exists, only after all
images went through the network. Here both are said before.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import Runner

# What DOTAMetric looks for: <image>__<size>__<x>___<y>, as mmrotate's img_split.py names patches.
POSITION = re.compile(r'__\d+___\d+')


def check_patch_names(names: Iterable[str]) -> None:
    """Check that all patches can be merged.

    Args:
        names: File names or stems.

    Raises:
        ValueError: Some have no position; the message names one and says how they have to look.
    """
    names = list(names)
    wrong = [name for name in names if not POSITION.search(name)]
    if wrong:
        raise ValueError(
            f'{len(wrong)} of {len(names)} names have no position, e.g. {wrong[0]!r}: patches must be called '
            '<image>__<size>__<x>___<y>, as tools/data/dota/split/img_split.py of mmrotate calls them'
        )


def patch_files(folder: Path) -> tuple[list[Path], str]:
    """Return the pictures of a folder and their suffix, without the dot.

    Raises:
        FileNotFoundError: There is no such folder, or no picture in it.
        ValueError: Pictures of several kinds, or names without a position.
    """
    suffixes = ('png', 'jpg', 'bmp', 'tif')  # of three letters: DOTADataset cuts four characters off the name
    files = sorted(path for path in folder.glob('*') if path.suffix[1:] in suffixes)
    if not files:
        raise FileNotFoundError(f'{folder} has no pictures ({", ".join(suffixes)})')
    found = sorted({path.suffix[1:] for path in files})
    if len(found) > 1:
        raise ValueError(f'{folder} has pictures of several kinds, {", ".join(found)}: DOTADataset reads one')
    check_patch_names(path.name for path in files)
    return files, found[0]


def submission_config(cfg: Config, images: Path, out: Path, nms_iou: float = 0.1) -> Config:
    """Return a config that tests on unlabeled patches and writes the submission.

    Args:
        cfg: Of the model, with a ``DOTADataset`` (or a child of it) to test on.
        images: Folder of patches.
        out: Folder to write.
        nms_iou: Of the merging.

    Raises:
        FileExistsError: ``out`` exists.
        FileNotFoundError: See :func:`patch_files`.
        ValueError: See :func:`patch_files`, or the config tests on another kind of data set.
    """
    from mmrotate.datasets import DOTADataset
    from mmrotate.registry import DATASETS

    if out.exists():
        raise FileExistsError(f'{out} exists: name another folder or delete it')
    _, suffix = patch_files(images)
    cfg = cfg.copy()
    dataset = cfg.test_dataloader.dataset
    kind = DATASETS.get(dataset.type)
    if kind is None or not issubclass(kind, DOTADataset):
        raise ValueError(f'the config tests on a {dataset.type}; a submission needs a DOTADataset')
    needless = ('LoadAnnotations', 'ConvertBoxType')
    dataset.update(
        data_root=None,
        ann_file='',
        data_prefix=dict(img_path=str(images)),
        img_suffix=suffix,
        test_mode=True,
        pipeline=[step for step in dataset.pipeline if step['type'].rpartition('.')[2] not in needless],
    )
    cfg.test_evaluator = dict(
        type='DOTAMetric', format_only=True, merge_patches=True, iou_thr=nms_iou, outfile_prefix=str(out)
    )
    # The runner would build what training and validation need.
    for key in ('train_dataloader', 'train_cfg', 'optim_wrapper', 'val_dataloader', 'val_cfg', 'val_evaluator'):
        cfg[key] = None
    cfg.param_scheduler = None
    cfg.auto_scale_lr = None
    return cfg


def write_submission(cfg: Config, checkpoint: str, images: Path, out: Path, nms_iou: float = 0.1) -> Path:
    """Test on the patches of a folder, merge them, and write ``Task1_<class>.txt`` and a zip of them.

    Args:
        cfg: See :func:`submission_config`; ``work_dir`` may be missing.
        checkpoint: Weights.
        images: Folder of patches.
        out: Folder to write; must not exist.
        nms_iou: Of the merging.

    Returns:
        The zip, ``<out>/<name of out>.zip``.

    Raises:
        FileExistsError: See :func:`submission_config`.
        FileNotFoundError: See :func:`submission_config`.
        ValueError: See :func:`submission_config`.
    """
    cfg = submission_config(cfg, images, out, nms_iou)
    cfg.load_from = checkpoint
    cfg.work_dir = cfg.get('work_dir') or f'{out}_log'
    Runner.from_cfg(cfg).test()
    return out / f'{out.name}.zip'
