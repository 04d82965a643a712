"""Call a C kernel with tensors: contiguous tensors become pointers, tuples become structs of int32."""

import ctypes

import torch


def struct_of(fields):
    flat = []

    def walk(value):
        for v in value:
            walk(v) if isinstance(v, (list, tuple)) else flat.append(int(v))

    walk(fields)
    return (ctypes.c_int32 * len(flat))(*flat)


def call(function, *args):
    """Floats go as C float, ints as int32, lists as pointer to a struct, tensors and None as pointers."""
    converted, keep = [], []
    for a in args:
        if a is None:
            converted.append(ctypes.c_void_p(0))
        elif isinstance(a, torch.Tensor):
            assert a.is_contiguous()
            keep.append(a)
            converted.append(ctypes.c_void_p(a.data_ptr()))
        elif isinstance(a, (list, tuple)):
            keep.append(struct_of(a))
            converted.append(keep[-1])
        elif isinstance(a, float):
            converted.append(ctypes.c_float(a))
        else:
            converted.append(a if isinstance(a, ctypes._SimpleCData | ctypes.Structure) else ctypes.c_int32(a))
    function.restype = None
    function(*converted)


class Axis(ctypes.Structure):
    _fields_ = [("outer", ctypes.c_int32), ("dim", ctypes.c_int32), ("inner", ctypes.c_int32)]
