"""The model of the protocol (docs/model.md): its properties hold, and without a rule one fails."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
MODEL = DOCS / "model" / "membership.pml"
#: The rule that only `converges` misses; all others make something unsafe.
LIVENESS = {9}
PLANTS = [int(number) for number in re.findall(r"\(PLANT == (\d+)\)", MODEL.read_text())]


def check(folder: Path, prop: str, *defines: str) -> tuple[int, int]:
    """Let Spin check a property; gives the errors that it finds, and the states that it stored."""
    for program in ("spin", "cc"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is needed")
    # An error is found at once; only a search of all states is worth the compiler's time.
    effort = "-O0" if any("PLANT" in define for define in defines) else "-O1"
    fair = ["-f"] if prop == "converges" else []
    commands = [
        ["spin", *defines, "-a", str(MODEL)],
        ["cc", effort, "-w", "-DNFAIR=3", "-o", "pan", "pan.c"],
        ["./pan", "-a", *fair, "-m400000", "-n", "-N", prop],
    ]
    for command in commands:
        output = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
        assert output.returncode == 0, output.stdout + output.stderr
    errors = re.search(r"errors: (\d+)", output.stdout)
    states = re.search(r"(\d+) states, stored", output.stdout)
    assert errors is not None, output.stdout
    assert states is not None, output.stdout
    assert "too small" not in output.stdout
    return int(errors[1]), int(states[1])


def test_the_model_is_safe(tmp_path: Path) -> None:
    errors, states = check(tmp_path, "safe")
    assert errors == 0
    assert f"{states:,} states" in (DOCS / "model.md").read_text()


def test_a_smaller_one_converges(tmp_path: Path) -> None:
    """The whole one takes a minute of processor time: `converges` without `-DLAST=1`."""
    assert check(tmp_path, "converges", "-DLAST=1")[0] == 0


@pytest.mark.parametrize("number", PLANTS)
def test_without_a_rule_a_property_fails(tmp_path: Path, number: int) -> None:
    prop = "converges" if number in LIVENESS else "safe"
    assert check(tmp_path, prop, f"-DPLANT={number}")[0] == 1
    assert re.search(rf"^\| {number} \|", (DOCS / "model.md").read_text(), re.MULTILINE)
