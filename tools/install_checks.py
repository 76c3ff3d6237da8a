"""What ``tools/install.sh`` asks about an environment. Standard library only; run by that environment's Python."""

import hashlib
import importlib
import platform
import sys
import sysconfig
import warnings
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STAMP = Path(sys.prefix, '.mmplugins-install')
# Distribution name that mim and mmengine look up -> fork that provides the package.
HOSTS = {
    'mmdet': 'onedl-mmdetection',
    'mmpretrain': 'onedl-mmpretrain',
    'mmrotate': 'onedl-mmrotate',
    'mmsegmentation': 'onedl-mmsegmentation',
}
# Distributions that write the same package as one of ours.
RIVALS = {
    'mmcv': 'onedl-mmcv',
    'mmcv-full': 'onedl-mmcv',
    'mmcv-lite': 'onedl-mmcv',
    'mmengine': 'onedl-mmengine',
    'mmengine-lite': 'onedl-mmengine',
    'onedl-mim': 'openmim',
}


def version(name: str) -> str | None:
    """Return the version of an installed distribution, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def is_alias(name: str) -> bool:
    """Tell whether the distribution ``name`` is one of ``requirements/aliases``."""
    return any(file.name == '.alias' for file in metadata.files(name) or ())


def partial() -> list[str]:
    """Return what pip was cut off in: it writes ``INSTALLER`` last, after compiling all files of a distribution."""
    infos = [path.parent for path in Path(sysconfig.get_path('purelib')).glob('*.dist-info/METADATA')]
    dists = [metadata.Distribution.at(info) for info in infos if not (info / 'INSTALLER').is_file()]
    elsewhere = {'onedl-mmcv', 'mmplugins', *HOSTS}  # these have steps of their own
    return [f'{dist.name}=={dist.version}' for dist in dists if dist.name not in elsewhere]


def real_hosts() -> set[str]:
    """Return the hosts that are installed under their own name: forks and aliases would overwrite them."""
    return {name for name in HOSTS if version(name) and not is_alias(name)}


def problems() -> list[str]:
    """Return what must be settled by the user before anything is installed."""
    found = []
    for rival, ours in RIVALS.items():
        if version(rival):
            found.append(
                f'{rival} {version(rival)} is installed; it and {ours} write the same package. To go on with our '
                f'stack: pip uninstall -y {rival} {ours}, then run this again. To keep yours, do not use this '
                'script: pip install --no-build-isolation -e . is all that mmplugins needs.'
            )
    spconvs = sorted({dist.name for dist in metadata.distributions() if dist.name.startswith('spconv')})
    if len(spconvs) > 1:
        found.append(
            f'{" and ".join(spconvs)} are installed, but all builds of spconv write the same package. '
            f'Uninstall all of them (pip uninstall -y {" ".join(spconvs)}) and install one.'
        )
    return found


def missing_aliases() -> list[str]:
    """Return the aliases to install: absent ones, and those of another version than their fork."""
    return [name for name in HOSTS if name not in real_hosts() and version(name) != version(HOSTS[name])]


def fingerprint(extras: str) -> str:
    """Return a hash of everything an installation depends on: our files, the Python, what is installed."""
    digest = hashlib.sha256(f'{ROOT} {sys.version} {extras}'.encode())
    patterns = ('setup.py', 'tools/install*', 'requirements/*.txt', 'requirements/aliases/*/setup.py')
    for file in sorted(file for pattern in patterns for file in ROOT.glob(pattern)):
        digest.update(file.read_bytes())
    installed = {info.name for folder in sys.path for info in Path(folder or '.').glob('*.dist-info')}
    digest.update('\n'.join(sorted(installed)).encode())
    return digest.hexdigest()


def is_complete(extras: str) -> bool:
    """Tell whether the last installation was this one and nothing was changed since."""
    return STAMP.is_file() and STAMP.read_text() == fingerprint(extras)


def ops_work(cuda: bool) -> bool:
    """Tell whether mmcv has its compiled ops, with ``cuda`` those for the GPU too."""
    try:
        ops = importlib.import_module('mmcv.ops')
    except Exception as error:  # an extension built for another torch fails in many ways
        print(f'mmcv.ops: {error}', file=sys.stderr)
        return False
    return not cuda or ops.get_compiling_cuda_version() != 'not available'


def cuda_available() -> bool:
    """Tell whether the installed torch sees a GPU."""
    try:
        return importlib.import_module('torch').cuda.is_available()
    except ImportError:
        return False


def import_all() -> list[str]:
    """Import every host and mmplugins; return what fails."""
    warnings.simplefilter('ignore')  # the hosts' own, which a user can do nothing about
    failed = []
    for name in ('mmcv.ops', 'mmengine', 'mmdet', 'mmpretrain', 'mmseg', 'mmrotate', 'mim', 'mmplugins'):
        try:
            importlib.import_module(name)
        except Exception as error:
            hint = ' (Debian, Ubuntu: apt-get install libgl1 libglib2.0-0)' if 'libGL' in str(error) else ''
            failed.append(f'import {name}: {type(error).__name__}: {error}{hint}')
    return failed


def summary() -> str:
    """Return the versions of the stack in one line."""
    names = ('torch', 'torchvision', 'onedl-mmengine', 'onedl-mmcv', *HOSTS.values(), *sorted(real_hosts()), 'openmim')
    versions = [f'{name} {version(name)}' for name in (*names, 'mmplugins') if version(name)]
    return ', '.join([f'python {platform.python_version()}', *versions])


def main(verb: str, *args: str) -> int:
    """Answer one question on stdout, or by the exit status."""
    match verb:
        case 'complete':
            return 0 if is_complete(*args) else 1
        case 'mark-complete':
            STAMP.write_text(fingerprint(*args))
        case 'isolated':  # a venv or a conda environment
            return 0 if sys.prefix != sys.base_prefix or Path(sys.prefix, 'conda-meta').is_dir() else 1
        case 'problems' | 'import-all':
            found = problems() if verb == 'problems' else import_all()
            print(*found, sep='\n', end='\n' if found else '', file=sys.stderr)
            return 1 if found else 0
        case 'ops':
            return 0 if ops_work(cuda='--cuda' in args) else 1
        case 'cuda':
            return 0 if cuda_available() else 1
        case 'version':
            print(version(*args) or '')
        case 'hosts':  # requirements of mminstall.txt, less those that a real host replaces
            skip = {HOSTS[name] for name in real_hosts()}
            lines = (ROOT / 'requirements/mminstall.txt').read_text(encoding='utf-8').splitlines()
            wanted = [line.split('#')[0].strip() for line in lines]
            print('\n'.join(line for line in wanted if line and line.split('==')[0] not in skip))
        case 'partial':
            print('\n'.join(partial()))
        case 'aliases':
            print('\n'.join(missing_aliases()))
        case 'summary':
            print(summary())
        case _:
            raise SystemExit(f'unknown verb: {verb}')
    return 0


if __name__ == '__main__':
    sys.exit(main(*sys.argv[1:]))
