"""The device ``gpu:0`` and its tensors. Importing this changes torch for the whole process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

from .waits import WAITS

aten = torch.ops.aten
COPIES = {aten._to_copy.default, aten.copy_.default, aten.copy.default}
# CUDA takes an index from the CPU, and a number of no dimension wherever it computes element by element.
INDEXING = {
    aten.index.Tensor,
    aten._unsafe_index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
}


class Backend(backend_registration._DummyBackendModule):
    """What torch asks of a device's module."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        """Types of autocast."""
        return [torch.bfloat16, torch.float16]


backend_registration._setup_privateuseone_for_python_backend('gpu', backend_module=Backend())
DEVICE = torch.device('gpu:0')


class GPUTensor(Tensor):
    """A tensor that says that it is on the device, and holds one of the CPU.

    Args:
        inner: What it holds; memory is shared.
    """

    # Operations arrive in `__torch_dispatch__`, below autograd.
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: Tensor) -> GPUTensor:
        outer = Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=DEVICE,
        )
        outer.inner = inner
        return outer

    @classmethod
    def __torch_dispatch__(cls, func: Callable, types: tuple, args: tuple = (), kwargs: dict | None = None) -> Any:
        return compute(func, args, kwargs or {})

    # The following do part of their work in C++, where no operation is seen.

    def __repr__(self, *, tensor_contents: str | None = None) -> str:
        return f'GPUTensor({self.inner!r})'

    def __getitem__(self, index: Any) -> Tensor:
        return Tensor.__getitem__(self, with_tensors(index))

    def __setitem__(self, index: Any, value: Any) -> None:
        Tensor.__setitem__(self, with_tensors(index), value)

    def __deepcopy__(self, memo: dict) -> Tensor:
        copied = GPUTensor(self.inner.detach().clone()).requires_grad_(self.requires_grad)
        memo[id(self)] = nn.Parameter(copied, self.requires_grad) if isinstance(self, nn.Parameter) else copied
        return memo[id(self)]

    def tolist(self) -> list:
        """As torch's."""
        WAITS.add('read')
        return self.inner.tolist()

    def numpy(self, *, force: bool = False) -> np.ndarray:
        """Refuse, as CUDA's."""
        raise TypeError("can't convert a tensor on gpu:0 to numpy: use Tensor.cpu() first")

    __array__ = numpy

    def new_tensor(self, data: Any, dtype: torch.dtype | None = None, device: Any = None, **kwargs) -> Tensor:
        """As torch's."""
        return torch.tensor(data, dtype=dtype or self.dtype, device=device or self.device, **kwargs)


def with_tensors(index: Any) -> Any:
    """Turn lists, ranges and arrays of an index into tensors of the CPU."""
    if isinstance(index, tuple):
        return tuple(with_tensors(one) for one in index)
    if isinstance(index, range):
        index = list(index)
    return torch.tensor(index) if isinstance(index, (list, np.ndarray)) else index


def is_here(device: Any) -> bool:
    """Whether ``device`` names the pretended one."""
    return device is not None and torch.device(device).type == 'gpu'


def is_plain(x: Any) -> bool:
    """Whether ``x`` is a tensor of the CPU."""
    return isinstance(x, Tensor) and not isinstance(x, GPUTensor)


def inside(tree: Any) -> Any:
    """Take the tensors of the CPU out of a nest."""
    return tree_map(lambda x: x.inner if isinstance(x, GPUTensor) else x, tree)


def outside(tree: Any) -> Any:
    """Put each tensor of a nest on the device."""
    return tree_map(lambda x: GPUTensor(x) if is_plain(x) else x, tree)


def check_one_device(name: str, plain: list[Tensor]) -> None:
    """Raise for tensors of the CPU that meet some of the device.

    Raises:
        RuntimeError: There are such.
    """
    if plain:
        shapes = ', '.join(str(tuple(x.shape)) for x in plain)
        raise RuntimeError(f'{name}: expected all tensors on gpu:0, but these are on the CPU: {shapes}')


def strangers(func: Callable, args: tuple, plain: list[Tensor]) -> list[Tensor]:
    """Return those tensors of the CPU that CUDA would not take."""
    if func in COPIES:
        return []
    if func in INDEXING:
        if not isinstance(args[0], GPUTensor):
            return plain
        indices = {id(index) for index in args[1]}
        return [x for x in plain if x.dim() and id(x) not in indices]
    return [x for x in plain if x.dim() or torch.Tag.pointwise not in func.tags]


def count_waits(func: Callable, args: tuple, kwargs: dict, gpu: list[Tensor], plain: list[Tensor]) -> None:
    """Count what an operation with tensors of the device waits for."""
    if func in INDEXING:
        masks = [index for index in args[1] if index is not None and index.dtype in (torch.bool, torch.uint8)]
        # A single number under a mask is filled in without counting.
        if masks and not (func not in (aten.index.Tensor, aten._unsafe_index.Tensor) and args[2].numel() == 1):
            WAITS.add('size')
        elif any(is_plain(index) for index in args[1]):
            WAITS.add('to gpu')
    elif func in COPIES:
        if func is aten._to_copy.default and kwargs.get('device') is not None and not is_here(kwargs['device']):
            WAITS.add('to cpu')
        elif plain:
            WAITS.add('to gpu' if isinstance(args[0], GPUTensor) else 'to cpu')
    elif torch.Tag.data_dependent_output in func.tags:
        WAITS.add('read')
    elif torch.Tag.dynamic_output_shape in func.tags and kwargs.get('output_size') is None:
        WAITS.add('size')


def compute(func: Callable, args: tuple, kwargs: dict) -> Any:
    """Run an operation, as on CUDA as far as devices go."""
    tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
    gpu = [x for x in tensors if isinstance(x, GPUTensor)]
    plain = [x for x in tensors if not isinstance(x, GPUTensor)]
    device = kwargs.get('device')
    if not gpu and not is_here(device):
        return func(*args, **kwargs)
    if func is aten._fused_sdp_choice.default:
        return int(torch.nn.attention.SDPBackend.MATH.value)
    if gpu:
        check_one_device(str(func), strangers(func, args, plain))
        count_waits(func, args, kwargs, gpu, plain)
    elif plain:
        WAITS.add('to gpu')
    stays = isinstance(args[0], GPUTensor) if func is aten.copy_.default else device is None or is_here(device)
    inner_args, inner_kwargs = inside((args, kwargs))
    if device is not None:
        inner_kwargs['device'] = torch.device('cpu')
    if func is aten._to_copy.default:
        out = func(*inner_args, **inner_kwargs)
        # A copy to where a tensor is already would give the tensor itself.
        out = out.clone() if out is inner_args[0] else out
    else:
        out = func(*inner_args, **inner_kwargs)
    if not stays:
        return args[0] if func is aten.copy_.default else out
    out = outside(out)
    return return_and_correct_aliasing(func, args, kwargs, out) if gpu and func not in COPIES else out


class OnDevice(TorchDispatchMode):
    """Makes what is created with the device, or sent to it, be there."""

    def __torch_dispatch__(self, func: Callable, types: tuple, args: tuple = (), kwargs: dict | None = None) -> Any:
        return compute(func, args, kwargs or {})


_plain_tensor = torch.tensor


def tensor(data: Any, *, dtype: torch.dtype | None = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """``torch.tensor``, whose copy to a device happens where no operation is seen."""
    data = inside(data)
    if not is_here(device):
        return _plain_tensor(data, dtype=dtype, device=device, requires_grad=requires_grad)
    WAITS.add('to gpu')
    return GPUTensor(_plain_tensor(data, dtype=dtype)).requires_grad_(requires_grad)


def as_tensor(data: Any, dtype: torch.dtype | None = None, device: Any = None) -> Tensor:
    """``torch.as_tensor``, for the same reason."""
    if isinstance(data, Tensor):
        return data.to(device=device or data.device, dtype=dtype or data.dtype)
    return tensor(data, dtype=dtype, device=device)


torch.tensor, torch.as_tensor = tensor, as_tensor
# Moving a module keeps the identity of its parameters, as on CUDA: some are shared.
torch.__future__.set_swap_module_params_on_conversion(True)
