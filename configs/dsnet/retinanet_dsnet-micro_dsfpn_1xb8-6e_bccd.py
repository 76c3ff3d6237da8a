# As the small RetinaNet with FPN beside it, with DS-FPN. Small: 1 process x 8 images, 6 epochs, about one minute on
# one CPU core.
_base_ = './retinanet_dsnet-micro_fpn_1xb8-6e_bccd.py'
model = dict(neck=dict(type='DSFPN', head_dim=8))
