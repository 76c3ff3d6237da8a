import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmplugins.hgkd.teachers.provider import TeacherProvider

IMAGES = (2, 3, 64, 64)


def test_ln_targets_have_mean_0_and_variance_1(make_vit, make_active):
    target = TeacherProvider(make_vit(), ['layers.1'])(torch.randn(IMAGES), make_active())
    assert target.mean(dim=1).abs().max() < 1e-5
    assert (target.var(dim=1, unbiased=False) - 1).abs().max() < 1e-3


def test_l2_targets_have_length_1(make_vit, make_active):
    target = TeacherProvider(make_vit(), ['layers.1'], target_norm='l2')(torch.randn(IMAGES), make_active())
    torch.testing.assert_close(target.norm(dim=1), torch.ones(2, 4, 4))


def test_several_taps_are_normalized_one_by_one(make_vit, make_active):
    vit, images, active = make_vit(), torch.randn(IMAGES), make_active()
    both = TeacherProvider(vit, ['layers.0', 'layers.1'])(images, active)
    single = [TeacherProvider(vit, [name])(images, active) for name in ('layers.0', 'layers.1')]
    assert torch.equal(both, torch.cat(single, dim=1))


def test_input_norm(make_vit, make_active):
    """Pixels normalized for the student, turned into those of the teacher: as if they had been from the start."""
    vit, active = make_vit(), make_active()
    pixels = 255 * torch.rand(IMAGES)
    mean_s, std_s, mean_t, std_t = (torch.rand(3) * 100 + 10 for _ in range(4))

    def normalize(mean, std):
        return (pixels - mean.view(3, 1, 1)) / std.view(3, 1, 1)

    scale, shift = std_s / std_t, (mean_s - mean_t) / std_t
    got = TeacherProvider(vit, ['layers.1'], input_norm=(scale.tolist(), shift.tolist()))(
        normalize(mean_s, std_s), active
    )
    expected = TeacherProvider(vit, ['layers.1'])(normalize(mean_t, std_t), active)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-3)


def test_patch_14_sees_resized_images(make_vit, make_active):
    vit = make_vit('VisionTransformer', img_size=56, patch_size=14, out_type='raw', final_norm=False)
    images = torch.randn(2, 3, 64, 96)
    provider = TeacherProvider(vit, ['layers.1'], target_norm='none', resize_input=True, stride=16)
    target = provider(images, make_active(2, 2, 3))
    assert target.shape == (2, 32, 4, 6)
    small = F.interpolate(images, (56, 84), mode='bicubic', antialias=True)
    torch.testing.assert_close(target, vit(small)[-1][:, 1:].transpose(1, 2).reshape(2, 32, 4, 6))


def test_half_precision_images_give_float32(make_vit, make_active):
    images = torch.randn(IMAGES).half()
    target = TeacherProvider(make_vit(), ['layers.1'])(images, make_active())
    assert target.dtype == torch.float32


def test_autocast_of_the_student_does_not_reach_the_teacher(make_vit, make_active):
    provider, images, active = TeacherProvider(make_vit(), ['layers.1']), torch.randn(IMAGES), make_active()
    expected = provider(images, active)
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(provider(images, active), expected)


def test_own_autocast(make_vit, make_active):
    vit, images, active = make_vit(), torch.randn(IMAGES), make_active()
    exact = TeacherProvider(vit, ['layers.1'])(images, active)
    target = TeacherProvider(vit, ['layers.1'], autocast='bfloat16')(images, active)
    assert target.dtype == torch.float32
    assert 0 < (target - exact).abs().max() < 0.1
    with pytest.raises(ValueError, match='float16.*needs a GPU'):
        TeacherProvider(vit, ['layers.1'], autocast='float16')


def test_targets_are_detached_and_the_teacher_frozen(make_vit, make_active):
    vit = make_vit()
    vit.train()
    provider = TeacherProvider(vit, ['layers.1'])
    images = torch.randn(IMAGES, requires_grad=True)
    assert not provider(images, make_active()).requires_grad
    assert not any(module.training for module in vit.modules())
    assert not any(parameter.requires_grad for parameter in vit.parameters())


def test_copies_do_not_copy_the_teacher(make_vit, make_active):
    provider = TeacherProvider(make_vit(), ['layers.1'])
    assert copy.deepcopy(provider) is provider
    student = nn.Linear(2, 2)
    object.__setattr__(student, 'teacher', provider)
    assert copy.deepcopy(student).teacher is provider
    assert set(student.state_dict()) == {'weight', 'bias'}
    data = pickle.dumps(provider)
    assert len(data) < 200
    with pytest.raises(RuntimeError, match='no teacher'):
        pickle.loads(data)(torch.randn(IMAGES), make_active())


def test_no_hook_stays_on_the_teacher(make_vit, make_active):
    vit = make_vit()
    provider = TeacherProvider(vit, ['layers.1'])
    provider(torch.randn(IMAGES), make_active())
    assert not any(module._forward_hooks for module in vit.modules())


def test_paused_teacher_does_not_run(make_vit, make_active):
    vit = make_vit()
    calls = []
    vit.register_forward_hook(lambda *args: calls.append(1))
    provider = TeacherProvider(vit, ['layers.1'])
    provider(torch.randn(IMAGES), make_active())
    provider.paused = True
    assert provider(torch.randn(IMAGES), make_active()) is None
    assert len(calls) == 1


@pytest.mark.parametrize('times', [0, 2])
def test_tap_that_does_not_fire_once(times, make_active):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 16, 16)
            self.block = nn.Identity()

        def forward(self, images):
            x = self.conv(images)
            for _ in range(times):
                x = self.block(x)
            return x

    with pytest.raises(RuntimeError, match=f"'block' of the teacher fired {times} times"):
        TeacherProvider(Odd(), ['block'])(torch.randn(IMAGES), make_active())


def test_an_error_leaves_no_old_outputs(make_vit, make_active):
    """A pass that failed in the middle must not count for the next one."""
    provider = TeacherProvider(make_vit(), ['layers.0', 'layers.1'])
    handle = provider.teacher.layers[1].register_forward_pre_hook(lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        provider(torch.randn(IMAGES), make_active())
    handle.remove()
    assert provider(torch.randn(IMAGES), make_active()).shape == (2, 64, 4, 4)


def test_not_finite_names_the_tap(make_vit, make_active):
    vit = make_vit()
    provider = TeacherProvider(vit, ['layers.0', 'layers.1'])
    vit.layers[1].ffn.layers[1].bias[3] = float('inf')
    with pytest.raises(FloatingPointError, match="'layers.1'"):
        provider(torch.randn(IMAGES), make_active())
    for _ in range(49):
        provider(torch.randn(IMAGES), make_active())
    with pytest.raises(FloatingPointError, match="'layers.1'"):
        provider(torch.randn(IMAGES), make_active())


def test_unknown_tap_names_those_that_are_there(make_vit):
    with pytest.raises(ValueError, match=r"MAEViT has no module 'layers.11'"):
        TeacherProvider(make_vit(), ['layers.11'])
    with pytest.raises(ValueError, match=r"no module 'blocks.1'; it has \['layers.1', "):
        TeacherProvider(make_vit(), ['blocks.1'])


def test_tap_without_tokens(make_vit, make_active):
    with pytest.raises(ValueError, match=r"'flat' gives a tensor of shape \(2, 12288\)"):
        teacher = nn.Sequential()
        teacher.add_module('flat', nn.Flatten())
        TeacherProvider(teacher, ['flat'])(torch.randn(IMAGES), make_active())


@pytest.mark.parametrize('option', [dict(target_norm='bn'), dict(autocast='int8'), dict(mode='half')])
def test_bad_options(make_vit, option):
    with pytest.raises(ValueError, match=f'{next(iter(option))} must be one of'):
        TeacherProvider(make_vit(), ['layers.1'], **option)
