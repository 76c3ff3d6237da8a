"""Prompt Tuning Inversion (arXiv 2305.04441): text-driven editing of real images, on mmengine and diffusers' parts."""

from .baselines import DDIMInversionEditor, NullTextInversion, SDEditEditor
from .cache import InversionCache
from .diffusion.parts import DiffusionParts
from .diffusion.schedule import DDIMSchedule
from .editor import InversionEditor
from .evaluation.hook import SaveEditGridHook
from .evaluation.metrics import CLIPScore, EditLPIPS, ReconPSNR, ReconSSIM
from .inversion import Inversion
from .pairs.dataset import EditPairDataset, LoadEditImage
from .pairs.sample import EditDataSample
from .prompt_tuning import PromptTuningInversion
from .tinted_digits.dataset import TintedDigits
from .tinted_digits.judge import AttributeAccuracy
from .tinted_digits.training import TinyAutoencoder, TinyDenoiser
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
