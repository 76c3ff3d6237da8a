"""Models as people have them: each edits, as diffusers' own pipeline samples, or says why not."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from mmplugins.prompt_tuning_inversion import DiffusionParts, LoadEditImage, PromptTuningInversion
from mmplugins.prompt_tuning_inversion.__main__ import main
from mmplugins.prompt_tuning_inversion.attention_control import spans_of
from mmplugins.prompt_tuning_inversion.diffusion.folder import variant_of

PROMPT = ['a red three']
LAYER = 'mid_block.attentions.0.transformer_blocks.0.attn2.to_k'
EDITS = 'edits'


def editor_of(parts: DiffusionParts, **kwargs) -> PromptTuningInversion:
    return PromptTuningInversion(parts, **{**dict(num_steps=2, guidance=3.0, inner_steps=1, early_stop=None), **kwargs})


class Models:
    """Makes models in a folder; each method returns the arguments of ``DiffusionParts``."""

    def __init__(self, make: Callable, folder: Path) -> None:
        self.make, self.folder = make, folder

    def pipeline(self, kind: str = '', **kwargs) -> dict:
        """A pipeline object, of another class with the same parts where ``kind`` says so."""
        import diffusers

        made = self.make(**kwargs)
        return dict(pretrained=getattr(diffusers, kind)(**made.components) if kind else made)

    def saved(self, index: dict | None = None, half: bool = False, dtype: str = 'fp32', **kwargs) -> dict:
        """A folder: how it is saved, and changes to ``model_index.json``."""
        names = ('variant', 'max_shard_size', 'safe_serialization')
        saving = {name: kwargs.pop(name) for name in names if name in kwargs}
        pipeline = self.make(**kwargs)
        (pipeline.to(torch.float16) if half else pipeline).save_pretrained(self.folder / 'model', **saving)
        path = self.folder / 'model/model_index.json'
        path.write_text(json.dumps({**json.loads(path.read_text()), **(index or {})}))
        return dict(pretrained=str(self.folder / 'model'), dtype=dtype)

    def scheduled(self, kind: str, **config) -> dict:
        """A folder with another scheduler."""
        import diffusers

        pipeline = self.make()
        known = {} if kind.startswith(('Flow', 'EDM')) else pipeline.scheduler.config
        pipeline.scheduler = getattr(diffusers, kind).from_config({**known, **config})
        pipeline.save_pretrained(self.folder / 'model')
        return dict(pretrained=str(self.folder / 'model'))

    def single_file(self, config: bool = True) -> dict:
        """A file as the first programs wrote it."""
        from safetensors.torch import save_file

        pipeline = self.make()
        pipeline.save_pretrained(self.folder / 'family')
        save_file(original_names(pipeline), self.folder / 'model.safetensors')
        family = dict(config=str(self.folder / 'family')) if config else {}
        return dict(pretrained=str(self.folder / 'model.safetensors'), **family)

    def with_lora(self, **kwargs) -> dict:
        """A folder and a LoRA file."""
        pytest.importorskip('peft', reason='needs pip install -e ".[lora]"')
        pipeline = self.make()
        torch.manual_seed(1)
        layer = pipeline.unet.get_submodule(LAYER)
        weights = {f'{LAYER}.lora_A.weight': torch.randn(2, layer.in_features)}
        weights[f'{LAYER}.lora_B.weight'] = torch.randn(layer.out_features, 2)
        pipeline.save_lora_weights(self.folder, unet_lora_layers=weights, weight_name='style.safetensors')
        return dict(self.saved(), lora=str(self.folder / 'style.safetensors'), **kwargs)

    def with_word(self, family: str = 'sd') -> dict:
        """A folder and a learned word of two vectors."""
        from safetensors.torch import save_file

        path = self.folder / 'sparkle.safetensors'
        keys = ('emb_params',) if family == 'sd' else ('clip_l', 'clip_g')
        save_file({key: torch.randn(2, 16) for key in keys}, path)
        return dict(self.saved(family=family), textual_inversion=[str(path)])


def original_names(pipeline) -> dict[str, torch.Tensor]:
    """Weights by the names of Stable Diffusion's first code, written down from its modules."""
    found = {f'cond_stage_model.transformer.{key}': value for key, value in pipeline.text_encoder.state_dict().items()}
    block = [('norm1', 'in_layers.0'), ('conv1', 'in_layers.2'), ('time_emb_proj', 'emb_layers.1'),
             ('norm2', 'out_layers.0'), ('conv2', 'out_layers.3'), ('conv_shortcut', 'skip_connection')]  # fmt: skip
    unet = [('time_embedding.linear_1', 'time_embed.0'), ('time_embedding.linear_2', 'time_embed.2'),
            ('conv_in', 'input_blocks.0.0'), ('conv_norm_out', 'out.0'), ('conv_out', 'out.2'),
            ('down_blocks.0.resnets.0', 'input_blocks.1.0'), ('mid_block.resnets.0', 'middle_block.0'),
            ('mid_block.attentions.0', 'middle_block.1'), ('mid_block.resnets.1', 'middle_block.2'),
            ('up_blocks.0.resnets.0', 'output_blocks.0.0'), ('up_blocks.0.resnets.1', 'output_blocks.1.0')]  # fmt: skip
    for key, value in pipeline.unet.state_dict().items():
        name = functools.reduce(lambda name, pair: re.sub(rf'^{pair[0]}(?=\.)', pair[1], name), unet, key)
        if 'resnets' in key:
            name = functools.reduce(lambda name, pair: name.replace(f'.{pair[0]}.', f'.{pair[1]}.'), block, name)
        found[f'model.diffusion_model.{name}'] = value
    levels = len(pipeline.vae.config.block_out_channels)
    attention = dict(group_norm='norm', to_q='q', to_k='k', to_v='v', **{'to_out.0': 'proj_out'})
    for key, value in pipeline.vae.state_dict().items():
        name = re.sub(r'down_blocks\.(\d)\.resnets', r'down.\1.block', key)
        name = re.sub(r'down_blocks\.(\d)\.downsamplers\.0', r'down.\1.downsample', name)
        name = re.sub(r'up_blocks\.(\d)\.resnets', lambda found: f'up.{levels - 1 - int(found[1])}.block', name)
        name = re.sub(
            r'up_blocks\.(\d)\.upsamplers\.0', lambda found: f'up.{levels - 1 - int(found[1])}.upsample', name
        )
        name = re.sub(r'mid_block\.resnets\.(\d)', lambda found: f'mid.block_{int(found[1]) + 1}', name)
        name = name.replace('mid_block.attentions.0', 'mid.attn_1').replace('conv_norm_out', 'norm_out')
        name = name.replace('conv_shortcut', 'nin_shortcut')
        if 'attn_1' in name:
            name = functools.reduce(
                lambda name, pair: name.replace(f'.{pair[0]}.', f'.{pair[1]}.'), attention.items(), name
            )
            value = value[..., None, None] if value.ndim == 2 else value
        found[f'first_stage_model.{name}'] = value
    return {key: value.contiguous() for key, value in found.items()}


# What a model is: how it is made, and what it does or says.
TABLE = {
    'SD 1.x folder': (lambda m: m.saved(), EDITS),
    'SD 2.x folder, noise': (lambda m: m.saved(use_linear_projection=True), EDITS),
    'SD 2.x folder, v-prediction': (lambda m: m.saved(prediction_type='v_prediction'), EDITS),
    'SDXL folder (two text encoders, pooled embedding, sizes)': (lambda m: m.saved(family='sdxl'), EDITS),
    'pipeline object, SD': (lambda m: m.pipeline(), EDITS),
    'pipeline object, SDXL': (lambda m: m.pipeline(family='sdxl'), EDITS),
    'pipeline object, image to image': (lambda m: m.pipeline('StableDiffusionImg2ImgPipeline'), EDITS),
    'weights in bfloat16': (lambda m: m.saved(dtype='bf16'), EDITS),
    'weights in float16': (lambda m: m.saved(dtype='fp16'), EDITS),
    'folder of `*.fp16.safetensors`': (lambda m: m.saved(half=True, variant='fp16'), EDITS),
    'folder of shards': (lambda m: m.saved(max_shard_size='20KB'), EDITS),
    'folder of shards of `fp16`': (lambda m: m.saved(half=True, variant='fp16', max_shard_size='20KB'), EDITS),
    'folder of `*.bin`': (lambda m: m.saved(safe_serialization=False), EDITS),
    'single file, with `config`': (lambda m: m.single_file(), EDITS),
    'single file alone': (lambda m: m.single_file(config=False), 'is a single file, which holds weights alone'),
    'LoRA file': (lambda m: m.with_lora(), EDITS),
    'textual inversion, SD': (lambda m: m.with_word(), EDITS),
    'textual inversion, SDXL': (lambda m: m.with_word('sdxl'), EDITS),
    'scheduler: DDPM': (lambda m: m.scheduled('DDPMScheduler'), EDITS),
    'scheduler: Euler': (lambda m: m.scheduled('EulerDiscreteScheduler', use_karras_sigmas=True), EDITS),
    'scheduler: DPM-Solver++': (lambda m: m.scheduled('DPMSolverMultistepScheduler'), EDITS),
    'scheduler: no signal at the end': (
        lambda m: m.scheduled('DDIMScheduler', rescale_betas_zero_snr=True, timestep_spacing='trailing'),
        'has no signal',
    ),
    'scheduler: Euler, continuous times': (
        lambda m: m.scheduled('EulerDiscreteScheduler', timestep_type='continuous'), 'is not on an alpha schedule'
    ),
    'scheduler: flow matching': (
        lambda m: m.scheduled('FlowMatchEulerDiscreteScheduler'), 'is not on an alpha schedule'
    ),
    'inpainting UNet': (lambda m: m.saved(in_channels=9), 'takes 9 channels, its latents have 4'),
    'pipeline object, inpainting UNet': (lambda m: m.pipeline(in_channels=9), 'takes 9 channels, its latents have 4'),
    'distilled UNet (LCM)': (lambda m: m.pipeline(time_cond_proj_dim=8), 'it is distilled to few steps'),
    'UNet of images (IP-Adapter)': (
        lambda m: m.pipeline(encoder_hid_dim_type='text_proj', encoder_hid_dim=16), 'wants the embedding of an image'
    ),
    'SDXL refiner': (
        lambda m: m.saved(family='sdxl', index=dict(text_encoder=[None, None])), 'is the refiner of SDXL'
    ),
    'ControlNet': (lambda m: m.saved(index=dict(controlnet=['a', 'b'])), 'has a ControlNet'),
    'SD 3': (
        lambda m: m.saved(index=dict(_class_name='StableDiffusion3Pipeline', transformer=['a', 'b'])),
        'is of the kind StableDiffusion3Pipeline',
    ),
    'Flux': (lambda m: m.saved(index=dict(_class_name='FluxPipeline')), 'is of the kind FluxPipeline'),
}  # fmt: skip


@pytest.fixture
def models(tiny_pipeline, tmp_path) -> Models:
    return Models(tiny_pipeline, tmp_path)


@pytest.mark.parametrize('name', TABLE)
def test_edits_as_the_pipeline_samples_or_says_why_not(name, models):
    import diffusers

    make, answer = TABLE[name]
    made = make(models)
    if answer != EDITS:
        with pytest.raises(ValueError, match=answer):
            editor_of(DiffusionParts(**made))
        return
    parts = DiffusionParts(**made)
    editor = editor_of(parts)
    inversion = editor.invert(torch.rand(1, 3, 16, 24) * 2 - 1, PROMPT)
    edited = editor.edit(inversion, PROMPT, 0.7)
    assert edited.shape == (1, 3, 16, 24) and edited.isfinite().all()
    kind = diffusers.StableDiffusionXLPipeline if parts.pooled else diffusers.StableDiffusionPipeline
    theirs = kind(**parts.pipeline.components)
    theirs.scheduler = diffusers.DDIMScheduler.from_config(parts.scheduler_config, clip_sample=False)
    theirs.set_progress_bar_config(disable=True)
    options = dict(num_inference_steps=2, guidance_scale=3.0, output_type='latent', height=16, width=24)
    expected = theirs(PROMPT, latents=inversion.noise.to(parts.unet.dtype), **options).images.float()
    close = dict(rtol=1e-3, atol=1e-3) if parts.dtype_name == 'fp32' else dict(rtol=0.1, atol=0.1)
    torch.testing.assert_close(editor.edit_latents(inversion, PROMPT, 1.0), expected, **close)


def test_the_table_of_the_documentation(repo):
    text = (repo / 'projects/prompt_tuning_inversion/DETAILS.md').read_text()
    for name, (_, answer) in TABLE.items():
        assert f'| {name} | {answer if answer == EDITS else f"refused: {answer}"} |' in text


@pytest.mark.parametrize(
    ('names', 'variant'),
    [
        (['diffusion_pytorch_model.safetensors', 'diffusion_pytorch_model.fp16.safetensors'], None),
        (['diffusion_pytorch_model.fp16.safetensors', 'diffusion_pytorch_model.non_ema.safetensors'], 'fp16'),
        (['diffusion_pytorch_model-00001-of-00002.safetensors'], None),
        (['diffusion_pytorch_model.fp16-00001-of-00002.safetensors'], 'fp16'),
        (['diffusion_pytorch_model-00001-of-00002.fp16.safetensors'], 'fp16'),
        (['diffusion_pytorch_model.bin'], None),
        ([], None),
    ],
)
def test_variants_are_told_by_the_names_of_weights(tmp_path, names, variant):
    (tmp_path / 'unet').mkdir()
    for name in names:
        (tmp_path / 'unet' / name).touch()
    assert variant_of(tmp_path) == variant


def test_a_single_file_has_the_weights(models):
    made = models.single_file()
    found, expected = DiffusionParts(**made), DiffusionParts(made['config'])
    for name, value in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name


@pytest.mark.parametrize('scale', [1.0, 0.5])
def test_a_lora_is_added_to_the_weights(models, scale):
    from safetensors.torch import load_file

    made = models.with_lora(lora_scale=scale)
    low = load_file(made['lora'])
    found, plain = DiffusionParts(**made), DiffusionParts(made['pretrained'])
    added = scale * low[f'unet.{LAYER}.lora_B.weight'] @ low[f'unet.{LAYER}.lora_A.weight']
    for name, value in plain.state_dict().items():
        expected = value + added if name == f'unet.{LAYER}.weight' else value
        torch.testing.assert_close(found.state_dict()[name], expected)
    other = DiffusionParts(**{**made, 'lora_scale': 0.3})
    assert len({found.identity, plain.identity, other.identity}) == 3


@pytest.mark.filterwarnings('ignore:the model reads 8 tokens')  # of the model without the word
@pytest.mark.parametrize('family', ['sd', 'sdxl'])
def test_a_word_stands_for_its_vectors(models, family):
    from safetensors.torch import load_file

    made = models.with_word(family)
    parts, plain = DiffusionParts(**made), DiffusionParts(made['pretrained'])
    vectors = load_file(made['textual_inversion'][0])
    for encoder, key in zip(parts.text_encoders, sorted(vectors, reverse=True), strict=True):
        assert torch.equal(encoder.get_input_embeddings().weight[-2:], vectors[key])
    # begin, a, both vectors, end
    assert parts.content_mask(['a sparkle'])[0, :8, 0].long().tolist() == [1] * 5 + [0] * 3
    assert not torch.equal(parts.encode_text(['a sparkle']), plain.encode_text(['a sparkle']))
    assert torch.equal(parts.encode_text(['a red one']), plain.encode_text(['a red one']))
    assert parts.identity != plain.identity
    spans = spans_of(parts, 'a sparkle red')
    assert spans[:2] == [('a', (1, 2)), ('sparkle', (2, 4))] and spans[2][1][0] == 4


def test_sdxl_rows_are_both_encoders_and_the_pooled_embedding(tiny_pipeline):
    pipeline = tiny_pipeline('sdxl')
    parts = DiffusionParts(pipeline)
    tokens = [tokenizer(PROMPT, padding='max_length', return_tensors='pt').input_ids
              for tokenizer in (pipeline.tokenizer, pipeline.tokenizer_2)]  # fmt: skip
    first = pipeline.text_encoder(tokens[0], output_hidden_states=True)
    second = pipeline.text_encoder_2(tokens[1], output_hidden_states=True)
    embeds = parts.encode_text([*PROMPT, ''])
    assert embeds.shape == (2, 9, 32)
    both = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
    torch.testing.assert_close(embeds[:1, :-1], both)
    torch.testing.assert_close(embeds[:1, -1], torch.cat([second.text_embeds, torch.zeros(1, 16)], dim=-1))
    assert not embeds[1].any()  # the empty prompt of SDXL
    assert parts.content_mask(PROMPT)[0, :, 0].long().tolist() == [1] * 5 + [0] * 3 + [1]


@pytest.mark.parametrize('low_mem', [False, True])
def test_sdxl_repeats_the_reconstruction_and_tunes_both_rows(tiny_pipeline, low_mem):
    editor = editor_of(DiffusionParts(tiny_pipeline('sdxl'), low_mem=low_mem), inner_steps=3)
    inversion = editor.invert(torch.rand(2, 3, 16, 16) * 2 - 1, ['a', 'b'])
    assert torch.equal(editor.edit(inversion, ['a', 'b'], 0.0), editor.reconstruct(inversion))
    assert (inversion.losses[:, 1] < inversion.losses[:, 0]).all()
    tokens, pooled = inversion.embeds[..., :-1, :], inversion.embeds[..., -1, :]
    assert tokens.any() and pooled[..., :16].any() and not pooled[..., 16:].any()


def test_a_pipeline_stays_as_it_is(tiny_pipeline):
    pipeline = tiny_pipeline().to(torch.float16)
    before = {name: value.clone() for name, value in pipeline.unet.state_dict().items()}
    parts = DiffusionParts(pipeline)
    editor_of(parts).invert(torch.rand(1, 3, 16, 16), PROMPT)
    assert (parts.dtype_name, parts.vae.dtype, pipeline.vae.dtype) == ('fp16', torch.float32, torch.float16)
    assert all(torch.equal(value, before[name]) for name, value in pipeline.unet.state_dict().items())
    with pytest.raises(ValueError, match='the pipeline is in fp16, not in bf16'):
        DiffusionParts(pipeline, dtype='bf16')
    with pytest.raises(ValueError, match='a pipeline comes with its LoRA'):
        DiffusionParts(pipeline, lora='style.safetensors')
    pipeline.unet._hf_hook = object()  # as accelerate's offloading leaves it
    with pytest.raises(ValueError, match='moves its parts by itself'):
        DiffusionParts(pipeline)


def test_identity_of_a_pipeline_is_that_of_its_weights(tiny_pipeline):
    first, same, other = (DiffusionParts(tiny_pipeline()) for _ in range(3))
    next(other.unet.parameters()).data.view(-1)[0] += 1
    assert first.identity == same.identity != other.identity
    assert DiffusionParts(tiny_pipeline(prediction_type='v_prediction')).identity != first.identity


@pytest.mark.slow
@pytest.mark.parametrize('make', [Models.single_file, Models.with_lora, Models.with_word], ids=['file', 'LoRA', 'word'])
def test_the_command_takes_them(make, models, tmp_path):
    Image.new('RGB', (16, 16), 'red').save(tmp_path / 'photo.png')
    made = make(models)
    if 'lora' in made:
        made['lora_scale'] = 0.5
    flags = {'--' + name.replace('_', '-').replace('pretrained', 'model'): value for name, value in made.items()}
    given = [part for flag, value in flags.items() for part in (flag, *(value if isinstance(value, list) else [value]))]
    fast = ['--steps', '2', '--inner', '1', '--eta', '0.5', '--out', tmp_path / 'out']
    args = ['edit', '--image', tmp_path / 'photo.png', '--prompt', 'a red sparkle', *given, *fast]
    assert main([str(arg) for arg in args]) == 0
    assert json.loads((tmp_path / 'out/report.json').read_text())['updates'] == 2


def save_exif(path: Path) -> None:
    image, exif = Image.new('RGB', (37, 21), 'red'), Image.Exif()
    exif[0x0112] = 6  # a camera on its side
    image.save(path, exif=exif)


@pytest.mark.parametrize(
    ('save', 'shape'),
    [
        (lambda path: Image.new('RGB', (37, 21), 'red').save(path), (20, 36)),
        (save_exif, (36, 20)),
        (lambda path: Image.new('L', (21, 37), 90).save(path), (36, 20)),
        (lambda path: Image.new('LA', (20, 20), (90, 40)).save(path), (20, 20)),
        (lambda path: Image.new('RGBA', (20, 20), (255, 0, 0, 0)).save(path), (20, 20)),
        (lambda path: Image.new('P', (20, 20), 3).save(path), (20, 20)),
    ],
    ids=['odd size', 'EXIF', 'gray', 'gray with alpha', 'alpha', 'palette'],
)
def test_images_as_people_have_them(make_editor, tmp_path, save, shape):
    save(tmp_path / 'photo.png')
    editor = make_editor(num_steps=2, inner_steps=1)
    pair = dict(img_path=tmp_path / 'photo.png', prompt=PROMPT[0], source_prompt=None, sample_id='', edit_type='')
    image = LoadEditImage(16, editor.parts.factor, 'none')(pair)['inputs']
    assert image.shape == (3, *shape)
    edited = editor.edit(editor.invert(image[None], PROMPT), PROMPT, 0.7)
    assert edited.shape == (1, 3, *shape) and edited.isfinite().all()
