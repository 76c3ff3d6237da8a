# DS-Net-S with inter-scale alignment (23.0 M parameters) on ImageNet-1k: 8 GPUs x 128 images, 300 epochs. Recipe of the
# public PyTorch code. Not run by us.
_base_ = './dsnet-tiny_8xb128-300e_in1k.py'
model = dict(backbone=dict(arch='small'))
