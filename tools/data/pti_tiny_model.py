"""Make ``projects/prompt_tuning_inversion/tiny``: the tiny model as a diffusers folder, weights in float16.

    python tools/train.py configs/prompt_tuning_inversion/tiny-vae_1xb32-800i_tinted-mnist.py
    python tools/train.py configs/prompt_tuning_inversion/tiny-sd_1xb64-1800i_tinted-mnist.py
    python tools/data/pti_tiny_model.py work_dirs/tiny-sd_1xb64-1800i_tinted-mnist/iter_1800.pth OUT

The first two lines take about fifteen minutes on a core. The folder loads as a ``StableDiffusionPipeline`` too.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import MODELS

from mmplugins.prompt_tuning_inversion import TintedDigitDenoiser


def main() -> None:
    """Read the checkpoint, write its parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('checkpoint', type=Path, help='of the second training')
    parser.add_argument('out', type=Path, help='folder to write')
    args = parser.parse_args()
    # A checkpoint of mmengine holds more than tensors; this one is our own.
    checkpoint = torch.load(args.checkpoint, map_location='cpu', weights_only=False)
    cfg = Config.fromstring(checkpoint['meta']['cfg'], '.py').model
    model: TintedDigitDenoiser = MODELS.build(cfg)
    model.load_state_dict(checkpoint['state_dict'])
    model.save_folder(args.out)
    size = sum(path.stat().st_size for path in args.out.rglob('*') if path.is_file())
    print(f'{args.out}: {size / 1e6:.1f} MB, {sum(p.numel() for p in model.parameters()):,} numbers')


if __name__ == '__main__':
    main()
