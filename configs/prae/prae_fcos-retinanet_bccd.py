# PRAE ensemble of the two small detectors beside it, tested on tests/data/bccd. Small: seconds on one CPU core.
# It needs the members' checkpoints, and the calibration that prae_fcos-retinanet_bccd_fit.py makes.
_base_ = './fcos_r18-w16_1xb8-12e_bccd.py'
custom_imports = dict(imports=['mmplugins.prae'], allow_failed_imports=False)
model = dict(
    _delete_=True,
    type='EnsembleDetector',
    backbone=dict(),  # mmdet.apis.init_detector looks for one
    detectors=[
        dict(
            name='fcos',
            config='{{ fileDirname }}/fcos_r18-w16_1xb8-12e_bccd.py',
            checkpoint='work_dirs/fcos_r18-w16_1xb8-12e_bccd/epoch_12.pth'),
        dict(
            name='retinanet',
            config='{{ fileDirname }}/retinanet_r18-w16_1xb8-12e_bccd.py',
            checkpoint='work_dirs/retinanet_r18-w16_1xb8-12e_bccd/epoch_12.pth')
    ],
    classes={{_base_.metainfo.classes}},
    calibration='work_dirs/prae_fcos-retinanet_bccd/calib.json',
    fusion=dict(type='PRAEFusion'),  # as the calibration says
    share_inputs=True)  # test pipelines of both members are that of this config
# Its members are trained on their own.
train_dataloader = train_cfg = optim_wrapper = param_scheduler = auto_scale_lr = None
val_dataloader = val_cfg = val_evaluator = None
