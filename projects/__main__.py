"""The plugins and their commands; what is wrong with an environment; samples to start from."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from mmplugins.utils.environment import doctor
from mmplugins.utils.verbs import run_verb

# Plugin -> what it is, and the verbs of `python -m mmplugins.<plugin>`. Written down because asking the plugins imports
# all hosts, which takes ten seconds.
PLUGINS = {
    'cae': ('CAE and CAE v2: masked-image pretraining with a context autoencoder', 'convert, export, fit-codebook'),
    'dsnet': ('DS-Net: dual-stream backbones and neck', 'convert'),
    'hgkd': ('H-GKD: a sparse student learns from a masked-image teacher', 'check, export'),
    'its_maml': ('ITS-MAML: robust few-shot meta-learning', 'test, predict, sweep, report, view'),
    'metr': ('METR: language-aware DETR on several data sets', 'embed-names, prepare, from-dino, to-dino'),
    'o2detr': ('O2DETR: oriented detection with a transformer', 'check, diagnose, detect, export, submit'),
    'prae': ('PRAE: fitted ensembles of detectors', 'fit, tune, apply, eval, split, compare, pack'),
    'prompt_tuning_inversion': ('Prompt Tuning Inversion: edit pictures by text', 'edit, invert, batch, app'),
    'spsa': ('SPSA: self-attention without parameters', 'export'),
}


def show_plugins(args: argparse.Namespace) -> None:
    """List the plugins and their verbs."""
    for name, (text, verbs) in PLUGINS.items():
        print(f'{text}\n    python -m mmplugins.{name} {{{verbs.replace(", ", "|")}}}')
    print(
        '\nIs something wrong with this environment?\n    python -m mmplugins doctor\n'
        'Small configs with their data, to try and to copy from:\n    python -m mmplugins samples DIR'
    )


def run_doctor(args: argparse.Namespace) -> None:
    """Say what is wrong with this environment."""
    sys.exit(doctor.run())


def write_samples(args: argparse.Namespace) -> None:
    """Copy all configs, and the pictures and annotations that the small ones read, into a folder."""
    if args.folder.exists() and any(args.folder.iterdir()):
        raise FileExistsError(f'{args.folder} is not empty; name a new folder')
    home = doctor.shared_files()
    for part in ('configs', 'tests/data'):  # where a config looks for its data
        shutil.copytree(home / part, args.folder / part)
    config = args.folder / 'configs/dsnet/dsnet-micro_1xb32-40e_clothing10.py'
    print(f'written: {args.folder}; for example: mim train mmplugins {config} --work-dir work_dirs/dsnet')


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all verbs; each sets ``run`` to the function that does the job."""
    parser = argparse.ArgumentParser(prog='python -m mmplugins', description=__doc__)
    parser.set_defaults(run=show_plugins)
    verbs = parser.add_subparsers(dest='verb')
    verbs.add_parser('doctor', help='what is wrong with this environment, what to do, what an issue report needs')
    verbs.choices['doctor'].set_defaults(run=run_doctor)
    samples = verbs.add_parser('samples', help='small configs and the data that they read -> a folder')
    samples.add_argument('folder', type=Path, help='made if missing')
    samples.set_defaults(run=write_samples)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one verb, or list the plugins, and return the exit status."""
    return run_verb(build_parser(), argv)


if __name__ == '__main__':
    sys.exit(main())
