"""Pack the encoder of a small MAE for tests/data/hgkd: ``python tools/data/hgkd_teacher.py CHECKPOINT OUT.npz``.

Weights of the encoder alone, in float16, which is enough for a teacher and halves the file. The checkpoint is that of
``configs/hgkd/mae_vit-w96-p16_1xb80-100e_clothing10.py`` or of ``tools/experiments/hgkd/mae_digits.py``, trained by
``tools/train.py``.
"""

import argparse

import numpy as np

from mmplugins.hgkd.sparse.export import backbone_weights
from mmplugins.hgkd.weights import read_checkpoint
from mmplugins.utils.atomic import replacing


def main() -> None:
    """Read, cast, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('checkpoint')
    parser.add_argument('out')
    args = parser.parse_args()
    weights = backbone_weights(read_checkpoint(args.checkpoint)['state_dict'])
    with replacing(args.out) as temporary:
        np.savez_compressed(temporary, **{name: value.half().numpy() for name, value in weights.items()})
    print(f'{len(weights)} weights, {sum(value.numel() for value in weights.values()):,} numbers: {args.out}')


if __name__ == '__main__':
    main()
