"""Computer-vision papers as plugins for the OpenMMLab codebases.

Each plugin is a subpackage: ``import mmplugins.metr`` registers its modules in the registries of the
host codebase. Nothing is imported here, so that a plugin needs only its own host.
"""

from .version import __version__

__all__ = ['__version__']
