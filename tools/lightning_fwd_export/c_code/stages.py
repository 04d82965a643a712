"""The stages of an adaptation in C: a table of their steps, of what each changes and of what each begins with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ..pte import Method, Tensor
from .anomaly import ANOMALY
from .kernels import number
from .state import StateTensors, shape

_METHOD, _END = "step_", "end_"
RATE = "lfwd_rate"
INTEGER = "#define LFWD_INTEGER"  #: of a header: inputs are int8, logits int32 with an exponent, losses integers

RECONSTRUCTS = "#define LFWD_RECONSTRUCTS"  #: of a header: the network gives what it reads, there are no classes

TYPES = """
/* What of a stage is its own (heads, momentum, counters) and begins anew with it; initial 0: with zeros. */
typedef struct {
    uint8_t *bytes;
    uint32_t count;
    const void *initial;
} lfwd_own;

/* A round of a stage that sets layers right one after the other: its step lets sums grow, its end makes new weights of them. */
typedef struct {
    void (*step)(const lfwd_value *inputs, const int64_t *labels);
    void (*end)(void);
    uint32_t samples; /* that it takes; what is the stage's own then begins anew */
} lfwd_round;

/* A stage: its step on a batch, the weights that it changes, and what is its own. The batch is LFWD_INPUT values for each sample. */
typedef struct {
    const char *name;
    void (*step)(const lfwd_value *inputs, const int64_t *labels); /* of the first round, if there are rounds */
    const lfwd_region *changes;
    const lfwd_own *own;
    const lfwd_round *rounds; /* all of them are one epoch; 0: the step is repeated as it is */
    const lfwd_own *shipped; /* of rounds: what the stage changes, as it was shipped, which they begin with */
    uint16_t changes_count, own_count, rounds_count, shipped_count, batch, epochs;
    uint8_t learns; /* from labels; else it needs none */
} lfwd_stage;

extern const lfwd_stage lfwd_stages[LFWD_STAGES]; /* in order; lfwd_adapt.h runs them */"""


_NORMAL = "lfwd_normal_kept"
_NORMAL_TYPE = """
/* What is known of normal scores: lfwd_anomaly.h. */
typedef struct {
    float mean, squares; /* of their logarithms; of the distances from that mean squared the sum */
    uint32_t count;
    float threshold;     /* a score above it is an anomaly's */
} lfwd_normal;

extern lfwd_normal lfwd_normal_kept; /* kept with the weights by lfwd_store.h; lfwd_init() sets it to the source's */"""


class Names(Protocol):
    """Where arenas and constants of the program at hand are."""

    arenas: dict[int, str]

    def named_constant(self, ctype: str, data: bytes) -> str: ...


@dataclass(frozen=True)
class Stage:
    """A stage, its step being the method ``step_NAME`` of a program; in rounds, ``step_NAME_0``, ``end_NAME_0``, ``step_NAME_1`` and so on.

    Attributes:
        name: a C identifier. batch, epochs: of its steps. learns: whether it needs labels.
        changes: which of the tensors that ``get_weights`` gives it changes.
        rate: of a step in integers: multiplier, exponent, momentum in Q15.
        reconstructs: whether its target is its input.
        rounds: the samples that each takes; none where the step is repeated as it is.
    """

    name: str
    batch: int
    epochs: int
    learns: bool
    changes: tuple[int, ...]
    rate: tuple[int, ...] = ()
    reconstructs: bool = False
    rounds: tuple[int, ...] = ()

    @property
    def method(self) -> str:
        """Its step, or that of its first round."""
        return self.methods[0]

    @property
    def methods(self) -> list[str]:
        """All of its methods, in the order in which they are run."""
        if not self.rounds:
            return [_METHOD + self.name]
        return [f"{kind}{self.name}_{number}" for number in range(len(self.rounds)) for kind in (_METHOD, _END)]


def is_stage(method: str) -> bool:
    """Whether a method is the step of a stage."""
    return method.startswith(_METHOD)


def is_end(method: str) -> bool:
    """Whether a method is the end of a round of a stage."""
    return method.startswith(_END)


def kept_beside(stages: Sequence[Stage]) -> dict[str, int]:
    """Bytes of variables, by name, that are kept with the weights."""
    return {_NORMAL: 16} if stages and stages[0].reconstructs else {}


def definitions(stages: Sequence[Stage]) -> list[str]:
    """Of these variables, and what they begin as."""
    if not kept_beside(stages):
        return []
    return [
        f'#include "{ANOMALY}"',
        "",
        f"static const lfwd_normal initial_{_NORMAL} = {{0.0f, 0.0f, 0, LFWD_ANOMALY_THRESHOLD}};",
        f"lfwd_normal {_NORMAL};",
    ]


@dataclass
class StageTable:
    """What a program of stages has beside its functions; nothing without stages.

    Attributes:
        macros, prototypes: of the header. bodies: of the source. arrays: static ones, by name, with what they begin as.
    """

    stages: Sequence[Stage]
    defaults: Sequence[str]
    methods: Mapping[str, Method]
    state: StateTensors
    unit: Names
    macros: list[str] = field(default_factory=list)
    prototypes: list[str] = field(default_factory=list)
    bodies: list[str] = field(default_factory=list)
    arrays: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.stages:
            return
        forward = self.methods["forward"]
        undo = max(sum(self.state.learned[i].nbytes for i in stage.changes) for stage in self.stages)
        self.macros = [
            f"#define LFWD_STAGES {len(self.stages)}",
            f"#define LFWD_CLASSES {1 if self.stages[0].reconstructs else forward.outputs[0].count}",
            *([f"{RECONSTRUCTS} /* what it reads; the one class is LFWD_NORMAL */"] if self.stages[0].reconstructs else []),
            *([f"{INTEGER} /* no float anywhere */"] if self.stages[0].rate else []),
            f"#define LFWD_INPUT {forward.inputs[0].count} /* values of a sample */",
            f"#define LFWD_MOST_BATCH {max(stage.batch for stage in self.stages)} /* samples of the largest batch of a stage */",
            f"#define LFWD_UNDO_BYTES {undo} /* of the stage that changes most */",
            *self.defaults,
        ]
        value = forward.inputs[0].ctype
        self.prototypes = [f"typedef {value} lfwd_value; /* of an input */", TYPES]
        self.prototypes += [_NORMAL_TYPE] if kept_beside(self.stages) else []
        rows = []
        for stage in self.stages:
            changes, own = self._changes(stage), self._own(stage)
            if stage.rate:
                self._integer_rate(stage)
            self.bodies += [_wrapper(self.methods[step], value, stage.reconstructs) for step in stage.methods if is_stage(step)]
            if stage.rounds:
                self.bodies.append(_rounds(stage))
            shipped = [self._row(self.state.learned[i]) for i in stage.changes] if stage.rounds else []
            if shipped:
                self.bodies.append("\n".join([f"static const lfwd_own shipped_{stage.name}[{len(shipped)}] = {{", *shipped, "};"]))
            self.bodies.append("\n".join([f"static const lfwd_region changes_{stage.name}[{len(changes)}] = {{", *changes, "};"]))
            if own:
                self.bodies.append("\n".join([f"static const lfwd_own own_{stage.name}[{len(own)}] = {{", *own, "};"]))
            tables = [
                f"{kind}_{stage.name}" if there else "0" for kind, there in (("own", own), ("rounds", stage.rounds), ("shipped", shipped))
            ]
            counts = [len(changes), len(own), len(stage.rounds), len(shipped), stage.batch, stage.epochs, int(stage.learns)]
            fields = [f'"{stage.name}"', f"run_{stage.method}", f"changes_{stage.name}", *tables, *map(str, counts)]
            rows.append(f"    {{{', '.join(fields)}}},")
        self.bodies.append("\n".join(["const lfwd_stage lfwd_stages[LFWD_STAGES] = {", *rows, "};"]))

    def _integer_rate(self, stage: Stage) -> None:
        """Rate and momentum of a step, as memory, and what sets the rate."""
        name, initial = _rate_of(stage.method), ", ".join(map(str, stage.rate))
        self.arrays[name] = initial
        head = f"void lfwd_set_rate_{stage.method}(int32_t multiplier, int32_t exponent)"
        if len(self.arrays) == 1:
            self.prototypes.insert(1, _RATE_COMMENT)
        self.prototypes.insert(1 + len(self.arrays), head + ";")
        self.bodies.append("\n".join([head, "{", f"    {name}[0] = multiplier;", f"    {name}[1] = exponent;", "}"]))

    def _changes(self, stage: Stage) -> list[str]:
        regions = StateTensors([self.state.learned[i] for i in stage.changes], []).regions()
        return [f"    {{{self.unit.arenas[arena]} + {offset}, {nbytes}}}," for arena, offset, nbytes in regions]

    def _own(self, stage: Stage) -> list[str]:
        shared = {(t.arena, t.offset) for t in self.state.learned}
        found = {(t.arena, t.offset): t for method in stage.methods for t in self.methods[method].initialised}
        return [self._row(t) for place, t in found.items() if place not in shared]

    def _row(self, t: Tensor) -> str:
        initial = self.unit.named_constant(t.ctype, t.data) if t.data and any(t.data) else "0"
        return f"    {{{self.unit.arenas[t.arena]} + {t.offset}, {t.nbytes}, {initial}}}, /* {shape(t)} */"


_RATE_COMMENT = (
    "/* Another rate from the next step on: multiplier * 2^-exponent, multiplier below 2^15; that of the export again after lfwd_init(). */"
)


def _rate_of(method: str) -> str:
    return f"{RATE}_{method}"


def _wrapper(step: Method, value: str, reconstructs: bool) -> str:
    """The step as the table has it, whatever it reads and returns."""
    lines = [f"    float loss[{max(step.outputs[0].count, 1)}];"] if step.outputs else []
    lines += ["    (void)labels;"] if len(step.inputs) == 1 or reconstructs else []
    given = ", ".join(
        ["inputs", "inputs" if reconstructs else "labels", _rate_of(step.name)][: len(step.inputs)] + ["loss"] * len(step.outputs)
    )
    head = f"static void run_{step.name}(const {value} *inputs, const int64_t *labels)"
    return "\n".join([head, "{", *lines, f"    lfwd_{step.name}({given});", "}"])


def _rounds(stage: Stage) -> str:
    pairs = zip(stage.methods[::2], stage.methods[1::2], stage.rounds, strict=True)
    rows = [f"    {{run_{step}, lfwd_{end}, {samples}}}," for step, end, samples in pairs]
    return "\n".join([f"static const lfwd_round rounds_{stage.name}[{len(rows)}] = {{", *rows, "};"])


def default_macros(samples: int, patience: int, held_back: int, seed: int, int8: bool) -> list[str]:
    """What ``lfwd_adapt.h`` takes as its settings where the firmware states none; ``int8``: how its buffer keeps inputs."""
    return [
        f"#define LFWD_DEFAULT_SAMPLES {samples}",
        f"#define LFWD_DEFAULT_PATIENCE {patience}",
        f"#define LFWD_DEFAULT_HELD_BACK {number(held_back, 'int32_t')} /* of 65536 */",
        f"#define LFWD_DEFAULT_SEED {seed & 0xFFFFFFFF}u",
        *(
            ["#ifndef LFWD_SAMPLES_INT8", "#define LFWD_SAMPLES_INT8 /* a byte for each value, a scale for each sample */", "#endif"]
            if int8
            else []
        ),
    ]
