"""Records in a table of their own and uncompressed weights: what the NPU computes stays the same, and follows what is written there."""

from dataclasses import replace

import numpy as np
import pytest
from lightning_fwd_export import ExportError
from lightning_fwd_export.npu.binary import compile_tosa
from lightning_fwd_export.npu.find_records import find_records, patch
from lightning_fwd_export.npu.simulator import Simulator
from lightning_fwd_export.npu.split import RECORDS, WEIGHTS, free_weights, split_records
from lightning_fwd_export.npu.tosa_graph import TosaGraph
from lightning_fwd_export.npu.uncompressed import encode_weights, put_weight
from record_changes import changed


def images(n=4):
    return np.random.default_rng(1).integers(-128, 128, (n, 8, 8, 3)).astype(np.int8)


def test_the_table_takes_the_place_of_the_records_in_the_constants(tiny):
    split = split_records(tiny)
    assert len(split.table) < 10 * tiny.records + 16 * 4 * len(tiny.layers)
    assert len(split.binary.commands) <= len(tiny.binary.commands)
    regions, x = split.regions(), images()
    moved, inside = Simulator(split.binary, regions), Simulator(tiny.binary)
    assert all(np.array_equal(a, b) for a, b in zip(moved(x), inside(x), strict=True))

    _, due = changed(tiny.tosa, np.random.default_rng(0), 0.5, tuple(tiny.layers.values()))
    for name, layer in tiny.layers.items():
        split.write(regions[RECORDS], name, due[layer])
        assert split.read(regions[RECORDS], name) == due[layer]
    after = Simulator(patch(tiny.binary, due))(x)
    assert all(np.array_equal(a, b) for a, b in zip(moved(x), after, strict=True))
    assert not np.array_equal(after[0], inside(x)[0])


def test_every_record_has_one_place_in_the_table(tiny):
    binary = compile_tosa(tiny.tosa, "ethos-u55-32")
    layers = dict(zip(tiny.layers, find_records(tiny.tosa, binary), strict=True))
    split = split_records(replace(tiny, binary=binary, layers=layers))
    places = [at for layer in split.places.values() for at in layer]
    assert len(set(places)) == tiny.records and max(places) + 10 <= len(split.table)
    for name, layer in layers.items():
        there = [binary.constants[at : at + 10] for (at,) in layer.offsets]
        assert there == [split.table[at : at + 10] for at in split.places[name]]


@pytest.mark.parametrize(
    ("accelerator", "why"),
    [("ethos-u85-256", "repeats the scale"), ("ethos-u65-256", "keeps activations in"), ("ethos-u65-512", "keeps activations in")],
)
def test_other_accelerators_keep_their_records_where_they_are(tiny, accelerator, why):
    binary = compile_tosa(tiny.tosa, accelerator)
    layers = dict(zip(tiny.layers, find_records(tiny.tosa, binary), strict=True))
    with pytest.raises(ExportError, match=why):
        split_records(replace(tiny, binary=binary, layers=layers))


@pytest.mark.parametrize("count", [640, 40_000])
def test_the_decoder_of_the_compiler_reads_uncompressed_weights_also_after_a_change(count):
    mlw_codec = pytest.importorskip("ethosu.mlw_codec")
    rng = np.random.default_rng(0)
    weights = rng.integers(-127, 128, count)
    data = bytearray(encode_weights(weights))
    for place in [0, count - 1, *rng.integers(0, count, 50)]:
        weights[place] = rng.integers(-127, 128)
        put_weight(data, int(place), int(weights[place]))
    assert np.array_equal(np.array(mlw_codec.decode(data))[:count], weights)


def test_the_last_layer_reads_weights_from_ram(tiny):
    split, free = free_weights(split_records(tiny), "classifier")
    regions = {**split.regions(), WEIGHTS: bytearray(free.data)}
    simulate, x = Simulator(split.binary, regions), images()
    assert all(np.array_equal(a, b) for a, b in zip(simulate(x), Simulator(tiny.binary)(x), strict=True))

    graph = TosaGraph(tiny.tosa)
    weight = graph.constant(tiny.layers["classifier"].convolution.weight)
    weight[...] = np.clip(weight.astype(int) + np.random.default_rng(0).integers(-30, 31, weight.shape), -127, 127)
    for (out, channel), place in np.ndenumerate(free.places):
        put_weight(regions[WEIGHTS], int(place), int(weight[out, 0, 0, channel]))
    recompiled = Simulator(compile_tosa(bytes(graph), "ethos-u55-128"))(x)
    assert all(np.array_equal(a, b) for a, b in zip(simulate(x), recompiled, strict=True))


def test_only_a_linear_layer_frees_its_weights(tiny):
    with pytest.raises(ExportError, match="stem"):
        free_weights(split_records(tiny), "stem")
    with pytest.raises(ExportError, match="-128"):
        encode_weights(np.array([-128]))
