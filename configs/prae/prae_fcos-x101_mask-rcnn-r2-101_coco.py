# PRAE ensemble of the authors' README: FCOS ResNeXt-101 (42.5 mAP) and Mask R-CNN Res2Net-101 (43.6 mAP), the released
# algorithm, COCO. Not run by us. The README fits and tests on val2017; here curves come from one half of it, made by
# `python -m mmplugins.prae split`, and are fitted by `python -m mmplugins.prae fit --preset official`: the fusion is then
# theirs, weighted boxes, IoU 0.7, weights 1:1. It needs both checkpoints of mmdet's model zoo, and 1 GPU x 1 image. The
# zoo's configs drop boxes below 0.05; copies of them with `score_thr=0.01` give the ensemble more to choose from.
_base_ = ['mmdet::_base_/datasets/coco_detection.py', 'mmdet::_base_/default_runtime.py']
custom_imports = dict(imports=['mmplugins.prae'], allow_failed_imports=False)
model = dict(
    type='EnsembleDetector',
    backbone=dict(),  # mmdet.apis.init_detector looks for one
    detectors=[
        dict(
            name='fcos_x101',
            config='mmdet::fcos/fcos_x101-64x4d_fpn_gn-head_ms-640-800-2x_coco.py',
            checkpoint='checkpoints/fcos_x101-64x4d.pth'),
        dict(
            name='mask_rcnn_r2_101',
            config='mmdet::res2net/mask-rcnn_res2net-101_fpn_2x_coco.py',
            checkpoint='checkpoints/mask-rcnn_res2net-101.pth')
    ],
    calibration='work_dirs/prae_fcos-x101_mask-rcnn-r2-101_coco/calib.json',
    fusion=dict(type='PRAEFusion'),  # as the calibration says
    share_inputs=True)  # test pipelines of both members are that of this config
test_dataloader = dict(batch_size=1, num_workers=2, dataset=dict(ann_file='annotations/instances_val2017_test.json'))
test_evaluator = dict(ann_file='data/coco/annotations/instances_val2017_test.json')
# Nothing is trained here.
train_dataloader = val_dataloader = val_evaluator = None
test_cfg = dict(type='TestLoop')
