"""Keep what trainings of one of our configs measured: ``python tools/record.py WORK_DIR [WORK_DIR of another seed …]``.

It reads the last validation or test of each, and writes ``projects/<plugin>/results/models.json``; then
``python tools/results.py`` puts it into RESULTS.md and the metafile, which has the mean over the seeds.
"""

import argparse
import datetime
import json
import logging
import re
from pathlib import Path

import yaml
from mmengine.config import Config

from experiments import ROOT
from experiments.frame.models import write_models
from experiments.frame.origin import machine
from mmplugins.utils.checkpoint import load_without_code
from mmplugins.utils.running.saving import newest_whole_checkpoint

KEPT = re.compile(r'accuracy/(top1|\w+/eta.*)|.*(mAP|mAP_50|AP50|AP75|mIoU)|few_shot/(clean|pgd\d+)|(psnr|ssim)/recon')


def last_evaluation(work_dir: Path) -> tuple[dict[str, float], str]:
    """Return metric -> value of the last validation or test, and its date.

    Raises:
        SystemExit: There was none.
    """
    # Each run has a folder, named by its time: a line for each validation, or a file for the one test.
    validations, tests = work_dir.glob('2*/vis_data/scalars.json'), work_dir.glob('2*/2*.json')
    for log in sorted([*validations, *tests], reverse=True):
        for line in reversed(log.read_text(encoding='utf-8').splitlines()):
            if found := {name: value for name, value in json.loads(line).items() if KEPT.fullmatch(name)}:
                return found, datetime.date.fromtimestamp(log.stat().st_mtime).isoformat()
    raise SystemExit(
        f'{work_dir} has no log of a validation or test; name the --work-dir of a training or test that went to its end'
    )


def find_model(work_dir: Path) -> tuple[Path, str, dict]:
    """Return the config that was trained in a folder, its plugin's folder there and its entry in the metafile.

    Raises:
        SystemExit: It is none of ours.
    """
    configs = {path.stem: path for path in work_dir.glob('*.py')}
    for metafile in ROOT.glob('projects/*/metafile.yml'):
        for model in yaml.safe_load(metafile.read_text(encoding='utf-8'))['Models']:
            if model['Name'] in configs:
                return configs[model['Name']], metafile.parent, model
    raise SystemExit(f'{work_dir} has no config that a metafile names, but {", ".join(sorted(configs)) or "none"}')


def seed_of(work_dir: Path, config: Path) -> int:
    """Return the seed of a training; one that the config does not set was drawn, and stands in the checkpoints.

    Raises:
        SystemExit: The config sets none, and there is no checkpoint.
    """
    seed = Config.fromfile(config).get('randomness', {}).get('seed')
    if seed is not None:
        return seed
    checkpoint = newest_whole_checkpoint(str(work_dir), logging.getLogger('record'))
    if checkpoint is None:
        raise SystemExit(f'{work_dir}: the config sets no randomness.seed, and no checkpoint is left that has it')
    return load_without_code(checkpoint)['meta']['seed']


def by_seed(work_dirs: list[Path], name: str) -> tuple[dict[int, dict[str, float]], str]:
    """Return seed -> metric -> value of several trainings of a config, and the date of the last one.

    Raises:
        SystemExit: One trained another config, or a seed was given twice.
    """
    found, dates = {}, []
    for work_dir in work_dirs:
        config, _, model = find_model(work_dir)
        seed = seed_of(work_dir, config)
        if model['Name'] != name or seed in found:
            raise SystemExit(f'{work_dir} trained {model["Name"]} with seed {seed}: give {name}, each seed once')
        found[seed], date = last_evaluation(work_dir)
        dates.append(date)
    return found, max(dates)


def main(argv: list[str] | None = None) -> None:
    """Record the runs of one config."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('work_dirs', type=Path, nargs='+', metavar='WORK_DIR')
    args = parser.parse_args(argv)
    _, plugin, model = find_model(args.work_dirs[0])
    name = model['Name']
    seeds, date = by_seed(args.work_dirs, name)
    path = plugin / 'results/models.json'
    measured = dict(dataset=model['Metadata']['Training Data'], seeds=seeds, machine=machine(), date=date)
    models = write_models(path, {name: measured})
    print(f'{path.relative_to(ROOT)}: {name}: {models[name]["metrics"]}')


if __name__ == '__main__':
    main()
