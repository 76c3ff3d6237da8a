"""Alias: the distribution `mmrotate` for an environment whose package `mmrotate` comes from `onedl-mmrotate`.

mim and mmengine's `_base_ = 'mmrotate::...'` look the codebase up by this distribution name. The marker file makes
`top_level.txt` say `mmrotate`, by which they find the package folder.
"""

from setuptools import setup

setup(
    name='mmrotate',
    version='1.2.1',
    description='Alias of onedl-mmrotate',
    python_requires='>=3.10',
    install_requires=['onedl-mmrotate==1.2.1'],
    packages=['mmrotate'],
    package_data={'mmrotate': ['.alias']},
)
