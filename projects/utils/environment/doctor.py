"""``python -m mmplugins doctor``: what is wrong, most important first, and what an issue report needs."""

import platform
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from . import Problem, cuda, distributions, imports
from .distributions import HOSTS, version

# Extras that bring no part of one plugin; empty: what all need.
NO_PLUGIN = {'', 'mminstall', 'tests', 'dev', 'docs'}


def shared_files() -> Path:
    """Return the folder of configs, requirements and samples: ``mmplugins/.mim`` of a wheel, or the checkout."""
    package = Path(__file__).resolve().parents[2]
    return package / '.mim' if (package / '.mim').is_dir() else package.parent


def requirements() -> Iterator[tuple[str, 'packaging.requirements.Requirement']]:  # noqa: F821
    """Yield (extra, requirement) of mmplugins for this platform; the extra is empty for what is always needed."""
    from packaging.requirements import Requirement

    extras = metadata.metadata('mmplugins').get_all('Provides-Extra')
    for requirement in map(Requirement, metadata.requires('mmplugins')):
        for extra in ('', *extras):
            if requirement.marker is None or requirement.marker.evaluate(dict(extra=extra)):
                yield extra, requirement
                break


def wrong() -> list[Problem]:
    """Return what is wrong, most important first."""
    if not cuda.has_torch():
        return [
            Problem('torch is not installed', f'pip install -r {shared_files() / "requirements/torch.txt"}'),
            *partial(),
        ]
    ops = cuda.ops_problems() if imports.installed(['mmcv']) else []
    hosts = imports.problems(imports.installed(imports.HOSTS))
    between = [*distributions.rivals(), *needed(), *ranges()]
    return [*partial(), *cuda.driver_problems(), *ops, *between, *hosts, *aliases()]


def partial() -> list[Problem]:
    """Return what is installed only in part."""
    return [
        Problem(
            f'{name} {number} is installed only in part: pip was cut off',
            f'pip install --ignore-installed --no-deps {distributions.download_of(name, number)}',
        )
        for name, number in distributions.partial()
    ]


def needed() -> list[Problem]:
    """Return what every plugin needs and is not there."""
    return [
        Problem(f'{requirement.name} is not installed', f"pip install '{requirement.name}{requirement.specifier}'")
        for extra, requirement in requirements()
        if not extra and not version(requirement.name)
    ]


def ranges() -> list[Problem]:
    """Return which installed packages are of a version that does not work."""
    return [
        Problem(
            f'{requirement.name} {found} is installed, {extra or "mmplugins"} needs {requirement.specifier}',
            f"pip install '{requirement.name}{requirement.specifier}'",
        )
        for extra, requirement in requirements()
        if (found := version(requirement.name)) and not requirement.specifier.contains(found, prereleases=True)
    ]


def aliases() -> list[Problem]:
    """Return by which names mim and ``_base_ = 'mmdet::…'`` do not find an installed host."""
    folder = shared_files() / 'requirements/aliases'
    return [
        Problem(
            f'mim and mmengine look for {name}, but {HOSTS[name]} is installed without the alias of that name',
            f'pip install --no-build-isolation --no-deps {folder / name}',
        )
        for name in distributions.missing_aliases()
    ]


def absent() -> list[Problem]:
    """Return the hosts and extras that are not there: a fault only for who wants what needs them."""
    found = [
        Problem(f'{name} is not installed', 'bash tools/install.sh')
        for name in imports.HOSTS
        if name not in imports.installed(imports.HOSTS)
    ]
    spconv = distributions.installed_spconvs()
    lacking: dict[str, list] = {}
    for extra, requirement in requirements():
        # One build of spconv is enough, and a second would overwrite it.
        if extra not in NO_PLUGIN and not version(requirement.name) and not (spconv and 'spconv' in requirement.name):
            lacking.setdefault(extra, []).append(requirement)
    for extra, missing in lacking.items():
        names = ', '.join(requirement.name for requirement in missing)
        # Not the extra itself: of hgkd it would bring the CPU build beside one for CUDA.
        cure = ' '.join(f"'{requirement.name}{requirement.specifier}'" for requirement in missing)
        found.append(Problem(f'the extra {extra} lacks {names}', f'pip install {cure}'))
    return found


def facts() -> list[str]:
    """Return what an issue report needs, a line each."""
    card, nvcc = cuda.gpu(), cuda.find_nvcc()
    torch = f'torch {version("torch")}, built for CUDA {cuda.torch_cuda()}'
    names = {requirement.name for _, requirement in requirements()} | set(HOSTS) | set(distributions.RIVALS)
    versions = sorted(f'{name} {version(name)}' for name in names - {'torch'} if version(name))
    return [
        f'mmplugins {version("mmplugins")} in {shared_files()}',
        f'Python {platform.python_version()}, {platform.platform()}',
        f'{torch}; GPU: {", driver ".join(card) if card else "none"}; nvcc: {nvcc or "none"}',
        ', '.join(versions),
    ]


def run() -> int:
    """Print all of it; return 1 if something is wrong."""
    problems, missing = wrong(), absent()
    for number, problem in enumerate(problems, 1):
        print(f'{number}. {problem}')
    print(f'{len(problems)} wrong, most important first' if problems else 'Nothing is wrong.')
    if missing:
        print('\nNot installed; needed only by who uses it:')
        print(*missing, sep='\n')
    print('\nFor an issue report:')
    print(*facts(), sep='\n')
    return 1 if problems else 0
