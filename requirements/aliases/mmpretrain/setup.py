"""Alias: the distribution `mmpretrain` for an environment whose package `mmpretrain` comes from `onedl-mmpretrain`.

mim and mmengine's `_base_ = 'mmpretrain::...'` look the codebase up by this distribution name. The marker file makes
`top_level.txt` say `mmpretrain`, by which they find the package folder.
"""

from setuptools import setup

setup(
    name='mmpretrain',
    version='1.3.6',
    description='Alias of onedl-mmpretrain',
    python_requires='>=3.10',
    install_requires=['onedl-mmpretrain==1.3.6'],
    packages=['mmpretrain'],
    package_data={'mmpretrain': ['.alias']},
)
