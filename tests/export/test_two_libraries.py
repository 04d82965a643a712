"""Two programs in one firmware, a C++ main, and folders that are used again."""

import re
import subprocess

import pytest
from lightning_fwd_export import ExportError
from lightning_fwd_export.folder import clear_export
from lightning_fwd_export.generate_c import translate, write_sources
from lightning_fwd_export.host.runtime import compiler

import lightning_fwd as lf

MAIN = """
#include <cstdio>
#include "kws_model.h"
#include "kws_store.h"
#include "har_model.h"
#include "har_store.h"
int main()
{
    static_assert(KWS_WEIGHTS_BYTES > 0 && HAR_SLOT_BYTES % HAR_PIECE_BYTES == 0, "");
    kws_init();
    har_init();
    kws_set_rate(0.01f);
    std::puts(kws_why(KWS_NOTHING_STORED));
    return kws_selftest() + har_selftest();
}
"""


@pytest.fixture(scope="module")
def libraries(exported, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    for prefix, network in (("kws_", "mlp"), ("har_", "conv")):
        program, _, out = exported(network, lf.Backprop(batch_norm="freeze"), steps=2, momentum=0.0)
        files = translate(program.data)[1].files | {"lfwd_selftest.c": (out / "c" / "lfwd_selftest.c").read_text()}
        write_sources(files, folder / prefix, prefix)
    return folder


def test_link_into_one_c_plus_plus_firmware(libraries):
    (libraries / "main.cpp").write_text(MAIN)
    for prefix in ("kws_", "har_"):
        selftest = f"CPPFLAGS=-I. -Ikernels -D{prefix.upper()}SELFTEST"
        subprocess.run(["make", "-C", str(libraries / prefix), selftest], check=True, capture_output=True)
    parts = [str(libraries / p / f"lib{p[:-1]}.a") for p in ("kws_", "har_")]
    include = [f"-I{libraries / p}" for p in ("kws_", "har_")]
    flags = "-std=c++11 -Wall -Wextra -Werror -pedantic -DKWS_SELFTEST -DHAR_SELFTEST".split()
    subprocess.run(
        [compiler("g++"), *flags, *include, str(libraries / "main.cpp"), *parts, "-lm", "-o", str(libraries / "main")], check=True
    )
    done = subprocess.run([str(libraries / "main")], capture_output=True, text=True)
    assert done.returncode == 0 and "nothing is stored" in done.stdout


def test_every_name_begins_with_the_prefix(libraries):
    names = subprocess.run(["nm", "-g", "--defined-only", str(libraries / "kws_" / "libkws.a")], capture_output=True, text=True).stdout
    symbols = [line.split()[2] for line in names.splitlines() if len(line.split()) == 3]
    assert len(symbols) > 20 and all(s.startswith("kws_") for s in symbols)
    for file in [*(libraries / "kws_").rglob("*.[ch]")]:
        text = file.read_text()
        assert "SPDX-License-Identifier: Apache-2.0" in text.splitlines()[0] + text.splitlines()[1]
        assert not re.search(r"\b(lfwd|LFWD)_", text) and not file.name.startswith("lfwd")


@pytest.mark.parametrize("prefix", ["", "kws", "2_", "Kws_", "a b_", "k-s_", "kws_; rm -rf"])
def test_a_prefix_that_is_no_name_is_refused(prefix, tmp_path):
    with pytest.raises(ExportError, match="prefix"):
        write_sources({}, tmp_path / "out", prefix)
    assert not (tmp_path / "out").exists()


def test_a_folder_used_again_keeps_no_stale_file(exported, tmp_path):
    program, _, out = exported("mlp", lf.Backprop(batch_norm="freeze"), steps=2, momentum=0.0)
    files, code = translate(program.data)[1].files, tmp_path / "c"
    write_sources(files | {"lfwd_selftest.c": "", "lfwd_prepare.c": ""}, code, "kws_")
    (code / "kernels/of_an_older_release.c").write_text("#error stale")
    for name in ("libkws.a", "kws_model.o", "kernels/copy.o"):
        (code / name).write_text("")
    own = {"main.c": "int main(void) { return 0; }", "kws_main.c": "/* of the user's */", "app.o": ""}
    for name, text in own.items():
        (code / name).write_text(text)
    write_sources(files, code)
    assert sorted(p.name for p in code.iterdir() if "kws" in p.name) == ["kws_main.c"]
    assert not list(code.glob("kernels/*.o")) and not (code / "kernels/of_an_older_release.c").exists()
    assert all((code / name).read_text() == text for name, text in own.items()) and (code / "lfwd_store.c").exists()
    for name in ("inference.pte", "adaptation.json", "notes.txt"):
        (tmp_path / name).write_text("")
    clear_export(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c", "notes.txt"]
    assert {p.name for p in code.iterdir() if p.is_file()} - set(own) == {"Makefile"}
