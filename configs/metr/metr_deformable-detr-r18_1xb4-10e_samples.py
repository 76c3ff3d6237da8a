# METR on two-stage Deformable DETR, half-width ResNet-18 from scratch, on tests/data/bccd. Small: 1 process x 4 images,
# 10 epochs.
_base_ = './metr_dino-r18_1xb4-10e_samples.py'
model = dict(
    _delete_=True,
    type='DeformableMETR',
    vocabulary={{_base_.vocabulary}},
    text_bank={{_base_.model.text_bank}},
    cem={{_base_.model.cem}},
    num_categories={{_base_.model.num_categories}},
    num_queries={{_base_.model.num_queries}},
    data_preprocessor={{_base_.model.data_preprocessor}},
    backbone={{_base_.model.backbone}},
    neck={{_base_.model.neck}},
    num_feature_levels=3,
    encoder={{_base_.model.encoder}},
    decoder={{_base_.model.decoder}},
    positional_encoding=dict(num_feats=64, normalize=True, offset=-0.5),
    bbox_head={{_base_.model.bbox_head}},
    test_cfg={{_base_.model.test_cfg}})
