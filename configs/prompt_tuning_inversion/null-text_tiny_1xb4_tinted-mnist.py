# Null-text inversion with the tiny model, for comparison with pti_tiny_1xb4_tinted-mnist.py. Small: as there.
_base_ = './pti_tiny_1xb4_tinted-mnist.py'

model = dict(type='NullTextInversionEditor')
