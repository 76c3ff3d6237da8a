"""PRAE: ensembles of detectors that rank boxes by what their confidence is worth (arXiv 2105.03139), for mmdet."""

from .calibration import Calibration
from .calibration_file import load, save
from .fit import fit
from .fusion import fuse
from .options import FitConfig, FuseConfig, fit_config, fuse_config
from .tables import Dataset, Detections, GroundTruth

__all__ = [
    'Calibration',
    'Dataset',
    'Detections',
    'FitConfig',
    'FuseConfig',
    'GroundTruth',
    'fit',
    'fit_config',
    'fuse',
    'fuse_config',
    'load',
    'save',
]
