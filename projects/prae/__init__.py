"""PRAE: ensembles of detectors that rank boxes by what their confidence is worth (arXiv 2105.03139), for mmdet."""

from .boxes.tables import Dataset, Detections, GroundTruth
from .calibration.detectors import Calibration
from .calibration.file import load, save
from .calibration.fit import fit
from .calibration.options import FitConfig, fit_config
from .ensemble import EnsembleDetector
from .fit_metric import PRAEFitMetric
from .fusion.fuse import fuse
from .fusion.options import FuseConfig, fuse_config
from .instances import PRAEFusion
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
