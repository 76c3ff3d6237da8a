"""What ``tools/install.sh`` asks about an environment. Standard library only; run by that environment's Python."""

import ast
import hashlib
import platform
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / 'projects/utils'))  # for this import only: mmplugins may not be installed
from environment import Problem, cuda, distributions, imports  # noqa: E402
from environment.distributions import HOSTS, version  # noqa: E402

sys.path.pop(0)
STAMP = Path(sys.prefix, '.mmplugins-install')


def requirements(name: str) -> list[str]:
    """Return the lines of ``requirements/<name>.txt``, comments dropped."""
    lines = (ROOT / f'requirements/{name}.txt').read_text(encoding='utf-8').splitlines()
    return [line for line in (line.split('#')[0].strip() for line in lines) if line]


def known_extras() -> list[str]:
    """Return the extras of ``setup.py``, read without running it."""
    tree = ast.parse((ROOT / 'setup.py').read_text(encoding='utf-8'))
    (table,) = (node.value for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == 'extras_require')
    return [key.value for key in table.keys]


def sorted_extras(extras: str) -> str:
    """Return the extras in alphabetical order, so that an order of them is no other installation."""
    wanted = {extra for extra in re.split(r'[,\s]+', extras) if extra}
    if unknown := sorted(wanted.difference(known_extras())):
        raise SystemExit(f'install: error: unknown extra: {", ".join(unknown)}; there are: {", ".join(known_extras())}')
    return ','.join(sorted(wanted))


def overwriting_extras(extras: str) -> list[Problem]:
    """Return which wanted extra would write over what is there."""
    others = [name for name in distributions.installed_spconvs() if name != 'spconv']
    if 'hgkd' not in extras.split(',') or not others:
        return []
    what = f'{others[0]} is installed, and the extra hgkd would write the CPU build of spconv over it'
    return [Problem(what, "Leave hgkd out of --extras and install the rest of it: pip install 'mlxtend>=0.23.4,<0.24'")]


def fingerprint() -> str:
    """Return a hash of everything an installation depends on: our files, the Python, what is installed."""
    digest = hashlib.sha256(f'{ROOT} {sys.version}'.encode())
    ours = ('setup.py', 'tools/install*', 'projects/utils/environment/*.py')
    theirs = ('requirements/*.txt', 'requirements/aliases/*/setup.py')
    for file in sorted(file for pattern in (*ours, *theirs) for file in ROOT.glob(pattern)):
        digest.update(file.read_bytes())
    installed = {info.name for folder in sys.path for info in Path(folder or '.').glob('*.dist-info')}
    digest.update('\n'.join(sorted(installed)).encode())
    return digest.hexdigest()


def is_complete(extras: str) -> bool:
    """Tell whether the last installation had these extras, and nothing was changed since."""
    if not STAMP.is_file():
        return False
    seen, _, installed = STAMP.read_text().partition('\n')
    return seen == fingerprint() and set(extras.split(',')) <= {'', *installed.split(',')}


def summary() -> str:
    """Return the versions of the stack in one line."""
    hosts = (*HOSTS.values(), *sorted(distributions.real_hosts()))
    names = ('torch', 'torchvision', 'onedl-mmengine', 'onedl-mmcv', *hosts, 'openmim', 'mmplugins')
    versions = [f'{name} {version(name)}' for name in names if version(name)]
    return ', '.join([f'python {platform.python_version()}', *versions])


def main(verb: str, *args: str) -> int:
    """Answer one question on stdout, or by the exit status; problems go to stderr and make it 1."""
    problems = []
    match verb:
        case 'extras':
            print(sorted_extras(*args))
        case 'complete':
            return 0 if is_complete(*args) else 1
        case 'mark-complete':
            STAMP.write_text(f'{fingerprint()}\n{args[0]}')
        case 'isolated':  # a venv or a conda environment
            return 0 if sys.prefix != sys.base_prefix or Path(sys.prefix, 'conda-meta').is_dir() else 1
        case 'problems':
            problems = [*distributions.rivals(), *overwriting_extras(*args), *cuda.driver_problems()]
        case 'build-problems':
            problems = cuda.build_problems()
        case 'ops':
            problems = cuda.ops_problems()
        case 'import-all':
            problems = imports.problems(imports.ALL)
        case 'wants-cuda':
            return 0 if cuda.wants_cuda_ops() else 1
        case 'jobs':
            print(cuda.jobs())
        case 'version':
            print(version(*args) or '')
        case 'hosts':  # requirements of mminstall.txt, less those that a real host replaces
            skip = {HOSTS[name] for name in distributions.real_hosts()}
            print('\n'.join(line for line in requirements('mminstall') if line.split('==')[0] not in skip))
        case 'torch':
            print(*requirements('torch'))
        case 'partial':
            elsewhere = {'onedl-mmcv', 'mmplugins', *HOSTS}  # these have steps of their own
            for name, number in distributions.partial():
                if name not in elsewhere:
                    print(distributions.download_of(name, number))
        case 'aliases':
            print('\n'.join(distributions.missing_aliases()))
        case 'summary':
            print(summary())
        case _:
            raise SystemExit(f'unknown verb: {verb}')
    for problem in problems:
        print(f'install: {problem}', file=sys.stderr)
    return 1 if problems else 0


if __name__ == '__main__':
    sys.exit(main(*sys.argv[1:]))
