"""Train a model: ``python tools/train.py CONFIG``.

The tool of every host codebase: the config says by ``default_scope`` which one is used. See ``--help``.
"""

import sys

try:
    from mmplugins.utils.running.threads import wait_politely

    wait_politely()
    from mmplugins.utils.running import launch
    from mmplugins.utils.running.runner import resume_newest
except ModuleNotFoundError as error:
    if error.name != 'mmplugins':
        raise
    # PYTHONPATH cannot help: the package is a mapped folder.
    sys.exit('mmplugins is not installed in this Python; in the checkout: pip install --no-build-isolation -e .')


def main() -> None:
    """Parse the arguments, build the runner, train."""
    parser = launch.build_parser('Train a model.')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='continue from CHECKPOINT, or without it from the newest whole one in the work dir; '
        'where there is none yet, start as the config says',
    )
    parser.add_argument('--amp', action='store_true', help='train in mixed precision')
    parser.add_argument('--auto-scale-lr', action='store_true', help='scale the learning rate by the batch size')
    args = parser.parse_args()

    cfg = launch.load_config(args)
    if args.amp:
        launch.enable_amp(cfg)
    if args.auto_scale_lr:
        launch.enable_auto_scale_lr(cfg)
    if args.resume not in (None, 'auto'):
        cfg.resume, cfg.load_from = True, launch.check_file(args.resume, 'Checkpoint')
    runner = launch.build_runner(cfg)
    if args.resume == 'auto':
        resume_newest(runner)
    runner.train()


if __name__ == '__main__':
    main()
