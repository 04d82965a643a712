"""A damaged or foreign .pte ends in an ExportError; what passes is safe to generate C from."""

import random

import pytest
from lightning_fwd_export import ExportError, pte_to_c
from lightning_fwd_export.c_code.writer import write_c
from lightning_fwd_export.pte import read_program
from lightning_fwd_export.seal import seal, unseal


@pytest.fixture(scope="module")
def program(exported):
    return exported("mlp", "backprop", steps=3)[0].data


def mutations(data: bytes, count: int, seed: int):
    rng = random.Random(seed)
    for i in range(count):
        changed = bytearray(data)
        if i % 4 == 0:
            yield bytes(changed[: rng.randrange(len(changed))])
            continue
        for _ in range(rng.choice((1, 1, 2, 8))):
            at = rng.randrange(len(changed))
            if i % 4 == 1:
                changed[at] ^= 1 << rng.randrange(8)
            elif i % 4 == 2:
                changed[at] = rng.randrange(256)
            else:
                changed[at : at + rng.randrange(9)] = rng.randbytes(rng.randrange(9))
        yield bytes(changed)


def test_every_change_of_a_sealed_program_is_an_error(program):
    for changed in mutations(program, 1200, seed=0):
        if changed != program:
            with pytest.raises(ExportError):
                read_program(changed)


def test_damage_behind_the_seal_never_crashes_and_never_leaves_its_arenas(program):
    """The checksum made to fit again, or left out: structure alone must hold. Weights may differ, memory may not be overrun."""
    plain = unseal(program)
    survived = 0
    for changed in mutations(plain[:-1] if len(plain) % 2 else plain, 250, seed=1):
        try:
            checked = read_program(changed, trust_unsealed=True)
            files = write_c(checked, "mutated").files
        except ExportError:
            continue
        survived += 1
        assert "lfwd_model.c" in files
        for method in checked.methods.values():
            for call in method.calls:
                for t in (a for a in call.args if hasattr(a, "arena")):
                    assert t.arena is None or 0 <= t.offset <= method.arenas[t.arena] - t.nbytes
    assert survived < 250  # a weight's bit may flip unseen without a seal, a structure's may not


@pytest.mark.parametrize("data", [b"", b"\0" * 100, b"ELF" * 999, seal(b""), seal(b"PK\3\4" * 50), seal(b"\xff" * 4096)])
def test_foreign_files(data):
    for trust in (False, True):
        with pytest.raises(ExportError):
            read_program(data, trust)


def test_nothing_is_written_for_a_damaged_file(program, tmp_path):
    with pytest.raises(ExportError):
        pte_to_c(program[:-50], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_operator_without_kernel_is_named_with_its_layer(program):
    checked = read_program(program)
    step = checked.methods["train_step"]
    position = next(i for i, c in enumerate(step.calls) if "sgd_outer" in c.operator)
    step.calls[position] = type(step.calls[position])("aten::exotic.out", step.calls[position].args, "layer2", "update")
    with pytest.raises(ExportError, match=r"(?s)aten::exotic\.out in or behind layer2 \(update\).*why:.*mend:"):
        write_c(checked, "x")
