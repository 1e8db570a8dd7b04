from __future__ import annotations

from pathlib import Path

import pytest

from esen_lab.devices.cpu.precision import slower_in

X86 = "processor\t: 0\nflags\t\t: fpu avx2 {}\n\nprocessor\t: 1\nflags\t\t: fpu avx2 {}\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd {}\n"


@pytest.mark.parametrize(
    ("precision", "machine", "flags", "faster"),
    [
        ("bf16", "x86_64", "amx_bf16 amx_int8", True),
        ("bf16", "x86_64", "avx512_bf16", True),
        ("bf16", "x86_64", "avx512f avx512_vnni", False),
        ("int8", "x86_64", "avx512f avx512_vnni", True),
        ("int8", "x86_64", "avx_vnni", True),
        ("int8", "x86_64", "", False),
        ("bf16", "aarch64", "bf16", True),
        ("bf16", "aarch64", "asimddp", False),
        ("int8", "aarch64", "asimddp", True),
        ("int8", "arm64", "", False),
        ("fp16", "x86_64", "", True),
    ],
)
def test_what_will_not_be_faster_is_said(
    tmp_path: Path, precision: str, machine: str, flags: str, faster: bool
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text((ARM if machine.startswith("a") else X86).replace("{}", flags))
    said = slower_in(precision, cpuinfo, machine)
    assert (said == "") is faster
    assert faster or said.startswith(f"{precision} will not be faster on this processor")


def test_nothing_is_said_where_nothing_is_known(tmp_path: Path) -> None:
    assert slower_in("bf16", tmp_path / "missing", "x86_64") == ""
    (tmp_path / "empty").write_text("model name : abacus\n")
    assert slower_in("bf16", tmp_path / "empty", "x86_64") == ""
