"""Prompt Tuning Inversion (arXiv 2305.04441): text-driven editing of real images, on mmengine and diffusers' parts."""

from .baselines import DDIMInversionEditor, NullTextInversion, SDEditEditor
from .cache import InversionCache
from .datasets import EditPairDataset, LoadEditImage
from .editor import InversionEditor
from .hooks import SaveEditGridHook
from .inversion import Inversion
from .judge import AttributeAccuracy
from .metrics import CLIPScore, EditLPIPS, ReconPSNR, ReconSSIM
from .parts import DiffusionParts
from .prompt_tuning import PromptTuningInversion
from .sample import EditDataSample
from .schedule import DDIMSchedule
from .tinted_digits import TintedDigits
from .tiny_training import TinyAutoencoder, TinyDenoiser
from .tuning import TuningEditor

__all__ = [
    'AttributeAccuracy',
    'CLIPScore',
    'DDIMInversionEditor',
    'DDIMSchedule',
    'DiffusionParts',
    'EditDataSample',
    'EditLPIPS',
    'EditPairDataset',
    'Inversion',
    'InversionCache',
    'InversionEditor',
    'LoadEditImage',
    'NullTextInversion',
    'PromptTuningInversion',
    'ReconPSNR',
    'ReconSSIM',
    'SDEditEditor',
    'SaveEditGridHook',
    'TintedDigits',
    'TinyAutoencoder',
    'TinyDenoiser',
    'TuningEditor',
]
