"""Evaluate a checkpoint: ``python tools/test.py CONFIG CHECKPOINT``. See ``--help``."""

import sys

try:
    from mmplugins.utils.running.threads import wait_politely

    wait_politely()
    from mmplugins.utils.running import launch
except ModuleNotFoundError as error:
    if error.name != 'mmplugins':
        raise
    # PYTHONPATH cannot help: the package is a mapped folder.
    sys.exit('mmplugins is not installed in this Python; in the checkout: pip install --no-build-isolation -e .')


def main() -> None:
    """Parse the arguments, build the runner, test."""
    parser = launch.build_parser('Evaluate a checkpoint.')
    parser.add_argument('checkpoint', help='path of the checkpoint; `none` for a model that finds its weights itself')
    parser.add_argument('--out', metavar='FILE.pkl', help='write all predictions to this pickle file')
    parser.add_argument('--show-dir', help='write pictures with the predictions to this folder')
    parser.add_argument('--tta', action='store_true', help='test on the views of tta_pipeline, merged by tta_model')
    args = parser.parse_args()
    if args.out and not args.out.endswith(('.pkl', '.pickle')):
        parser.error(f'--out must end in .pkl or .pickle, got {args.out}')

    cfg = launch.load_config(args)
    if args.checkpoint != 'none':
        cfg.load_from = launch.check_file(args.checkpoint, 'Checkpoint')
    if args.show_dir:
        launch.enable_pictures(cfg, args.show_dir)
    if args.tta:
        launch.enable_views(cfg)
    runner = launch.build_runner(cfg)
    if args.out:
        runner.register_hook(launch.DumpPredictions(args.out, cfg.get('default_scope')))
    runner.test()


if __name__ == '__main__':
    main()
