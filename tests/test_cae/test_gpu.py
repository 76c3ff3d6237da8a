"""CAE and CAE v2 on CUDA beside the CPU."""

from functools import partial

import pytest

from mmplugins.cae.layers import CAEEncoderLayer

both = pytest.mark.parametrize('version', [1, 2])


def build(small_model, version):
    """A model whose target are pixels: gradients, the small CAE v2's own target, have bins that jump."""
    if version == 1:
        return small_model(1)
    pixels = dict(type='PixelTarget', patch_size=8)
    return small_model(2, target_generator=pixels, neck=dict(num_classes=192), head=dict(with_cls=False))


@pytest.fixture
def losses(small_batch):
    """Return the losses of a model on one batch, on whichever device."""
    images, samples = small_batch()

    def losses(model, device):
        return model.loss(images.to(device), [sample.to(device) for sample in samples])

    return losses


@both
def test_float32_is_that_of_the_cpu(parity, device, small_model, losses, version):
    parity.check_step(build(small_model, version), losses, device)


@both
def test_half_precision_is_finite(parity, device, small_model, losses, version):
    parity.check_half(build(small_model, version), losses, device)


@pytest.mark.slow
def test_compiled(parity, device):
    layer = CAEEncoderLayer(48, num_heads=4, feedforward_channels=96)
    parity.check_compiled(layer, partial(parity.look, shape=(2, 16, 48)), device)


@both
def test_a_step_does_not_wait(parity, device, small_model, small_batch, version):
    """How many patches are masked is counted by the preprocessor, while the masks are with the host."""
    model = build(small_model, version).to(device)
    images, samples = small_batch()
    data = model.data_preprocessor(dict(inputs=images, data_samples=samples), True)

    def step():
        sum(model.loss(data['inputs'], data['data_samples']).values()).backward()

    step()
    with parity.no_host_sync(device):
        step()
