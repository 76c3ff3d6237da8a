"""What ``tools/gpu_check.sh`` found, as JSON and as a table. Standard library, and torch for the machine.

::

    python tools/gpu_report.py machine FILE              # which card, which torch; fails where torch sees none
    python tools/gpu_report.py summary DIR FILE STAGE…   # from the files of the stages; 1 if one is not done
"""

import json
import platform
import sys
from pathlib import Path
from xml.etree import ElementTree


def write_json(path: Path, record: dict) -> None:
    """Write a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')


def machine() -> dict:
    """Return the card and the versions.

    Raises:
        SystemExit: This torch sees no GPU.
    """
    import torch

    if not torch.cuda.is_available():
        raise SystemExit(
            f'torch {torch.__version__} (CUDA {torch.version.cuda}) sees no GPU: is there a driver for it?'
        )
    card = torch.cuda.get_device_properties(0)
    return dict(
        gpu=card.name,
        capability=f'{card.major}.{card.minor}',
        memory_gib=round(card.total_memory / 2**30, 1),
        python=platform.python_version(),
        torch=torch.__version__,
        cuda=torch.version.cuda,
    )


def read_tests(path: Path) -> dict:
    """Return the numbers of a JUnit file of pytest's and the names of what failed.

    Returns:
        ``passed``, ``skipped``, ``failed``, and ``failures``, the first line of each by name.
    """
    found, failures = dict(passed=0, skipped=0, failed=0), {}
    for case in ElementTree.parse(path).iter('testcase'):
        problem = next((child for child in case if child.tag in ('failure', 'error')), None)
        if problem is not None:
            found['failed'] += 1
            failures[f'{case.get("classname")}::{case.get("name")}'] = problem.get('message', '').partition('\n')[0]
        else:
            found['skipped' if case.find('skipped') is not None else 'passed'] += 1
    return dict(found, failures=failures)


def read_stage(work: Path, name: str) -> dict:
    """Return how a stage ended, and what it found.

    Args:
        work: Folder of the stages.
        name: Of the stage.
    """
    status = work / f'{name}.status'
    if not status.is_file():
        return dict(result='left')
    result, seconds, limit = status.read_text().split()
    found = dict(result=result, seconds=int(seconds), limit=int(limit))
    if name == 'tests' and (work / 'tests.xml').is_file():
        found['tests'] = read_tests(work / 'tests.xml')
    elif result == 'done' and (work / f'{name}.json').is_file():
        found['benchmark'] = json.loads((work / f'{name}.json').read_text(encoding='utf-8'))
    return found


def remark(stage: dict) -> str:
    """Return the last cell of a stage's row."""
    if 'tests' in stage:
        return ', '.join(f'{stage["tests"][key]} {key}' for key in ('passed', 'failed', 'skipped'))
    if 'benchmark' in stage:
        verdicts = [bound['verdict'] for bound in stage['benchmark']['bounds']]
        return f'{verdicts.count("holds")} of {len(verdicts)} bounds hold'
    return ''


def table(record: dict) -> str:
    """Return the stages as a table of Markdown."""
    rows = [('stage', 'result', 'seconds', ''), ('---',) * 4]
    rows += [(name, s['result'], s.get('seconds', ''), remark(s)) for name, s in record['stages'].items()]
    return '\n'.join(f'| {" | ".join(map(str, row))} |' for row in rows)


def summary(work: Path, out: Path, names: list[str]) -> int:
    """Write and print what the stages found; return 1 if one of them is not done."""
    card = work / 'machine.json'
    record = json.loads(card.read_text(encoding='utf-8')) if card.is_file() else {}
    record['stages'] = {name: read_stage(work, name) for name in names}
    write_json(out, record)
    print(table(record))
    for stage in record['stages'].values():
        for name, message in stage.get('tests', {}).get('failures', {}).items():
            print(f'{name}: {message}')
        if 'benchmark' in stage:
            print('', stage['benchmark']['table'], sep='\n')
    print(f'\nwritten to {out}')
    return int(any(stage['result'] != 'done' for stage in record['stages'].values()))


def main(verb: str, *args: str) -> int:
    """Do what the verb says."""
    match verb:
        case 'machine':
            write_json(Path(args[0]), machine())
        case 'summary':
            return summary(Path(args[0]), Path(args[1]), list(args[2:]))
        case _:
            raise SystemExit(f'unknown verb: {verb}')
    return 0


if __name__ == '__main__':
    sys.exit(main(*sys.argv[1:]))
