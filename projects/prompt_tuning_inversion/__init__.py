"""Prompt Tuning Inversion (arXiv 2305.04441): text-driven editing of real images, on mmengine and diffusers' parts."""

from .baselines import DDIMInversionEditor, NegativePromptEditor, NullTextInversionEditor, SDEditEditor
from .cache import InversionCache
from .diffusion.parts import DiffusionParts
from .diffusion.schedule import DDIMSchedule
from .edit_friendly import EditFriendlyEditor
from .editor import InversionEditor
from .evaluation.hook import SaveEditGridHook
from .evaluation.metrics import EditMSE, EditPSNR, EditSSIM
from .evaluation.networks import EditCLIPScore, EditLPIPS, EditStructureDistance
from .inversion import Inversion
from .pairs.dataset import EditPairDataset, LoadEditImage
from .pairs.sample import EditDataSample
from .prompt_tuning import PromptTuningInversion
from .tinted_digits.dataset import TintedDigits
from .tinted_digits.judge import TintedDigitAccuracy
from .tinted_digits.scenes import TintedScenes
from .tinted_digits.training import TintedDigitAutoencoder, TintedDigitDenoiser
from .tuning import TuningEditor

# Without a host, what is registered stands in mmengine's root registries beside the user's own classes. These shorter
# names could be theirs, so they can be imported but are not registered.
AttributeAccuracy = TintedDigitAccuracy
CLIPScore = EditCLIPScore
NullTextInversion = NullTextInversionEditor
ReconPSNR = EditPSNR
ReconSSIM = EditSSIM
TinyAutoencoder = TintedDigitAutoencoder
TinyDenoiser = TintedDigitDenoiser

__all__ = [
    'AttributeAccuracy',
    'CLIPScore',
    'DDIMInversionEditor',
    'DDIMSchedule',
    'DiffusionParts',
    'EditCLIPScore',
    'EditDataSample',
    'EditFriendlyEditor',
    'EditLPIPS',
    'EditMSE',
    'EditPSNR',
    'EditPairDataset',
    'EditSSIM',
    'EditStructureDistance',
    'Inversion',
    'InversionCache',
    'InversionEditor',
    'LoadEditImage',
    'NegativePromptEditor',
    'NullTextInversion',
    'NullTextInversionEditor',
    'PromptTuningInversion',
    'ReconPSNR',
    'ReconSSIM',
    'SDEditEditor',
    'SaveEditGridHook',
    'TintedDigitAccuracy',
    'TintedDigitAutoencoder',
    'TintedDigitDenoiser',
    'TintedDigits',
    'TintedScenes',
    'TinyAutoencoder',
    'TinyDenoiser',
    'TuningEditor',
]
