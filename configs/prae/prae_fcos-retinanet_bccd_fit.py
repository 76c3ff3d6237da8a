# Fit the curves of prae_fcos-retinanet_bccd.py: `mim test` on this config writes the calibration file.
# The curves are fitted on the images that the members were trained on, because tests/data/bccd has no third part. There a
# detector is surer than on new images: good enough to show the way, not for results. Use images it was not trained on.
_base_ = './prae_fcos-retinanet_bccd.py'
model = dict(calibration=None, fusion=None)  # unfused: the metric needs every member's own boxes
test_dataloader = dict(dataset=dict(ann_file='annotations/all_train.json', data_prefix=dict(img='train/')))
test_evaluator = dict(
    _delete_=True,
    type='PRAEFitMetric',
    ann_file='{{ fileDirname }}/../../tests/data/bccd/annotations/all_train.json',
    out_file='work_dirs/prae_fcos-retinanet_bccd/calib.json',
    names=['fcos', 'retinanet'])
