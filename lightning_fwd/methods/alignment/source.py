"""What a model takes along of its source: mean and covariance at the input of each convolution, in a small file."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import LightningFwdError, RewriteError
from ...graph.capture import capture
from ...graph.programs import whole
from ...graph.segment import Segment
from ...models.sealed_weights import load_sealed, save_sealed
from .moments import Moments, mean_and_covariance
from .places import Place, find_convolutions, find_input_map, find_norms

SAMPLES = 1000  #: of the source that are measured
EARLY = 3  #: convolutions measured by whole patches too


@torch.no_grad()
def source_moments(net: nn.Module, data: Any, file: str | Path, samples: int = SAMPLES, patches: int = EARLY) -> str:
    """Measure a network on its source and write what :class:`Alignment` needs to a safetensors file that ships with the weights.

    Per convolution: mean and standard deviation of each input channel (fp32) and their correlations (fp16, the upper triangle); of the
    first
    ``patches`` convolutions those of whole patches too. Per batch norm: mean and standard deviation of what it reads. ResNet-8: 61 KB. The
    network is left as it was.

    Args:
        net: the trained network. data: batches of the source, ``x (B, ...)`` or ``(x, ...)``, or a LightningDataModule.
        file: written anew. samples: so many are enough.

    Returns:
        the file's name, for ``Alignment(source=...)``.

    Raises:
        RewriteError: the network has no convolution, or the data no sample. LightningFwdError: the file cannot be written.
    """
    if hasattr(data, "train_dataloader"):
        data.prepare_data()
        data.setup("fit")
        data = data.train_dataloader()
    run = seen = None
    for x in _inputs(data):
        run = run or _Measured(net, x, patches)
        run.add(x[: samples - run.seen])
        seen = run.seen
        if seen >= samples:
            break
    if not seen:
        raise RewriteError("source_moments got no samples", "the data are empty", "give batches of source data")
    save_sealed(run.tensors(), file, samples=str(seen), model=type(net).__name__)
    return str(file)


def _inputs(batches: Iterable) -> Iterable[Tensor]:
    for batch in batches:
        yield batch[0] if isinstance(batch, (tuple, list)) else batch


class _Measured:
    """The sums at each place of a copy of the network."""

    def __init__(self, net: nn.Module, x: Tensor, patches: int):
        self.net, self.seen = copy.deepcopy(net).eval(), 0
        captured = capture(self.net, x[:2])
        graph_module = captured.graph_module
        whole_patches = [p for p in find_convolutions(graph_module.graph, graph_module, patches) if p.kind == "patches"]
        self.places: list[Place] = find_convolutions(graph_module.graph, graph_module, 0) + whole_patches
        self.places += find_input_map(graph_module.graph, graph_module)
        self.places += find_norms(graph_module.graph, graph_module, captured.opaque)
        if not self.places:
            raise RewriteError(
                f"{type(net).__name__} has no plain convolution and no batch norm",
                "alignment maps what convolutions read and sets norms right",
                "choose another rule for this model",
            )
        nodes, inputs, _ = whole(graph_module.graph)
        self.root, self.forward = graph_module, Segment(nodes, inputs, [p.node.args[0] for p in self.places])
        self.moments: list[Moments] = []

    def add(self, x: Tensor) -> None:
        values = self.forward(self.root, x)
        readings = [p.readings(self.root.get_submodule(p.path)) for p in self.places]
        if not self.moments:  # around the mean of the first batch
            centres = [torch.stack([read(v).mean(0) for read in r], 1).flatten() for r, v in zip(readings, values, strict=True)]
            self.moments = [
                Moments(centre, p.kind in ("patches", "channels", "features")) for p, centre in zip(self.places, centres, strict=True)
            ]
        for moments, value, r in zip(self.moments, values, readings, strict=True):
            moments.add(value, r)
        self.seen += len(x)

    def tensors(self) -> dict[str, Tensor]:
        found = {}
        for place, m in zip(self.places, self.moments, strict=True):
            mean, spread = mean_and_covariance(m.centre, m.total, m.products, m.count)
            deviation = (spread if spread.ndim == 1 else spread.diagonal()).clamp_min(0).sqrt()
            key = f"{place.path}/{place.kind}"
            found |= {f"{key}/mean": mean.float(), f"{key}/deviation": deviation.float()}
            if spread.ndim == 2:
                scale = torch.where(deviation > 0, deviation, torch.inf)  # what never varies goes with nothing: the rest is rounding
                upper = torch.triu_indices(len(mean), len(mean), 1)
                found[f"{key}/correlation"] = (spread / scale.outer(scale))[upper[0], upper[1]].clamp(-1, 1).half()
        return found


@dataclass(frozen=True)
class Home:
    """The source's moments at a place, as they ship.

    Attributes:
        mean, deviation: ``(d,)`` fp32.
        correlation: the upper triangle ``(d (d - 1) / 2,)``, fp16 as int16 bits: no device's program has a type for it. None where values
            are mapped one by one, or there is one.
    """

    mean: Tensor
    deviation: Tensor
    correlation: Tensor | None

    @property
    def nbytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in (self.mean, self.deviation, self.correlation) if t is not None)


def covariance_of(deviation: Tensor, correlation: Tensor | None) -> Tensor:
    """``(d, d)``, in double precision."""
    size = len(deviation)
    full = torch.eye(size, dtype=torch.float64, device=deviation.device)
    if correlation is not None:
        rows, columns = torch.triu_indices(size, size, 1, device=deviation.device)
        full[rows, columns] = full[columns, rows] = correlation.view(torch.float16).double()
    return full * deviation.double().outer(deviation.double())


def read_moments(file: str | Path, places: list[Place], sizes: list[int]) -> list[Home]:
    """The moments of each place.

    Args:
        sizes: d of each place.

    Raises:
        RewriteError: the file cannot be read, or was not written for this network.
    """
    try:
        stored = load_sealed(file, "the source's moments", "write them with lf.source_moments(net, source_data, FILE)")
    except LightningFwdError as error:
        raise RewriteError(error.what, error.why, error.mend) from error
    return [_read(stored, f"{p.path}/{p.kind}", size, file) for p, size in zip(places, sizes, strict=True)]


def _read(stored: dict[str, Tensor], key: str, size: int, file: str | Path) -> Home:
    names = ["mean", "deviation", *(["correlation"] if not key.endswith(("/single", "/norm")) else [])]
    shapes = {"mean": [size], "deviation": [size], "correlation": [size * (size - 1) // 2]}
    for name in names:
        full = f"{key}/{name}"
        found = list(stored[full].shape) if full in stored else None
        if found != shapes[name]:
            raise RewriteError(
                f"{file}: {full} has shape {found}, this model needs {shapes[name]}" if found else f"{file} holds no {full}",
                "the moments are those of another network, or of fewer layers measured by whole patches",
                "write them anew: lf.source_moments(net, source_data, FILE, patches=...)",
            )
    tensors = {name: stored[f"{key}/{name}"] for name in names}
    if not all(t.is_floating_point() and t.isfinite().all() for t in tensors.values()):
        raise RewriteError(f"{file}: {key} holds values that are not finite", "", "write the moments anew with lf.source_moments")
    if (tensors["deviation"] < 0).any() or ("correlation" in tensors and (tensors["correlation"].abs() > 1.01).any()):
        raise RewriteError(f"{file}: {key} holds what no deviation or correlation is", "", "write the moments anew with lf.source_moments")
    correlation = tensors.get("correlation")
    bits = correlation.half().view(torch.int16) if correlation is not None and correlation.numel() else None
    return Home(tensors["mean"].float(), tensors["deviation"].float(), bits)
