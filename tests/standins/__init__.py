"""Data sets of a few small pictures in the layouts that exist on disk, made at test time from a fixed seed.

Each module writes one family: a function takes the folder that the world calls ``data/<name>`` and fills it. Pictures
carry no meaning; names, folders, keys, headers, identifiers and their gaps are those of the published files.
"""

from pathlib import Path

from . import ade20k, aerial, coco, few_shot, imagenet, lvis, objects365, openimages, pie_bench, voc

# The folder under data/ that the hosts' and our configs name, and who writes it.
FAMILIES = {
    'ade/ADEChallengeData2016': ade20k.write,
    'coco': coco.write,
    'custom': coco.write_custom,
    'cifar-fs': few_shot.write_cifar_fs,
    'DIOR': aerial.write_dior,
    'DOTA': aerial.write_dota,
    'hrsc': aerial.write_hrsc,
    'imagenet': imagenet.write,
    'lvis_v1': lvis.write,
    'mine': aerial.write_custom,
    'mini-imagenet': few_shot.write_mini_imagenet,
    'my_images': few_shot.write_folders,
    'objects365v2': objects365.write,
    'omniglot': few_shot.write_omniglot,
    'openimages': openimages.write,
    'PIE-Bench_v1': pie_bench.write,
    'split_ss_dota': aerial.write_dota_patches,
    'VOCdevkit': voc.write,
}


def write_all(data: Path) -> None:
    """Write every family below the folder ``data``."""
    for name, write in FAMILIES.items():
        write(data / name)
