"""Two libraries in one C++ firmware, clean for strict compilers of six targets, and blobs of a stranger."""

import subprocess

import pytest
import torch
from library_on_host import STRICT, includes
from lightning_fwd_export import export_library
from lightning_fwd_export.boards.build import GCC
from lightning_fwd_export.host.runtime import compiler

import lightning_fwd as lf
from lightning_fwd.models import MLP, SmallConv

TARGETS = {
    "m0plus": "-mcpu=cortex-m0plus",
    "m33": "-mcpu=cortex-m33 -mfpu=fpv5-sp-d16 -mfloat-abi=hard",
    "m4": "-mcpu=cortex-m4 -mfpu=fpv4-sp-d16 -mfloat-abi=hard",
    "m7": "-mcpu=cortex-m7 -mfpu=fpv5-d16 -mfloat-abi=hard",
    "m55": "-mcpu=cortex-m55 -mfloat-abi=hard",
    "host": "",
}
MAIN = """
#include <cstdio>
#include <cstring>
#include "kws_adapt.h"
#include "kws_store.h"
#include "har_adapt.h"
#include "har_store.h"

static float kws_input[KWS_INPUT], har_input[HAR_INPUT];
static uint8_t before[HAR_WEIGHTS_BYTES], after[HAR_WEIGHTS_BYTES];

int main()
{
    const kws_adapt_settings settings = KWS_ADAPT_SETTINGS;
    const har_adapt_settings others = HAR_ADAPT_SETTINGS;
    kws_stage_report reports[KWS_STAGES];
    har_stage_report other_reports[HAR_STAGES];
    kws_init();
    har_init();
    kws_samples_clear(settings.seed);
    har_samples_clear(others.seed);
    for (int i = 0; i < 40; i++) {
        for (int k = 0; k < KWS_INPUT; k++) kws_input[k] = static_cast<float>((i * 7 + k * 3) % 11 - 5);
        for (int k = 0; k < HAR_INPUT; k++) har_input[k] = static_cast<float>((i * 5 + k) % 7 - 3);
        if (kws_samples_add(kws_input, i % KWS_CLASSES) != i || har_samples_add(har_input, i % HAR_CLASSES) != i) return 1;
    }
    har_get_weights(before);
    const int kept = kws_adapt(&settings, reports);
    har_get_weights(after);
    if (std::memcmp(before, after, sizeof before) != 0) return 2;
    const int others_kept = har_adapt(&others, other_reports);
    std::printf("%d %s, %d %s\\n", kept, kws_outcome_text(reports[0].outcome), others_kept, har_outcome_text(other_reports[0].outcome));
    return 10 * kws_selftest() + 100 * har_selftest();
}
"""
HOSTILE = """
#include <string.h>
#include "kws_adapt.h"
#include "kws_store.h"
static uint8_t flash[2][KWS_SLOT_BYTES], good[2][KWS_SLOT_BYTES];
static uint8_t stored[KWS_WEIGHTS_BYTES], present[KWS_WEIGHTS_BYTES], after[KWS_WEIGHTS_BYTES];
static float input[KWS_INPUT];
static uint32_t state = 1;
static uint32_t draw(void) { return state = state * 1664525u + 1013904223u; }
static int get(void *c, int slot, uint32_t at, uint8_t *bytes, uint32_t count)
{
    (void)c;
    if (slot < 0 || slot > 1 || at > KWS_SLOT_BYTES || count > KWS_SLOT_BYTES - at) return 1;
    memcpy(bytes, flash[slot] + at, count);
    return 0;
}
static int put(void *c, int slot, uint32_t at, const uint8_t *bytes, uint32_t count)
{
    (void)c;
    if (slot < 0 || slot > 1 || at > KWS_SLOT_BYTES || count > KWS_SLOT_BYTES - at) return 1;
    memcpy(flash[slot] + at, bytes, count);
    return 0;
}
int main(void)
{
    const kws_flash where = {get, put, 0};
    const int64_t label = 1;
    uint32_t refused = 0;
    kws_init();
    for (int k = 0; k < 2; k++)
        if (kws_save(&where) != KWS_STORED) return 1;
    memcpy(good, flash, sizeof good);
    kws_get_weights(stored);
    for (int k = 0; k < KWS_INPUT; k++) input[k] = (float)(k % 5);
    kws_stages[1].step(input, &label);
    kws_get_weights(present);
    if (memcmp(stored, present, sizeof stored) == 0) return 2;
    for (int trial = 0; trial < 1500; trial++) {
        const uint32_t kind = draw() >> 30, most = trial % 2 ? 40u : KWS_SLOT_BYTES;
        memcpy(flash, good, sizeof good);
        kws_set_weights(present);
        for (uint32_t slot = 0; slot < 2; slot++) {
            const uint32_t at = (draw() >> 8) % most;
            if (trial % 5 == 0 && slot == 1) continue;
            if (kind == 0) flash[slot][at] ^= (uint8_t)(1u << (draw() >> 29));
            if (kind == 1) flash[slot][at] = (uint8_t)(flash[slot][at] + 1u + (draw() >> 24) % 255u);
            if (kind == 2) memset(flash[slot] + at, trial % 3 ? 0xFF : 0x5A, KWS_SLOT_BYTES - at);
            if (kind == 3)
                for (uint32_t i = at; i < KWS_SLOT_BYTES; i++) flash[slot][i] = (uint8_t)(draw() >> 24);
        }
        const kws_stored result = kws_load(&where);
        kws_get_weights(after);
        if (memcmp(after, result == KWS_STORED ? stored : present, sizeof after) != 0) return 3;
        if (!kws_why(result)[0]) return 4;
        refused += result != KWS_STORED;
    }
    return refused < 1000 ? 5 : 0;
}
"""


@pytest.fixture(scope="module")
def libraries(tmp_path_factory):
    folder = tmp_path_factory.mktemp("libraries")
    plain = {"batch_size": 1, "momentum": 0.0, "epochs": 2}
    torch.manual_seed(0)
    stages = ["statistics", lf.Stage("sparse_update", {"train": "head"}, lr=0.01, name="head", **plain)]
    export_library(SmallConv(1, (8, 8), 3).eval(), stages, torch.randn(1, 1, 8, 8), folder / "kws", prefix="kws_", steps=2)
    stages = [lf.Stage("backprop", lr=0.01, **plain)]
    net = MLP(in_features=12, hidden=(8,), num_classes=4).eval()
    export_library(net, stages, torch.randn(1, 12), folder / "har", prefix="har_", firmware=lf.Firmware(sample_type="int8"), steps=2)
    return folder


def test_two_libraries_link_into_one_c_plus_plus_firmware_and_leave_each_other_alone(libraries):
    (libraries / "main.cpp").write_text(MAIN)
    for name in ("kws", "har"):
        selftest = f"CPPFLAGS=-I. -Ikernels -D{name.upper()}_SELFTEST"
        subprocess.run(["make", "-C", str(libraries / name / "c"), selftest, "OPTIMISE=-O1"], check=True, capture_output=True)
    include = [flag for name in ("kws", "har") for flag in (f"-I{libraries / name / 'c'}",)]
    parts = [str(libraries / name / "c" / f"lib{name}.a") for name in ("kws", "har")]
    flags = "-std=c++11 -Wall -Wextra -Werror -Wconversion -Wshadow -pedantic -DKWS_SELFTEST -DHAR_SELFTEST".split()
    main = str(libraries / "main")
    subprocess.run([compiler("g++"), *flags, *include, f"{main}.cpp", *parts, "-lm", "-o", main], check=True)
    done = subprocess.run([main], capture_output=True, text=True)
    assert done.returncode == 0 and ("kept" in done.stdout or "rolled back" in done.stdout), done


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_strict_compilers_have_nothing_to_say(libraries, target, tmp_path):
    code = libraries / "kws" / "c"
    gcc = [compiler("gcc")] if target == "host" else [GCC, "-mthumb", *TARGETS[target].split()]
    files = [str(file) for file in sorted([*code.glob("*.c"), *(code / "kernels").glob("*.c")])]
    done = subprocess.run([*gcc, *STRICT, "-O2", *includes(code), "-c", *files], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr[:2000]


def test_a_stranger_s_blobs_change_nothing(libraries, tmp_path):
    """1,500 of them under the sanitizers: header and body, single bits to whole slots."""
    code = libraries / "kws" / "c"
    (tmp_path / "main.c").write_text(HOSTILE)
    flags = [*STRICT, "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    files = [str(file) for file in sorted([*code.glob("*.c"), *(code / "kernels").glob("*.c")])]
    command = [compiler("gcc"), *flags, *includes(code), str(tmp_path / "main.c"), *files, "-lm", "-o", str(tmp_path / "main")]
    subprocess.run(command, check=True)
    done = subprocess.run([str(tmp_path / "main")], capture_output=True, text=True)
    assert done.returncode == 0, (done.returncode, done.stderr[-1000:])
