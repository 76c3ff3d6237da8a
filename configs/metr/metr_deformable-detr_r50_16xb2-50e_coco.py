# METR on two-stage Deformable DETR with box refinement, ResNet-50, COCO. The host's schedule: 16 GPUs x 2 images, 50
# epochs; the paper gives none for this base. Not run by us.
_base_ = 'mmdet::deformable_detr/deformable-detr-refine-twostage_r50_16xb2-50e_coco.py'
custom_imports = dict(imports=['mmplugins.metr'], allow_failed_imports=False)

vocabulary = dict(datasets=dict(coco='coco'))
model = dict(
    type='DeformableMETR',
    vocabulary=vocabulary,
    text_bank=dict(embeddings='minilm-l6-v2'),
    num_categories=20,
    num_queries=100,  # for each category
    bbox_head=dict(type='METRHead', num_classes=1),
    train_cfg=dict(_delete_=True),  # the head's own assigners
    test_cfg=dict(max_per_img=100))
train_pipeline = [dict(type='LoadImageOrSkip'), *_base_.train_pipeline[1:]]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
custom_hooks = [dict(type='CheckVocabularyHook')]
