"""Alias: the distribution `mmsegmentation` for an environment whose package `mmseg` comes from `onedl-mmsegmentation`.

mim and mmengine's `_base_ = 'mmseg::...'` look the codebase up by this distribution name. The marker file makes
`top_level.txt` say `mmseg`, by which they find the package folder.
"""

from setuptools import setup

setup(
    name='mmsegmentation',
    version='1.4.2',
    description='Alias of onedl-mmsegmentation',
    python_requires='>=3.10',
    install_requires=['onedl-mmsegmentation==1.4.2'],
    packages=['mmseg'],
    package_data={'mmseg': ['.alias']},
)
