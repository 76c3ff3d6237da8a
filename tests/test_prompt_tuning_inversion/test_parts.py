"""Reading folders, and what the parts compute, against diffusers' pipeline."""

import json
import shutil

import pytest
import torch
from mmengine.registry import MODELS

from mmplugins.prompt_tuning_inversion import DiffusionParts
from mmplugins.prompt_tuning_inversion.diffusion import identity
from mmplugins.prompt_tuning_inversion.diffusion.identity import identity_of

PROMPTS = ['a red three', '']


@pytest.fixture(scope='module')
def parts(folder) -> DiffusionParts:
    return DiffusionParts(str(folder))


@pytest.fixture
def broken(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / 'broken')


def rewrite(path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize('clip_skip', [0, 1])
def test_text_is_encoded_as_the_pipeline_does(folder, make_pipeline, clip_skip):
    parts = DiffusionParts(str(folder), clip_skip=clip_skip)
    expected, _ = make_pipeline(parts).encode_prompt(PROMPTS, 'cpu', 1, False, clip_skip=clip_skip or None)
    torch.testing.assert_close(parts.encode_text(PROMPTS), expected)
    assert expected.shape == (2, 8, 16)


def test_text_is_the_last_hidden_state(parts):
    tokens = parts.tokenizer(PROMPTS, padding='max_length', return_tensors='pt').input_ids
    expected = parts.text_encoders[0](tokens).last_hidden_state
    torch.testing.assert_close(parts.encode_text(PROMPTS), expected)
    assert expected.shape == (2, 8, 16)
    last = DiffusionParts(str(parts.folder), clip_skip=1).encode_text(PROMPTS)
    hidden = parts.text_encoders[0](tokens, output_hidden_states=True).hidden_states[-2]
    torch.testing.assert_close(last, parts.text_encoders[0].text_model.final_layer_norm(hidden))


def test_images_are_encoded_to_the_mode(parts):
    images = torch.rand(2, 3, 16, 24) * 2 - 1
    latents = parts.encode_image(images)
    assert latents.shape == (2, 4, 8, 12)
    torch.testing.assert_close(latents, 0.8 * parts.vae.encode(images).latent_dist.mean)
    torch.testing.assert_close(parts.encode_image(images), latents, rtol=0, atol=0)
    assert parts.decode(latents).abs().max() <= 1


def test_sizes(parts):
    assert (parts.vae_factor, parts.factor, parts.image_size) == (2, 2, 16)
    with pytest.raises(ValueError, match=r'multiples of 2, got \(16, 17\)'):
        parts.encode_image(torch.zeros(1, 3, 16, 17))
    with pytest.raises(ValueError, match=r'must be \(B, 3, H, W\)'):
        parts.encode_image(torch.zeros(3, 16, 16))


def test_content_mask_ends_with_the_first_end_of_text(parts):
    # begin, a, red, three, end, padding ...; begin, end, padding ...
    assert parts.content_mask(PROMPTS)[..., 0].long().tolist() == [[1] * 5 + [0] * 3, [1] * 2 + [0] * 6]


def test_long_prompts_are_cut_with_a_warning(parts):
    with pytest.warns(UserWarning, match='the model reads 8 tokens'):
        long = parts.encode_text(['a red three a red three a red three'])
    assert long.shape == (1, 8, 16)


def test_frozen_puts_everything_back(parts):
    parts.unet.train()
    parts.vae.requires_grad_(False)
    before = [(module.training) for module in parts.modules()], [p.requires_grad for p in parts.parameters()]
    with pytest.raises(RuntimeError), parts.frozen():
        assert not any(module.training for module in parts.modules())
        assert not any(parameter.requires_grad for parameter in parts.parameters())
        raise RuntimeError
    assert before == ([module.training for module in parts.modules()], [p.requires_grad for p in parts.parameters()])
    parts.eval().requires_grad_(True)


def test_identity_changes_with_weights_and_configs(parts, broken):
    assert DiffusionParts(str(broken)).identity == parts.identity
    file = broken / 'unet/diffusion_pytorch_model.safetensors'
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    changed = DiffusionParts(str(broken)).identity
    rewrite(broken / 'scheduler/scheduler_config.json', beta_end=0.013)
    assert len({parts.identity, changed, DiffusionParts(str(broken)).identity}) == 3


def test_identity_sees_a_weight_in_the_middle_of_a_large_file(tmp_path):
    (tmp_path / 'model/unet').mkdir(parents=True)
    file, notes = tmp_path / 'model/unet/weights.bin', tmp_path / 'notes.json'
    content = bytearray(5 << 20)
    file.write_bytes(content)
    before = identity_of([tmp_path / 'model'], notes=notes)
    content[len(content) // 2] = 1
    file.write_bytes(content)
    assert identity_of([tmp_path / 'model'], notes=notes) != before


def test_identity_reads_a_file_once(tmp_path, monkeypatch):
    (tmp_path / 'model/unet').mkdir(parents=True)
    (tmp_path / 'model/unet/weights.bin').write_bytes(b'weights')
    before = identity_of([tmp_path / 'model'], notes=tmp_path / 'notes.json')
    monkeypatch.setattr(identity, 'digest_of', lambda path: pytest.fail(f'{path} was read again'))
    assert identity_of([tmp_path / 'model'], notes=tmp_path / 'notes.json') == before


def test_identity_without_a_place_for_notes(tmp_path):
    (tmp_path / 'model/unet').mkdir(parents=True)
    (tmp_path / 'model/unet/weights.bin').write_bytes(b'weights')
    (tmp_path / 'file').write_text('no folder')
    found = identity_of([tmp_path / 'model'], notes=tmp_path / 'file/notes.json')
    assert found == identity_of([tmp_path / 'model'], notes=tmp_path / 'notes.json')


@pytest.mark.parametrize('part', ['tokenizer', 'text_encoder', 'vae', 'unet', 'scheduler'])
def test_missing_part(broken, part):
    shutil.rmtree(broken / part)
    with pytest.raises(FileNotFoundError, match=f'has no {part.replace("_", " ")}: the folder {part}/ is missing'):
        DiffusionParts(str(broken))


def test_other_faults_of_a_folder(broken, tmp_path):
    with pytest.raises(FileNotFoundError, match='no diffusers folder .*nowhere'):
        DiffusionParts(str(tmp_path / 'nowhere'))
    with pytest.raises(ValueError, match="not of arch 'sd1': its embeddings are 16 wide, not 768"):
        DiffusionParts(str(broken), arch='sd1')
    (broken / 'unet/config.json').write_text('{')
    with pytest.raises(ValueError, match='config.json is not JSON'):
        DiffusionParts(str(broken))
    (broken / 'model_index.json').unlink()
    with pytest.raises(FileNotFoundError, match='model_index.json is missing'):
        DiffusionParts(str(broken))


@pytest.mark.parametrize('options', [dict(dtype='int8'), dict(arch='sd3')], ids=['dtype', 'arch'])
def test_wrong_options(folder, options):
    with pytest.raises(ValueError, match=f'{next(iter(options))} must be one of'):
        DiffusionParts(str(folder), **options)


@pytest.mark.slow
@pytest.mark.parametrize(('arch', 'numbers'), [('sd1', 859_520_964), ('sd2', 865_910_724), ('sdxl', 2_567_463_684)])
def test_config_without_its_folder_can_be_looked_at_but_not_used(arch, numbers):
    # The numbers of weights are those of the published UNets.
    config = dict(type='DiffusionParts', pretrained='/nowhere/sd', arch=arch)
    model = MODELS.build(dict(type='PromptTuningInversion', parts=config))
    assert sum(parameter.numel() for parameter in model.parameters()) == numbers
    with pytest.raises(FileNotFoundError, match='no diffusers folder /nowhere/sd: name one'):
        model.to('cpu')


def test_half_precision_stays_out_of_embeddings_and_latents(folder):
    parts = DiffusionParts(str(folder), dtype='bf16')
    assert parts.unet.dtype == parts.text_encoders[0].dtype == torch.bfloat16
    assert parts.vae.dtype == torch.float32
    embeds = parts.encode_text(PROMPTS)
    latents = parts.encode_image(torch.zeros(2, 3, 16, 16))
    assert embeds.dtype == latents.dtype == parts.predict(latents, torch.tensor(5), embeds).dtype == torch.float32
