"""Keep what a training of one of our configs measured: ``python tools/record.py WORK_DIR``.

It reads the last validation of the newest log, and writes ``projects/<plugin>/results/models.json``; then ``python
tools/results.py`` puts it into RESULTS.md and the metafile.
"""

import argparse
import datetime
import json
import re
from pathlib import Path

import yaml

from experiments import ROOT
from experiments.frame.origin import machine

KEPT = re.compile(r'accuracy/top1|.*(mAP|mAP_50|AP50|AP75|mIoU)')


def last_validation(work_dir: Path) -> tuple[dict[str, float], str]:
    """Return metric -> value of the last validation, and its date.

    Raises:
        SystemExit: There was none.
    """
    for log in sorted(work_dir.glob('*/vis_data/scalars.json'), reverse=True):
        for line in reversed(log.read_text(encoding='utf-8').splitlines()):
            if found := {name: round(value, 4) for name, value in json.loads(line).items() if KEPT.fullmatch(name)}:
                return found, datetime.date.fromtimestamp(log.stat().st_mtime).isoformat()
    raise SystemExit(f'{work_dir} has no log of a validation; name the --work-dir of a training that went to its end')


def find_model(work_dir: Path) -> tuple[str, Path, dict]:
    """Return the plugin, the name and the metafile's entry of the config that was trained in a folder.

    Raises:
        SystemExit: It is none of ours.
    """
    names = {path.stem for path in work_dir.glob('*.py')}
    for metafile in ROOT.glob('projects/*/metafile.yml'):
        for model in yaml.safe_load(metafile.read_text(encoding='utf-8'))['Models']:
            if model['Name'] in names:
                return model['Name'], metafile.parent, model['Metadata']
    raise SystemExit(f'{work_dir} has no config that a metafile names, but {", ".join(sorted(names)) or "none"}')


def main(argv: list[str] | None = None) -> None:
    """Record one run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('work_dir', type=Path)
    args = parser.parse_args(argv)
    name, plugin, metadata = find_model(args.work_dir)
    metrics, date = last_validation(args.work_dir)
    path = plugin / 'results/models.json'
    models = json.loads(path.read_text(encoding='utf-8')) if path.is_file() else {}
    models[name] = dict(dataset=metadata['Training Data'], metrics=metrics, machine=machine(), date=date)
    path.write_text(json.dumps(dict(sorted(models.items())), indent=1) + '\n', encoding='utf-8')
    print(f'{path.relative_to(ROOT)}: {name}: {metrics}')


if __name__ == '__main__':
    main()
