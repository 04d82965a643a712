"""The mask of a ReLU, packed: the same bits by numpy on a CPU and by torch's operations elsewhere."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from lightning_fwd.graph.bit_mask import pack_by_torch, positive_bits, unpack_by_torch, where_bits
from lightning_fwd.graph.in_double import in_double


@pytest.mark.parametrize("shape", [(1,), (8,), (3, 5), (2, 3, 7, 7), (0,)])
def test_torch_s_operations_pack_and_unpack_as_numpy_does(shape):
    x = torch.randn(shape)
    bits = positive_bits(x)
    assert torch.equal(pack_by_torch(x > 0), bits) and bits.dtype == torch.uint8
    flags = unpack_by_torch(bits, x.numel())
    assert torch.equal(flags.reshape(shape), x > 0)
    assert torch.equal(where_bits(x, bits), torch.where(x > 0, x, 0.0))


def test_away_from_the_cpu_nothing_goes_over_the_host():
    x = torch.empty(3, 5, device="meta")
    bits = pack_by_torch(x > 0)
    assert bits.device.type == "meta" and bits.shape == (2,) and unpack_by_torch(bits, 15).shape == (15,)


def test_double_precision_is_taken_on_the_cpu_where_the_device_has_none():
    assert in_double(torch.ones(2)).dtype == torch.float64
    with FakeTensorMode():
        for device, where in (("mps", "cpu"), ("cuda", "cuda")):
            doubled = in_double(torch.empty(2, device=device))
            assert doubled.dtype == torch.float64 and doubled.device.type == where
