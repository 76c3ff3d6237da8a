# Attentive probe of the small CAE on photos (tests/data/clothing10). Small: 1 process x 64 images, 30 epochs, two minutes
# on two CPU cores. First cae-v1_vit-tiny-p8_1xb64-20e_clothing10.py.
_base_ = './cae-v1_vit-tiny-p8_linear-probe_1xb64-30e_clothing10.py'
model = dict(
    backbone=dict(out_type='raw'),
    neck=None,
    head=dict(
        _delete_=True,
        type='AttentiveProbeHead',
        num_classes=10,
        in_channels=192,
        num_heads=12,
        loss=dict(type='CrossEntropyLoss')))
optim_wrapper = dict(optimizer=dict(_delete_=True, type='SGD', lr=0.4, momentum=0.9, nesterov=True, weight_decay=0.0))
