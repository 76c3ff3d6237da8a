"""Train METR on two partly annotated blood-cell sets through mim, evaluate each, draw what it finds.

``make demo`` runs it. A run that was cut off is taken up again; a finished one is not repeated. The last line on stdout
is one JSON object: ``{"datasets": {name: AP50}, "pictures": [paths], "seconds": n}``.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from mmplugins.utils.atomic import write_text

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / 'configs/metr/metr_dino-r18_1xb4-10e_samples.py'
DATA = ROOT / 'tests/data/bccd'


def train(config: Path, work_dir: Path) -> None:
    """Run ``mim train mmdet``; its log, with the time left, goes to the terminal.

    Raises:
        SystemExit: Training failed; mim has said why.
    """
    mim = Path(sys.executable).with_name('mim')
    command = [str(mim), 'train', 'mmdet', str(config), '--work-dir', str(work_dir)]
    if (work_dir / 'last_checkpoint').is_file():
        print(f'going on from {(work_dir / "last_checkpoint").read_text()}', flush=True)
        command.append('--resume')
    print('$', ' '.join(command), flush=True)
    if subprocess.run(command, check=False).returncode:
        raise SystemExit('demo: training failed, see above; run it again to go on from the last checkpoint')


def average_precision(work_dir: Path) -> dict[str, float]:
    """Return the AP50 of each data set in the last evaluation that was logged.

    Raises:
        SystemExit: No evaluation was logged.
    """
    found = {}
    for log in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for line in log.read_text(encoding='utf-8').splitlines():
            scores = {key: value for key, value in json.loads(line).items() if key.endswith('/bbox_mAP_50')}
            found = scores or found
    if not found:
        raise SystemExit(f'demo: no evaluation in {work_dir}; delete the folder and run again')
    return {key.split('/')[0]: value for key, value in found.items()}


def draw(config: Path, work_dir: Path, num_images: int) -> list[str]:
    """Draw named boxes on validation images with mmdet's inferencer, and all of them in one overview.

    Returns:
        Paths of the pictures, the overview first.
    """
    import mmcv
    import numpy as np
    from mmdet.apis import DetInferencer

    checkpoint = Path((work_dir / 'last_checkpoint').read_text().strip())
    inferencer = DetInferencer(model=str(config), weights=str(checkpoint), device='cpu', show_progress=False)
    images = sorted((DATA / 'val').glob('*.jpg'))
    chosen = images[:: max(1, len(images) // num_images)][:num_images]
    inferencer([str(path) for path in chosen], out_dir=str(work_dir / 'pictures'), pred_score_thr=0.35)
    drawn = [work_dir / 'pictures/vis' / path.name for path in chosen]
    columns = 3
    tiles = [mmcv.imread(str(path)) for path in drawn]
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % columns)
    rows = [np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)]
    overview = work_dir / 'pictures/overview.jpg'
    mmcv.imwrite(np.vstack(rows), str(overview))
    return [str(path) for path in (overview, *drawn)]


def main() -> None:
    """Train, evaluate, draw, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--config', type=Path, default=CONFIG)
    parser.add_argument('--work-dir', type=Path, default=ROOT / 'work_dirs/demo')
    parser.add_argument('--num-images', type=int, default=6, help='validation images to draw')
    args = parser.parse_args()
    start = time.time()
    config, work_dir = args.config.resolve(), args.work_dir.resolve()
    # The demo has no network; nothing may try one.
    os.environ.setdefault('HF_HUB_OFFLINE', '1')

    report = work_dir / 'demo.json'
    digest = hashlib.sha256(config.read_bytes()).hexdigest()
    done = json.loads(report.read_text(encoding='utf-8')) if report.is_file() else {}
    if done.get('config') == digest and all(Path(path).is_file() for path in done['pictures']):
        print(f'already trained; delete {work_dir} to train again')
    else:
        train(config, work_dir)
        pictures = draw(config, work_dir, args.num_images)
        scores = average_precision(work_dir)
        done = dict(datasets=scores, pictures=pictures, seconds=round(time.time() - start), config=digest)
        write_text(report, json.dumps(done, indent=1) + '\n')
    for name, score in done['datasets'].items():
        print(f'{name}: AP50 {score:.3f}')
    print(f'pictures: {Path(done["pictures"][0]).parent}')
    print(json.dumps({key: done[key] for key in ('datasets', 'pictures', 'seconds')}))


if __name__ == '__main__':
    main()
