"""PRAE: ensembles of detectors that rank boxes by what their confidence is worth (arXiv 2105.03139), for mmdet."""

from .calibration import Calibration
from .calibration_file import load, save
from .ensemble import EnsembleDetector
from .fit import fit
from .fit_metric import PRAEFitMetric
from .fusion import fuse
from .instances import PRAEFusion
from .options import FitConfig, FuseConfig, fit_config, fuse_config
from .tables import Dataset, Detections, GroundTruth
from .tta import PRAETTAModel

__all__ = [
    'Calibration',
    'Dataset',
    'Detections',
    'EnsembleDetector',
    'FitConfig',
    'FuseConfig',
    'GroundTruth',
    'PRAEFitMetric',
    'PRAEFusion',
    'PRAETTAModel',
    'fit',
    'fit_config',
    'fuse',
    'fuse_config',
    'load',
    'save',
]
