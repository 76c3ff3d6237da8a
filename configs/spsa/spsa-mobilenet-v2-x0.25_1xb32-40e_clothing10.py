# Reuse: the host's classifier and MobileNetV2 with SPSA in its blocks; all but the backbone is the config beside it.
# Small: 1 process x 32 images, 40 epochs, about two minutes on one CPU core.
_base_ = './spsanet-micro_1xb32-40e_clothing10.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='SPSAMobileNetV2',
        widen_factor=0.25,
        mixer=dict(type='SPSA', head_dim=16),
        mixer_layers=(3, 4, 5, 6)),  # of widths that 16 divides
    head=dict(in_channels=1280))
