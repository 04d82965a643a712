"""The C of a network that learns on an NPU: its bytes and numbers as source, beside the code that uses them."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from .learn.learner import FEATURES, IMAGE, TAPS, NpuLearner
from .learn.norm import Norm
from .learn.statistics import Statistics
from .learn.trainer import ERROR, NpuTrainer

_CSRC = Path(__file__).parent / "csrc"
_LICENCE = "/* SPDX-License-Identifier: Apache-2.0 */\n"


def write_c(learner: NpuLearner, source: Mapping[str, Statistics], folder: Path, train: str = "head") -> None:
    """Write ``lfwd_npu_model.{h,c}``, and copy the code and its Makefile.

    Args:
        learner: as compiled; what it has learned is not written. Of an :class:`.NpuTrainer` the way back is written too.
        source: statistics of the source domain, layer by layer.
        folder: made if missing.
        train: what learns: ``"zeroth-order"`` as by :class:`.ZerothOrder`, ``"forward-forward"`` as by :class:`.ContextForwardForward`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for file in sorted(_CSRC.iterdir()):
        shutil.copyfile(file, folder / file.name)
    (folder / "lfwd_npu_model.h").write_text(_LICENCE + _header(learner, train))
    code = _source(learner, source)
    if train != "head" or isinstance(learner, NpuTrainer):
        code += _norms(learner)
    if isinstance(learner, NpuTrainer):
        code += _way_back(learner)
    (folder / "lfwd_npu_model.c").write_text(_LICENCE + code)


def _header(learner: NpuLearner, train: str) -> str:
    binary, features = learner.split.binary, learner.program.outputs[FEATURES]
    quantised, way_back = learner.program.inputs[IMAGE], isinstance(learner, NpuTrainer)
    image = binary.inputs[quantised.slot]
    channels = [len(learner.split.places[layer]) for layer in learner.tapped.layers]
    linear = learner.tapped.module.get_submodule(learner.tapped.head)
    numbers = {
        "COMMAND_BYTES": len(learner.simulator.binary.commands),
        "CONSTANT_BYTES": len(binary.constants),
        "TABLE_BYTES": len(learner.split.table),
        "ARENA_BYTES": binary.arena,
        "LAYERS": len(channels),
        "CHANNELS": sum(channels),
        "MOST_CHANNELS": max(channels),
        "CLASSES": linear.out_features,
        "FEATURES": linear.in_features,
        "INPUT_BYTES": image.size,
        "INPUT_OFFSET": image.offset,
        "INPUT_SCALE": _float(quantised.scale),
        "INPUT_ZERO_POINT": f"({quantised.zero_point})",
        "FEATURES_OFFSET": binary.outputs[features.slot].offset,
        "FEATURES_SCALE": _float(features.scale),
        "FEATURES_ZERO_POINT": f"({features.zero_point})",
        "NORMS": int(way_back or train != "head"),
        "WAY_BACK": int(way_back),
        "ZEROTH_ORDER": int(train == "zeroth-order"),
        "CONTEXT": int(train == "forward-forward"),
    }
    if isinstance(learner, NpuTrainer):
        error = learner.program.inputs[ERROR]
        numbers |= {
            "BACK_COMMAND_BYTES": len(learner.second_half.binary.commands),
            "ERROR_OFFSET": binary.inputs[error.slot].offset,
            "ERROR_SCALE": _float(error.scale),
            "ERROR_ZERO_POINT": f"({error.zero_point})",
        }
    lines = [f"#define LFWD_NPU_{name} {number}" for name, number in numbers.items()]
    of = "inference and way back" if way_back else "inference"
    cycles = f"{learner.program.cycles:,} cycles per {of}, the compiler's estimate"
    title = f"/* {learner.program.network} on an {binary.accelerator}: {cycles}. */"
    return "\n".join([title, "#ifndef LFWD_NPU_MODEL_H", "#define LFWD_NPU_MODEL_H", "", *lines, "", "#endif", ""])


def _source(learner: NpuLearner, source: Mapping[str, Statistics]) -> str:
    binary, split = learner.split.binary, learner.split
    linear = learner.tapped.module.get_submodule(learner.tapped.head)
    parts, rows, first = ['#include "lfwd_npu.h"', ""], [], 0
    aligned = " __attribute__((aligned(16)))"
    for name, size, data in (
        ("commands", "COMMAND_BYTES", learner.simulator.binary.commands),
        ("constants", "CONSTANT_BYTES", binary.constants),
        ("original", "TABLE_BYTES", split.table),
    ):
        parts.append(_array(f"const uint8_t lfwd_npu_{name}[LFWD_NPU_{size}]{aligned}", map(str, data)))
    parts.append(_array("const float lfwd_npu_head_weight[LFWD_NPU_CLASSES][LFWD_NPU_FEATURES]", map(_row, linear.weight.detach().numpy())))
    parts.append(_array("const float lfwd_npu_head_bias[LFWD_NPU_CLASSES]", map(_float, linear.bias.detach().numpy())))
    for k, layer in enumerate(learner.tapped.layers):
        places, tap = split.places[layer], binary.outputs[learner.program.outputs[TAPS + k].slot]
        zero_point = learner.program.layers[layer].convolution.zero_point
        parts.append(f"/* {layer} */")
        parts.append(_array(f"static const uint32_t places{k}[]", map(str, places)))
        parts.append(_array(f"static const float mean{k}[]", map(_float, source[layer].mean)))
        parts.append(_array(f"static const float spread{k}[]", map(_float, source[layer].spread)))
        rows.append(f"{{{len(places)}, {first}, {zero_point}, {tap.offset}, places{k}, mean{k}, spread{k}}}")
        first += len(places)
    parts.append(_array("const lfwd_npu_layer lfwd_npu_layers[LFWD_NPU_LAYERS]", rows))
    return "\n".join(parts)


def _norms(learner: NpuLearner) -> str:
    """The batch norms as trained."""
    parts, rows = [], []
    for k, layer in enumerate(learner.tapped.layers):
        norm = Norm.of(learner.norm_modules[layer])
        parts.append(_array(f"static const float shift{k}[]", map(_float, norm.shift)))
        parts.append(_array(f"static const float scale{k}[]", map(_float, norm.scale)))
        rows.append(f"{{{_float(learner.program.outputs[TAPS + k].scale)}, shift{k}, scale{k}}}")
    return "\n".join(["", *parts, _array("const lfwd_npu_norm lfwd_npu_norms[LFWD_NPU_LAYERS]", rows)])


def _way_back(trainer: NpuTrainer) -> str:
    """The second command stream, and per layer what the gradients of its batch norm come out of."""
    data, outputs, rows = trainer.second_half.binary.commands, trainer.program.outputs, []
    aligned = "__attribute__((aligned(16)))"
    parts = [_array(f"const uint8_t lfwd_npu_back_commands[LFWD_NPU_BACK_COMMAND_BYTES] {aligned}", map(str, data))]
    layers = trainer.tapped.layers
    for k, layer in enumerate(layers):
        sums = [outputs[TAPS + k + n * len(layers)] for n in (1, 2)]
        places, weight = "NULL", 1.0
        if path := trainer.back.gains.get(layer):
            parts.append(_array(f"static const uint32_t gain_places{k}[]", map(str, trainer.split.places[path])))
            places, weight = f"gain_places{k}", trainer.back.compiled_weight(path)
        numbers = [
            *(str(trainer.split.binary.outputs[output.slot].offset) for output in sums),
            *(_float(output.scale) for output in sums),
            *(str(output.zero_point) for output in sums),
            *map(_float, trainer.factors[layer]),
        ]
        rows.append("{" + ", ".join([*numbers, places, _float(weight)]) + "}")
    return "\n".join(["", *parts, _array("const lfwd_npu_sums lfwd_npu_gradients[LFWD_NPU_LAYERS]", rows)])


def _array(declaration: str, items: Iterable[str]) -> str:
    lines, line = [], "   "
    for item in items:
        if len(line) + len(item) > 140:
            lines.append(line)
            line = "   "
        line += f" {item},"
    return "\n".join([f"{declaration} = {{", *lines, line, "};", ""])


def _row(values: np.ndarray) -> str:
    return "{" + ", ".join(map(_float, values)) + "}"


def _float(value: float) -> str:
    """A float32 exactly: hexadecimal, as C99 reads it."""
    return f"{float(np.float32(value)).hex()}f"
