# Null-text inversion (arXiv 2211.09794) as its authors edit with it: the prompt alone, with the attention maps of the image
# (prompt-to-prompt, arXiv 2208.01626) for the shares of the steps of their code. 1 GPU x 1 image. Not run by us.
_base_ = './null-text_sd15_1xb1_pie-bench.py'

model = dict(attention=dict(cross=0.8, self_attention=0.4), eta=1.0)
