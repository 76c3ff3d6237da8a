"""Random tiny diffusers folders and editors on them; their weights carry no meaning. Trained ones have own tests."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

pytest.importorskip('diffusers', reason='needs pip install -e ".[pti]"')


@pytest.fixture(autouse=True)
def user_cache(tmp_path_factory, monkeypatch) -> Path:
    """The user's cache folder: one of this test."""
    folder = tmp_path_factory.mktemp('cache')
    monkeypatch.setenv('XDG_CACHE_HOME', str(folder))
    return folder / 'mmplugins/prompt_tuning_inversion'


@pytest.fixture(scope='session')
def tiny_pipeline(standins) -> Callable:
    """Return a function that makes a random pipeline of a family, with changes to its UNet's config."""
    random_pipeline = importlib.import_module(f'{standins.__name__}.pipelines').random_pipeline

    def make(family: str = 'sd', **changes):
        return random_pipeline((16, 16) if family == 'sdxl' else (16,), **changes)

    return make


@pytest.fixture(scope='session')
def make_folder(tmp_path_factory, tiny_pipeline) -> Callable[..., Path]:
    """Return a function that writes a random folder of a prediction type, once."""
    made: dict[str, Path] = {}

    def make(prediction_type: str = 'epsilon') -> Path:
        if prediction_type not in made:
            made[prediction_type] = tmp_path_factory.mktemp(prediction_type)
            tiny_pipeline(prediction_type=prediction_type).save_pretrained(made[prediction_type])
        return made[prediction_type]

    return make


@pytest.fixture(scope='session')
def folder(make_folder) -> Path:
    """A random folder that predicts noise."""
    return make_folder()


@pytest.fixture(scope='session')
def make_editor(make_folder) -> Callable:
    """Return a function that builds an editor on a random folder: 5 steps, 2 updates a step."""
    from mmengine.registry import MODELS

    def make(
        kind: str = 'PromptTuningInversion', prediction_type: str = 'epsilon', parts: dict | None = None, **kwargs
    ):
        kwargs = {'num_steps': 5, 'guidance': 3.0, **kwargs}
        if kind in ('PromptTuningInversion', 'NullTextInversionEditor'):
            kwargs = {'inner_steps': 2, 'early_stop': None, **kwargs}
        parts = dict(type='DiffusionParts', pretrained=str(make_folder(prediction_type)), **(parts or {}))
        return MODELS.build(dict(type=kind, parts=parts, **kwargs))

    return make


@pytest.fixture(scope='session')
def make_pipeline() -> Callable:
    """Return a function that makes diffusers' pipeline of an editor's parts, as an oracle."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    def make(parts):
        pipeline = StableDiffusionPipeline(
            parts.vae, *parts.text_encoders, parts.tokenizer, parts.unet,
            DDIMScheduler.from_config(parts.scheduler_config), None, None, requires_safety_checker=False,
        )  # fmt: skip
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    return make


@pytest.fixture
def images() -> torch.Tensor:
    """Two images, not square."""
    return torch.rand(2, 3, 16, 24) * 2 - 1


@pytest.fixture
def clip(tmp_path):
    """A random CLIP folder of 16 x 16 pixels, its model, its tokenizer and its image processor."""
    import transformers

    from mmplugins.prompt_tuning_inversion.tinted_digits.parts import build_tokenizer

    torch.manual_seed(1)  # with which cosines are above 0
    tokenizer = build_tokenizer()
    text = dict(vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                num_attention_heads=2, max_position_embeddings=8, eos_token_id=tokenizer.eos_token_id)  # fmt: skip
    vision = dict(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8
    )
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    model = transformers.CLIPModel(config).eval()
    model.save_pretrained(tmp_path)
    images = transformers.CLIPImageProcessor(size=dict(shortest_edge=16), crop_size=dict(height=16, width=16))
    transformers.CLIPProcessor(images, tokenizer).save_pretrained(tmp_path)
    return tmp_path, model, tokenizer, images


@pytest.fixture
def vit(tmp_path):
    """A random folder of DINO's layout, and its model."""
    import transformers

    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=224, patch_size=32
    )
    model = transformers.ViTModel(config, add_pooling_layer=False).eval()
    model.save_pretrained(tmp_path)
    return tmp_path, model
