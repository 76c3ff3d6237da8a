# RetinaNet on the blood cells of tests/data/bccd learns boxes and, beside them, what a ViT of timm makes of the images.
# 1 process x 8 images, 8 epochs. timm downloads the teacher's weights (23 MB).
_base_ = 'retinanet_r18-w16_1xb8-8e_bccd.py'
custom_imports = dict(imports=['mmplugins.hgkd'], allow_failed_imports=False)

model = dict(
    _delete_=True,
    type='HGKDDistilledModel',
    student={{_base_.model}},
    student_taps={'backbone.layer3': 64},  # a module of the detector and its channels
    teacher_channels=[192],
    losses=[dict(loss_type='cosine')],
    input_size=(192, 256))
custom_hooks = [
    dict(
        type='GenerativeDistillHook',
        teacher=dict(type='timm.create_model', model_name='vit_tiny_patch16_224', pretrained=True),
        taps=['blocks.11'],
        input_norm=dict(mean=[127.5] * 3, std=[127.5] * 3),
        weight=dict(type='linear', start=1.0, end=0.0, begin=4, end_at=8))
]
