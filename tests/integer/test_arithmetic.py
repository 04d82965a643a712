"""The exact arithmetic: rounding, draws, multipliers, exponents."""

import pytest
import torch

from lightning_fwd.integer.arithmetic import as_multiplier, bit_length, draws, multiply, shift, shift_stochastic
from lightning_fwd.integer.masters import from_master, row_exponents, to_master
from lightning_fwd.integer.rate import rate_integers
from lightning_fwd.integer.softmax import int_softmax_error


def test_shifts_round_halves_upwards_and_saturate_to_the_left():
    x = torch.tensor([-6, -5, -3, 5, 6, 7])
    assert shift(x, 2).tolist() == [-1, -1, -1, 1, 2, 2]
    assert shift(torch.tensor([1 << 20, -(1 << 20)]), -20).tolist() == [(1 << 31) - 1, -(1 << 31)]
    assert shift(torch.tensor([(1 << 31) - 1]), 40).tolist() == [0]


@pytest.mark.parametrize("s", [0, 3, 16, 20, 31])
def test_stochastic_rounding_is_unbiased_and_never_off_by_one(s):
    x = torch.randint(-(2**29), 2**29, (64, 1), generator=torch.Generator().manual_seed(s))
    every = shift_stochastic(x, torch.tensor(s), torch.arange(0, 1 << 16, 8, dtype=torch.int32)[None])
    exact = x.double() * 2.0**-s
    assert ((every - exact).abs() < 1).all()
    assert (every.double().mean(1, keepdim=True) - exact).abs().max() < 2**-12


def test_rows_of_different_shifts_round_as_each_alone():
    x, draw = torch.randint(-(2**29), 2**29, (4, 50)), torch.randint(0, 1 << 16, (4, 50), dtype=torch.int32)
    shifts = torch.tensor([-2, 5, 16, 24])
    together = shift_stochastic(x, shifts[:, None], draw)
    for k, s in enumerate(shifts):
        assert torch.equal(together[k].long(), shift_stochastic(x[k], s, draw[k]).long())


def test_draws_are_uniform_and_their_layout_is_part_of_the_definition():
    found = draws(torch.tensor(5), 3, 40, 501)
    assert found.shape == (40, 501) and 0 <= int(found.min()) and int(found.max()) < 1 << 16
    assert abs(float(found.double().mean()) / 32767.5 - 1) < 0.01
    assert found[0, :3].tolist() == draws(torch.tensor(5), 3, 1, 3)[0].tolist()  # entries do not depend on the size
    assert not torch.equal(found, draws(torch.tensor(6), 3, 40, 501)) and not torch.equal(found, draws(torch.tensor(5), 4, 40, 501))


def test_multipliers_and_rates():
    for value in (1.0, 0.25, 1 / 3, 0.1, 37.5, 1e-6):
        mult, exponent = as_multiplier(value)
        assert abs(mult * 2.0 ** (-15 - exponent) / value - 1) < 2**-15
    assert as_multiplier(0.25) == (1 << 15, 2) and multiply(torch.tensor(-7), 1 << 15) == -7
    for lr in (0.1, 1.0, 3e-5, 0.99999):
        mult, exponent = rate_integers(lr)
        assert 1 << 14 <= mult < 1 << 15 and abs(mult * 2.0**-exponent / lr - 1) < 2**-14
    assert rate_integers(0.0) == (0, 0)


def test_bit_length():
    assert [int(bit_length(torch.tensor([v]))) for v in (0, 1, -1, 127, 128, -128, 2**31)] == [0, 1, 1, 7, 8, 8, 32]


def test_masters_are_exact_in_float():
    weight = torch.randn(6, 5) * torch.logspace(-4, 2, 6)[:, None]
    exponents = row_exponents(weight, 1, by_row=True)
    master = to_master(weight, exponents)
    value = from_master(master, exponents)
    assert torch.equal(to_master(value, exponents), master)
    assert ((value - weight).abs() <= torch.exp2(-(exponents.float() + 9))[:, None]).all()


def test_the_error_of_the_softmax():
    logits, target = torch.randint(-4000, 4000, (200, 10)), torch.randint(0, 10, (200,))
    got = int_softmax_error(logits.int(), torch.tensor([10], dtype=torch.int8), target).double() / 32768
    wanted = (logits * 2.0**-10).double().softmax(1) - torch.nn.functional.one_hot(target, 10)
    assert (got - wanted).abs().max() < 0.007
