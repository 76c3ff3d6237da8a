"""Alias: the distribution `mmdet` for an environment whose package `mmdet` comes from `onedl-mmdetection`.

mim and mmengine's `_base_ = 'mmdet::...'` look the codebase up by this distribution name. The marker file makes
`top_level.txt` say `mmdet`, by which they find the package folder.
"""

from setuptools import setup

setup(
    name='mmdet',
    version='3.5.1',
    description='Alias of onedl-mmdetection',
    python_requires='>=3.10',
    install_requires=['onedl-mmdetection==3.5.1'],
    packages=['mmdet'],
    package_data={'mmdet': ['.alias']},
)
