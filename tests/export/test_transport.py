"""The eigen solver, the map between two Gaussians and its way into a weight: C against PyTorch in double."""

import pytest
import torch
from kernel_calls import Axis, call
from torch import nn

from lightning_fwd.methods.alignment.operators import folded, transport_of_sums


def covariance(n: int, seed: int, samples: int = 3) -> torch.Tensor:
    x = torch.randn(samples * n, n, generator=torch.Generator().manual_seed(seed))
    return x.t() @ x / len(x)


def repeated(n: int) -> torch.Tensor:
    """Half of the eigenvalues are 3, the others 1, in directions of no axis."""
    q, _ = torch.linalg.qr(torch.randn(n, n, generator=torch.Generator().manual_seed(n)))
    return q @ torch.diag(torch.tensor([3.0, 1.0]).repeat(n)[:n]) @ q.t()


MATRICES = {
    "random": lambda n: covariance(n, 0),
    "repeated": repeated,
    "zero": lambda n: torch.zeros(n, n),
    "identity": torch.eye,
    "one direction": lambda n: torch.ones(n, n),
    "without rank": lambda n: covariance(n, 1, 1) * (torch.arange(n) < 2).outer(torch.arange(n) < 2),
    "graded": lambda n: covariance(n, 2) * torch.logspace(0, -3, n).outer(torch.logspace(0, -3, n)),
    "indefinite": lambda n: covariance(n, 3) - covariance(n, 4),
}


@pytest.mark.parametrize("n", [1, 2, 27, 64])
@pytest.mark.parametrize("kind", MATRICES)
def test_eigenvalues_and_vectors(csrc, kind, n):
    matrix = MATRICES[kind](n).contiguous()
    a, rows = matrix.clone(), torch.eye(n)
    call(csrc.lfwd_eigen_f32, a, n, rows)
    values, exact = a.diagonal().double(), matrix.double()
    largest = float(torch.linalg.eigvalsh(exact).abs().max())
    torch.testing.assert_close(values.sort().values, torch.linalg.eigvalsh(exact), rtol=0, atol=2e-6 * largest)
    torch.testing.assert_close(rows @ rows.t(), torch.eye(n), rtol=0, atol=5e-6)
    torch.testing.assert_close(rows.double().t() @ (values[:, None] * rows.double()), exact, rtol=0, atol=4e-6 * largest)


def test_small_eigenvalues_are_as_exact_as_large_ones(csrc):
    """Of a graded matrix, relative to each: what the map of directions that hardly vary depends on."""
    matrix = MATRICES["graded"](27)
    a, rows = matrix.clone(), torch.eye(27)
    call(csrc.lfwd_eigen_f32, a, 27, rows)
    torch.testing.assert_close(a.diagonal().double().sort().values, torch.linalg.eigvalsh(matrix.double()), rtol=1e-4, atol=0)


def test_no_number_ends_it(csrc):
    for value in (torch.nan, torch.inf):
        a, rows = torch.full((5, 5), value), torch.eye(5)
        call(csrc.lfwd_eigen_f32, a, 5, rows)


def sums_of(x: torch.Tensor, full: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return x.sum(0), (x.t() @ x if full else x.square().sum(0)), torch.tensor(len(x))


def home_of(n: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    spread = covariance(n, 5).double()
    deviation = spread.diagonal().sqrt()
    rows, columns = torch.triu_indices(n, n, 1)
    correlation = (spread / deviation.outer(deviation))[rows, columns].half().view(torch.int16)
    return deviation.float(), correlation if n > 1 else None


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("n, floor, strength", [(1, 1e-3, 1.0), (6, 1e-3, 0.5), (27, 1e-4, 0.75)])
def test_the_map_from_sums(csrc, n, floor, strength, full):
    generator = torch.Generator().manual_seed(n)
    x = torch.randn(4 * n + 3, n, generator=generator) @ torch.randn(n, n, generator=generator) + 1.0
    x[:, -1] = x[:, 0]  # without rank
    sums, (deviation, correlation) = sums_of(x, full), home_of(n)
    wanted = transport_of_sums(*sums, deviation, correlation, floor, strength)
    got, scratch = torch.empty_like(sums[1]), torch.empty(n * (n + 2))
    if full:
        call(csrc.lfwd_transport_f32, *sums, deviation, correlation, n, floor, strength, scratch, got)
    else:
        call(csrc.lfwd_scaling_f32, *sums, deviation, n, 0.01 * floor, strength, got)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))


def test_half_precision_is_read_as_it_is(csrc):
    """All correlations a half can hold, by a map of two values that vary alike: T depends on nothing else."""
    halves = torch.tensor([0.0, -0.0, 1.0, -1.0, 6e-8, -6e-8, 6.1e-5, 0.333, -0.999, 0.5]).half()
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    for half in halves.view(torch.int16).split(1):
        sums, deviation = sums_of(x, True), torch.ones(2)
        got = torch.empty(2, 2)
        call(csrc.lfwd_transport_f32, *sums, deviation, half, 2, 1e-3, 1.0, torch.empty(8), got)
        torch.testing.assert_close(got, transport_of_sums(*sums, deviation, half, 1e-3, 1.0), rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize(
    "layer, d",
    [
        (nn.Conv2d(3, 4, (3, 2)), 18),
        (nn.Conv2d(3, 4, (3, 2)), 3),
        (nn.Linear(5, 2), 5),
        (nn.Conv2d(6, 12, 3, groups=3), 0),
        (nn.Conv2d(4, 4, 3, groups=4), 0),
    ],
    ids=["patches", "channels", "features", "grouped", "depthwise"],
)
def test_a_map_goes_into_the_weight(csrc, layer, d):
    torch.manual_seed(0)
    weight, groups = layer.weight.detach(), getattr(layer, "groups", 1)
    matrix = covariance(d, 6) if d else torch.rand(layer.in_channels) + 0.5
    got, read = weight.clone(), d or weight.shape[1]
    axis = Axis(len(weight), read, weight[0].numel() // read)
    if d:
        call(csrc.lfwd_fold_f32, got, matrix, axis, torch.empty(d))
    else:
        call(csrc.lfwd_fold_single_f32, got, matrix, axis, groups)
    torch.testing.assert_close(got, folded(weight, matrix, groups))
    if not d:  # by torch's own grouped convolution: factors on its input
        x = torch.randn(2, layer.in_channels, 5, 5)
        with torch.no_grad():
            wanted = layer(x * matrix[:, None, None])
            layer.weight.copy_(got)
            torch.testing.assert_close(layer(x), wanted)
