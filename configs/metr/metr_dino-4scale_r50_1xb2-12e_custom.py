# METR on DINO, ResNet-50, your own COCO-style annotations: 1 GPU x 2 images, 12 epochs. Change the names and paths below;
# `python -m mmplugins.metr embed-names --annotations train.json --append minilm-l6-v2 --out names.npz` embeds new names.
_base_ = './metr_dino-4scale_r50_8xb1-12e_coco.py'

data_root = 'data/custom/'
classes = ('cat', 'dog')
vocabulary = dict(datasets=dict(custom=classes))
model = dict(vocabulary=dict(_delete_=True, **vocabulary), text_bank=dict(embeddings='minilm-l6-v2'))

custom = dict(
    type='VocabCocoDataset',
    data_root=data_root,
    ann_file='annotations/train.json',
    data_prefix=dict(img='train/'),
    metainfo=dict(classes=classes))
train_dataloader = dict(
    batch_size=2,
    batch_sampler=dict(_delete_=True, type='AspectRatioBatchSampler'),
    dataset=dict(
        _delete_=True,
        type='MultiVocabConcatDataset',
        vocabulary=vocabulary,
        pipeline={{_base_.train_pipeline}},
        datasets=dict(custom=custom)))
val_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='MultiVocabConcatDataset',
        vocabulary=vocabulary,
        pipeline={{_base_.test_pipeline}},
        datasets=dict(
            custom=dict(custom, ann_file='annotations/val.json', data_prefix=dict(img='val/'), test_mode=True))))
test_dataloader = val_dataloader
val_evaluator = dict(
    _delete_=True, type='VocabCocoMetric', dataset_name='custom', ann_file=data_root + 'annotations/val.json')
test_evaluator = val_evaluator
optim_wrapper = dict(optimizer=dict(lr=2.5e-5))  # 1e-4 for 8 images, linear
auto_scale_lr = dict(base_batch_size=2)
