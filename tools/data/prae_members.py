"""Make ``tests/data/prae``: the two small detectors of PRAE's sample ensemble, trained and stripped.

    python tools/data/prae_members.py work_dirs tests/data/prae

``work_dirs`` holds what training by the configs ``configs/prae/*_r18-w16_1xb8-12e_bccd.py`` wrote. Kept are weights,
as float16, and the names of the classes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

MEMBERS = ('fcos', 'retinanet')


def main() -> None:
    """Read the last checkpoint of each member, write the small one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('work_dirs', type=Path)
    parser.add_argument('out', type=Path, help='folder to write')
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name in MEMBERS:
        # A checkpoint of mmengine holds more than tensors; this one is our own.
        source = args.work_dirs / f'{name}_r18-w16_1xb8-12e_bccd' / 'epoch_12.pth'
        checkpoint = torch.load(source, map_location='cpu', weights_only=False)
        weights = {
            key: value.half() if value.is_floating_point() else value for key, value in checkpoint['state_dict'].items()
        }
        classes = tuple(checkpoint['meta']['dataset_meta']['classes'])
        torch.save(dict(meta=dict(dataset_meta=dict(classes=classes)), state_dict=weights), args.out / f'{name}.pth')


if __name__ == '__main__':
    main()
