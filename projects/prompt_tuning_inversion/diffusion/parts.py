"""The frozen parts of a Stable Diffusion 1.x or 2.x folder: tokenizer, text encoder, autoencoder, UNet.

The parts are held one by one and not as a diffusers pipeline: two loops over a UNet need none of it, and pipelines
change from release to release. ``B`` images, ``L`` tokens of ``D`` numbers, latents ``(B, C, H/f, W/f)``.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..extras import require
from .folder import SKELETONS, check_folder, resolve
from .identity import identity_of
from .memory import recomputed, return_freed_memory
from .unprompted import evaluated_once, unprompted_modules

DTYPES = {'fp32': torch.float32, 'fp16': torch.float16, 'bf16': torch.bfloat16}


@MODELS.register_module()
class DiffusionParts(BaseModule):
    """Parts of a diffusers folder, read from the disk only.

    Where the folder is not there but ``arch`` is given, the UNet is built without memory (on the meta device), so that
    a config can be looked at; moving or using such a model is an error that says which folder is missing.

    Args:
        pretrained: A diffusers folder, or ``'tiny'`` for the one in this package.
        arch: ``'sd1'`` or ``'sd2'``: what the folder must hold; default: not checked.
        dtype: Of UNet and text encoder: ``'fp32'``, ``'fp16'`` or ``'bf16'``. The autoencoder, the embeddings that are
            tuned and all sums stay in float32: tuning in pure float16 gives black pictures.
        low_mem: Recompute the UNet's activations in the backward pass, keep autoencoder and text encoder on the CPU
            while they are not in use, and have freed memory go back to the system (of the whole process, with glibc).
        clip_skip: How many of the last layers of the text encoder to leave out.

    Raises:
        FileNotFoundError: No such folder, or a part of it is missing.
        ValueError: The folder is of another kind (SDXL, SD 3, Flux, inpainting), or another ``arch`` or ``dtype``.
    """

    def __init__(
        self,
        pretrained: str = 'tiny',
        arch: str | None = None,
        dtype: str = 'fp32',
        low_mem: bool = False,
        clip_skip: int = 0,
    ) -> None:
        super().__init__()
        if dtype not in DTYPES:
            raise ValueError(f'dtype must be one of {tuple(DTYPES)}, got {dtype!r}')
        if arch is not None and arch not in SKELETONS:
            raise ValueError(f'arch must be one of {tuple(SKELETONS)}, got {arch!r}')
        self.folder = resolve(pretrained)
        self.dtype_name, self.compute_dtype = dtype, DTYPES[dtype]
        self.low_mem, self.clip_skip = low_mem, clip_skip
        self.missing = arch is not None and not self.folder.is_dir()
        if self.missing:
            with torch.device('meta'):
                self.unet = require('diffusers').UNet2DConditionModel(**SKELETONS[arch])
            return
        self._load(check_folder(self.folder, arch))

    def _load(self, scheduler: dict) -> None:
        """Read the parts, to the CPU."""
        diffusers, transformers = require('diffusers'), require('transformers')
        if self.low_mem:
            return_freed_memory()
        options = dict(local_files_only=True, low_cpu_mem_usage=False)
        self.tokenizer = transformers.CLIPTokenizer.from_pretrained(self.folder / 'tokenizer', local_files_only=True)
        self.text_encoder = transformers.CLIPTextModel.from_pretrained(
            self.folder / 'text_encoder', dtype=self.compute_dtype, local_files_only=True
        )
        self.unet = diffusers.UNet2DConditionModel.from_pretrained(
            self.folder / 'unet', torch_dtype=self.compute_dtype, **options
        )
        self.vae = diffusers.AutoencoderKL.from_pretrained(self.folder / 'vae', torch_dtype=torch.float32, **options)
        self.scheduler_config = scheduler
        self.eval()

    @functools.cached_property
    def identity(self) -> str:
        """A hash of configs and weights of the folder, by which a cache tells models apart."""
        return identity_of(self.folder)

    def _apply(self, *args, **kwargs) -> nn.Module:
        """Refuse to move a model whose weights are not there."""
        if self.missing:
            raise FileNotFoundError(
                f'no diffusers folder {self.folder}: name one that holds the weights (model.parts.pretrained in the '
                'config, --model on the command line)'
            )
        return super()._apply(*args, **kwargs)

    @property
    def device(self) -> torch.device:
        """Where the UNet is."""
        return next(self.unet.parameters()).device

    @property
    def factor(self) -> int:
        """Height and width of images must be multiples of this: downscaling of the autoencoder and the UNet."""
        return self.vae_factor * 2 ** (len(self.unet.config.block_out_channels) - 1)

    @property
    def vae_factor(self) -> int:
        """Pixels of an image a pixel of its latents, along a side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def image_size(self) -> int:
        """Side in pixels of the images that the model was trained on."""
        size = self.unet.config.sample_size
        return (max(size) if isinstance(size, (tuple, list)) else size) * self.vae_factor

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Evaluation mode, no gradients for weights, with ``low_mem`` no activations kept; then all is as before."""
        with frozen(self), recomputed(self.unet) if self.low_mem else nullcontext():
            yield

    def fixed_latents(self) -> AbstractContextManager[None]:
        """For predictions that differ in their embeddings alone: what comes before the prompt is evaluated once.

        With ``low_mem`` it is not, as its results would have to be kept.
        """
        return nullcontext() if self.low_mem else evaluated_once(unprompted_modules(self.unet))

    @contextmanager
    def visiting(self, module: nn.Module) -> Iterator[torch.device]:
        """Have a module frozen and on the device of the UNet; with ``low_mem`` it goes to the CPU afterwards."""
        with ExitStack() as stack:
            # PyTorch's kernels for weights with and without gradients differ in the last bit.
            stack.enter_context(frozen(module))
            if self.low_mem:
                module.to(self.device)
                stack.callback(module.to, 'cpu')
            yield self.device

    def tokenize(self, prompts: Sequence[str]) -> Mapping[str, Tensor]:
        """Token numbers and attention mask, ``(B, L)`` each; what does not fit is cut off, with a warning."""
        length = min(self.tokenizer.model_max_length, self.text_encoder.config.max_position_embeddings)
        options = dict(padding='max_length', max_length=length, truncation=True, return_tensors='pt')
        for prompt in prompts:
            if len(self.tokenizer(prompt).input_ids) > length:
                warnings.warn(
                    f'the model reads {length} tokens; the end of this prompt is cut: {prompt!r}', stacklevel=3
                )
        return self.tokenizer(list(prompts), **options)

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Embeddings ``(B, L, D)``, float32: the whole last hidden state, as diffusers' pipelines take it."""
        tokens = self.tokenize(prompts)
        with self.visiting(self.text_encoder) as device:
            masked = getattr(self.text_encoder.config, 'use_attention_mask', False)
            output = self.text_encoder(
                tokens.input_ids.to(device),
                attention_mask=tokens.attention_mask.to(device) if masked else None,
                output_hidden_states=True,
            )
            if not self.clip_skip:
                return output.last_hidden_state.float()
            layer = output.hidden_states[-1 - self.clip_skip]
            return self.text_encoder.text_model.final_layer_norm(layer).float()

    def content_mask(self, prompts: Sequence[str]) -> Tensor:
        """``(B, L, 1)``, true up to the first end-of-text token of each prompt."""
        ends = self.tokenize(prompts).input_ids == self.tokenizer.eos_token_id
        # Padding is often the same token: what lies behind the first of them has one before it.
        return (ends.long().cumsum(1) - ends.long() == 0).unsqueeze(-1).to(self.device)

    @torch.no_grad()
    def encode_image(self, images: Tensor) -> Tensor:
        """Images ``(B, 3, H, W)`` in [-1, 1] to latents ``(B, C, H/f, W/f)``, float32: the mode of the posterior.

        Raises:
            ValueError: The sides are no multiples of ``factor``.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f'images must be (B, 3, H, W), got {tuple(images.shape)}')
        if any(side % self.factor for side in images.shape[2:]):
            raise ValueError(f'sides must be multiples of {self.factor}, got {tuple(images.shape[2:])}')
        with self.visiting(self.vae) as device:
            latents = self.vae.encode(images.to(device).float()).latent_dist.mode() * self.vae.config.scaling_factor
            return latents.contiguous()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents ``(B, C, H/f, W/f)`` to images ``(B, 3, H, W)`` in [-1, 1], float32."""
        with self.visiting(self.vae) as device:
            return self.vae.decode(latents.to(device).float() / self.vae.config.scaling_factor).sample.clamp(-1, 1)

    def predict(self, latents: Tensor, timestep: Tensor, embeds: Tensor) -> Tensor:
        """Output of the UNet, float32, for latents ``(B, C, H/f, W/f)`` and embeddings ``(B, L, D)``."""
        dtype = self.compute_dtype
        return self.unet(latents.to(dtype), timestep, encoder_hidden_states=embeds.to(dtype)).sample.float()


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients for the weights of a network; both are put back as they were."""
    modes = [(module, module.training) for module in network.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
    try:
        network.eval().requires_grad_(False)
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
