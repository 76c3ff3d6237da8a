# METR on DINO, ResNet-50, COCO alone. The authors' recipe for COCO: 8 GPUs x 1 image, 12 epochs. Not run by us.
_base_ = 'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py'
custom_imports = dict(imports=['mmplugins.metr'], allow_failed_imports=False)

vocabulary = dict(datasets=dict(coco='coco'))
# The authors use CLIP ViT-B/32 with "a {name}"; `python -m mmplugins.metr embed-names --backend clip --model <folder>
# --builtin coco --out clip_coco.npz` makes that file from a local copy of CLIP.
embeddings = 'minilm-l6-v2'

model = dict(
    type='METR',
    vocabulary=vocabulary,
    text_bank=dict(embeddings=embeddings),
    num_categories=20,  # authors' code
    num_queries=100,  # for each category; authors' code
    bbox_head=dict(type='METRHead', num_classes=1, loss_cls=dict(loss_weight=2.0)),  # 2/5/2: authors' code
    dn_cfg=dict(_delete_=True, box_noise_scale=1.0, group_cfg=dict(dynamic=True, num_dn_queries=100)),
    train_cfg=dict(_delete_=True),  # the head's own assigners
    test_cfg=dict(max_per_img=100))  # authors' code: 100 for COCO, 300 elsewhere

# One truncated file does not end a run.
train_pipeline = [dict(type='LoadImageOrSkip'), *_base_.train_pipeline[1:]]
# A batch of one image has one shape.
train_dataloader = dict(batch_size=1, batch_sampler=None, dataset=dict(pipeline=train_pipeline))
custom_hooks = [dict(type='CheckVocabularyHook')]
auto_scale_lr = dict(base_batch_size=8)
