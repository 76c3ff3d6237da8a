"""Jobs of the plugin that a user runs from anywhere: ``python -m mmplugins.o2detr <verb>``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mmplugins.utils.verbs import run_verb


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments that name a trained model."""
    parser.add_argument('config', help='config of the model')
    parser.add_argument('checkpoint', help='its weights')


def check_files(*paths: str | Path) -> None:
    """Name all local files that are not there.

    Raises:
        FileNotFoundError: One is missing.
    """
    missing = [path for path in map(str, paths) if '://' not in path and not Path(path).is_file()]
    if missing:
        raise FileNotFoundError(f'not found: {", ".join(missing)}')


def add_detect_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``detect``."""
    add_model_arguments(parser)
    parser.add_argument('images', nargs='+', type=Path, help='pictures of any size')
    parser.add_argument('-o', '--out', type=Path, required=True, help='folder for <name>.json and <name>.jpg')
    parser.add_argument('--patch', type=int, help='side of a patch in pixels (default: as training showed pictures)')
    parser.add_argument('--overlap', type=int, help='of neighboring patches in pixels (default: a fifth of a patch)')
    parser.add_argument('--ratios', type=float, nargs='+', default=[1.0], help='scales, e.g. 0.5 1.0 1.5 (default 1)')
    parser.add_argument('--score-thr', type=float, default=0.05, help='lowest score written (default 0.05)')
    parser.add_argument('--draw-thr', type=float, default=0.3, help='lowest score drawn (default 0.3)')
    parser.add_argument('--nms', type=float, default=0.1, help='IoU of the merging (default 0.1)')
    parser.add_argument('--batch-size', type=int, default=1, help='patches at once (default 1)')
    parser.add_argument('--device', help='default: the GPU if there is one')


def run_detect(args: argparse.Namespace) -> None:
    """Find objects in large pictures by overlapping patches; five numbers a box, and a picture with polygons."""
    import json

    import cv2
    from mmdet.apis import init_detector
    from mmengine.device import get_device
    from mmrotate.registry import VISUALIZERS

    from ..utils.atomic import replacing, write_text
    from .verbs.large_image import default_patch, detect_large_image, shown_scale

    check_files(args.config, args.checkpoint, *args.images)
    stems = [path.stem for path in args.images]
    if len(set(stems)) < len(stems):
        raise ValueError('two of the pictures have the same name: their results would overwrite each other')
    model = init_detector(args.config, args.checkpoint, device=args.device or get_device())
    trained = default_patch(model.cfg)
    patch = args.patch or trained
    overlap = patch // 5 if args.overlap is None else args.overlap
    scales = [f'{shown_scale(model.cfg, side):.3g}' for side in (patch, trained)]
    print(
        f'patches of {patch} pixels, overlap {overlap}, enlarged {scales[0]} times'
        + (f'; those of {trained} that training shows, {scales[1]} times' if patch != trained else '')
    )
    visualizer = VISUALIZERS.build(dict(type='mmrotate.RotLocalVisualizer', name=f'detect_{id(model)}'))
    visualizer.dataset_meta = model.dataset_meta
    classes = model.dataset_meta['classes']
    for path in args.images:
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if image is None:
            raise ValueError(f'{path} is not a picture')
        sample = detect_large_image(
            model,
            image,
            patch,
            overlap,
            ratios=args.ratios,
            score_thr=args.score_thr,
            nms_iou=args.nms,
            batch_size=args.batch_size,
        ).cpu()
        found = sample.pred_instances
        data = dict(
            classes=classes,
            bboxes=found.bboxes.tolist(),
            scores=found.scores.tolist(),
            labels=found.labels.tolist(),
        )
        write_text(args.out / f'{path.stem}.json', json.dumps(data))
        with replacing(args.out / f'{path.stem}.jpg') as temporary:
            visualizer.add_datasample(
                path.stem,
                image[..., ::-1].copy(),
                sample,
                draw_gt=False,
                pred_score_thr=args.draw_thr,
                out_file=str(temporary),
            )
        print(f'{path}: {len(found)} boxes, written to {args.out / path.stem}.json and .jpg')


def add_submit_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``submit``."""
    add_model_arguments(parser)
    parser.add_argument('images', type=Path, help='folder of patches <image>__<size>__<x>___<y>.<suffix>')
    parser.add_argument('-o', '--out', type=Path, required=True, help='folder to write, must not exist')
    parser.add_argument('--nms', type=float, default=0.1, help='IoU of the merging (default 0.1)')


def run_submit(args: argparse.Namespace) -> None:
    """Test on patches without labels, merge them, and write the zip that DOTA's server asks for (task 1)."""
    from mmengine.config import Config
    from mmengine.registry import init_default_scope

    from .verbs.submission import write_submission

    check_files(args.config, args.checkpoint)
    cfg = Config.fromfile(args.config)
    init_default_scope('mmrotate')
    print(f'written: {write_submission(cfg, args.checkpoint, args.images, args.out, args.nms)}')


def add_export_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``export``."""
    add_model_arguments(parser)
    parser.add_argument('-o', '--out', type=Path, required=True, help='ONNX file to write')
    parser.add_argument('--size', type=int, nargs=2, default=[1024, 1024], metavar=('H', 'W'), help='of the images')
    parser.add_argument('--no-check', action='store_true', help='do not compare with onnxruntime')


def run_export(args: argparse.Namespace) -> None:
    """Write the network, pixels to scores and boxes, as ONNX for any number of images of one size; compare outputs."""
    from mmdet.apis import init_detector

    from .verbs.export import export_onnx

    check_files(args.config, args.checkpoint)
    model = init_detector(args.config, args.checkpoint, device='cpu')
    difference = export_onnx(model, args.out, tuple(args.size), check=not args.no_check)
    compared = '' if difference is None else f', outputs equal to {difference:.1g}'
    print(f'written: {args.out}{compared}')


def add_check_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``check``."""
    parser.add_argument('config', help='config to train or test')


def run_check(args: argparse.Namespace) -> None:
    """Read all labels and pictures of a config and compare them with its model, before a training does."""
    from mmengine.config import Config
    from mmengine.registry import init_default_scope

    from .verbs.check import Check

    check_files(args.config)
    cfg = Config.fromfile(args.config)
    init_default_scope(cfg.get('default_scope', 'mmrotate'))
    check = Check(cfg)
    check.run()
    print('\n'.join(check.facts))
    if check.faults:
        raise ValueError('\n'.join(check.faults))
    print('nothing wrong was found')


def add_diagnose_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``diagnose``."""
    add_model_arguments(parser)
    parser.add_argument('-o', '--out', type=Path, help='JSON file to write')
    parser.add_argument('--device', help='default: the GPU if there is one')


def run_diagnose(args: argparse.Namespace) -> None:
    """Say what holds the AP of any rotated detector back: class, angle, size, center, ranking, or a missing NMS."""
    import json

    from mmdet.apis import init_detector
    from mmengine.device import get_device
    from mmengine.registry import init_default_scope

    from ..utils.atomic import write_text
    from .verbs.diagnose import diagnose, predict, text_of

    check_files(args.config, args.checkpoint)
    init_default_scope('mmrotate')
    model = init_detector(args.config, args.checkpoint, device=args.device or get_device())
    table = diagnose(predict(model, model.cfg), len(model.dataset_meta['classes']))
    if args.out:
        write_text(args.out, json.dumps(table, indent=1) + '\n')
    print(text_of(table))


VERBS = {
    'check': (add_check_arguments, run_check, 'config -> what its labels, pictures and classes are, and what is wrong'),
    'diagnose': (add_diagnose_arguments, run_diagnose, 'any rotated detector -> AP with one thing made right'),
    'detect': (add_detect_arguments, run_detect, 'pictures of any size -> JSON and drawn polygons'),
    'export': (add_export_arguments, run_export, 'checkpoint -> ONNX'),
    'submit': (add_submit_arguments, run_submit, 'patches -> zip for the DOTA server'),
}


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all verbs; each sets ``run`` to the function that does the job."""
    parser = argparse.ArgumentParser(prog='python -m mmplugins.o2detr', description=__doc__)
    verbs = parser.add_subparsers(dest='verb', required=True)
    for name, (add_arguments, run, text) in VERBS.items():
        verb = verbs.add_parser(name, help=text, description=run.__doc__.partition('\n')[0])
        add_arguments(verb)
        verb.set_defaults(run=run)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one verb and return the exit status."""
    return run_verb(build_parser(), argv, also=(TypeError,))


if __name__ == '__main__':
    sys.exit(main())
