"""What pip has installed: hosts, their aliases, rivals, and packages that were installed only in part."""

import re
import sysconfig
from importlib import metadata
from pathlib import Path

from . import Problem

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
    """Return the version of an installed distribution; None if it is absent or has no readable metadata."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def is_alias(name: str) -> bool:
    """Tell whether the distribution ``name`` is one of ``requirements/aliases``."""
    return any(file.name == '.alias' for file in metadata.files(name) or ())


def real_hosts() -> set[str]:
    """Return the hosts that are installed under their own name: forks and aliases would overwrite them."""
    return {name for name in HOSTS if version(name) and not is_alias(name)}


def missing_aliases() -> list[str]:
    """Return the aliases to install: absent ones, and those of another version than their fork."""
    return [name for name in HOSTS if name not in real_hosts() and version(name) != version(HOSTS[name])]


def partial() -> list[tuple[str, str]]:
    """Return (name, version) of what is installed only in part.

    pip writes ``INSTALLER`` last, after compiling all files of a distribution. Both are read from the folder's name:
    the metadata may be what is missing.
    """
    infos = sorted(Path(sysconfig.get_path('purelib')).glob('*-*.dist-info'))
    # What pip was about to remove begins with a tilde.
    stems = [info.stem for info in infos if not (info.stem.startswith('~') or (info / 'INSTALLER').is_file())]
    return [(name.replace('_', '-'), number) for name, _, number in (stem.rpartition('-') for stem in stems)]


def download_of(name: str, number: str) -> str:
    """Return pip's arguments for one version of a distribution, with the index that has torch's builds for CUDA."""
    local = re.search(r'\+(cpu|cu\d+)$', number)
    index = f' --index-url https://download.pytorch.org/whl/{local[1]}' if local else ''
    return f'{name}=={number}{index}'


def rivals() -> list[Problem]:
    """Return the distributions that overwrite each other's files."""
    found = []
    for rival, ours in RIVALS.items():
        if version(rival):
            what = f'{rival} {version(rival)} is installed; it and {ours} write the same package'
            cure = (
                f'To use our stack: pip uninstall -y {rival} {ours}, then bash tools/install.sh. To keep yours, do not '
                'use that script: pip install --no-build-isolation -e . is all that mmplugins needs.'
            )
            found.append(Problem(what, cure))
    spconvs = installed_spconvs()
    if len(spconvs) > 1:
        what = f'{" and ".join(spconvs)} are installed, but all builds of spconv write the same package'
        cure = f'Uninstall all of them (pip uninstall -y {" ".join(spconvs)}) and install one.'
        found.append(Problem(what, cure))
    return found


def installed_spconvs() -> list[str]:
    """Return the builds of spconv that are installed."""
    names = {dist.metadata['Name'] or '' for dist in metadata.distributions()}  # '': its metadata is missing
    return sorted(name for name in names if name.startswith('spconv'))
