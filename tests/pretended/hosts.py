"""What the OpenMMLab packages do past torch's dispatcher, on the pretended device."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Union

import mmcv._ext
import torch
from mmengine.structures import instance_data
from torch.utils._pytree import tree_flatten

from .device import GPUTensor, check_one_device, inside, is_plain, outside


def on_device(function: Callable, name: str) -> Callable:
    """Wrap a compiled function of mmcv's: it computes in place or returns new tensors."""

    @functools.wraps(function)
    def call(*args, **kwargs) -> Any:
        leaves = tree_flatten((args, kwargs))[0]
        if not any(isinstance(x, GPUTensor) for x in leaves):
            return function(*args, **kwargs)
        check_one_device(f'mmcv {name}', [x for x in leaves if is_plain(x)])
        with torch._C._DisableTorchDispatch():
            return outside(function(*inside(args), **inside(kwargs)))

    return call


class _Kind(type):
    """Makes ``isinstance`` ask for the type of numbers of a tensor on the device, as ``torch.cuda.LongTensor`` does."""

    def __instancecheck__(cls, x: object) -> bool:
        return isinstance(x, GPUTensor) and x.dtype is cls.dtype


class _Bool(metaclass=_Kind):
    dtype = torch.bool


class _Long(metaclass=_Kind):
    dtype = torch.long


def prepare() -> None:
    """Bring mmcv's operations and mmengine's containers onto the device."""
    for name in dir(mmcv._ext):
        function = getattr(mmcv._ext, name)
        if callable(function) and not name.startswith('__'):
            setattr(mmcv._ext, name, on_device(function, name))
    # Not `|`: mmengine takes them apart.
    instance_data.BoolTypeTensor = Union[torch.BoolTensor, _Bool]  # noqa: UP007
    instance_data.IndexType = Union[instance_data.IndexType, _Bool, _Long]  # noqa: UP007
