"""Names in mmengine's root registries, which every user's own classes share: this plugin has no host."""

from mmengine import registry

import mmplugins.prompt_tuning_inversion as plugin

# A name joins only if no user would give it to a class of their own.
NAMES = {
    'DDIMInversionEditor', 'DiffusionParts', 'EditCLIPScore', 'EditFriendlyEditor', 'EditLPIPS', 'EditMSE', 'EditPSNR',
    'EditPairDataset', 'EditSSIM', 'EditStructureDistance', 'LoadEditImage', 'NegativePromptEditor',
    'NullTextInversionEditor', 'PromptTuningInversion', 'SDEditEditor', 'SaveEditGridHook', 'TintedDigitAccuracy',
    'TintedDigitAutoencoder', 'TintedDigitDenoiser', 'TintedDigits', 'TintedScenes',
}  # fmt: skip


def test_common_names_are_left_to_the_user():
    roots = [thing for thing in vars(registry).values() if isinstance(thing, registry.Registry)]
    registered = {name: thing for root in roots for name, thing in root.module_dict.items()}
    assert {name for name, thing in registered.items() if thing.__module__.startswith(plugin.__name__)} == NAMES
