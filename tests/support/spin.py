"""Spin on the model of the protocol (docs/model/membership.pml): it checks, and it gives traces."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

MODEL = Path(__file__).parents[2] / "docs" / "model" / "membership.pml"
#: Steps of the model, printed or not, after which a random order ends.
STEPS = 250
_STEP = re.compile(
    r"TRACE (\d+) (\w+) (\d+) known=(\d+) by_call=(\d) due=(\d) inbox=(\d+) "
    r"held=(\d+) rejected=(\d+) amberflo=(\d)"
)


class Facts(NamedTuple):
    """What is so, as the model has it. `held` and `rejected` are versions, 0 where none is."""

    #: the newest version of the state, and whether a call said it
    known: int
    by_call: bool
    due: bool
    #: versions of the calls that were accepted and wait
    inbox: frozenset[int]
    held: int
    rejected: int
    amberflo: bool


class Step(NamedTuple):
    """What a part (a number of a process of the model) did, and what is so after it.

    `number` is the version that the step is about; of `commits` whether the guard holds exits.
    """

    part: int
    what: str
    number: int
    after: Facts


def check(folder: Path, prop: str, *defines: str) -> tuple[int, int]:
    """Let Spin check a property; gives the errors that it finds, and the states that it stored."""
    # An error is found at once; only a search of all states is worth the compiler's time.
    effort = "-O0" if any("PLANT" in define for define in defines) else "-O1"
    fair = ["-f"] if prop == "converges" else []
    _command(folder, "spin", *defines, "-a", str(MODEL))
    _command(folder, "cc", effort, "-w", "-DNFAIR=3", "-o", "pan", "pan.c")
    output = _command(folder, "./pan", "-a", *fair, "-m400000", "-n", "-N", prop)
    errors = re.search(r"errors: (\d+)", output)
    states = re.search(r"(\d+) states, stored", output)
    assert errors is not None, output
    assert states is not None, output
    assert "too small" not in output
    return int(errors[1]), int(states[1])


def trail(folder: Path, *defines: str) -> list[Step]:
    """The order in which the error happens that `check` found last in this folder."""
    found_in = folder / f"{MODEL.name}.trail"
    return _steps(_command(folder, "spin", *defines, "-T", "-k", str(found_in), str(MODEL)))


def random_order(folder: Path, seed: int) -> list[Step]:
    """A random order of the model's steps; a run that changes nothing stands in it once."""
    output = _command(folder, "spin", f"-n{seed}", f"-u{STEPS}", "-T", str(MODEL))
    steps: list[Step] = []
    for step in _steps(output):
        steps.append(step)
        if steps[-2:] == steps[-4:-2]:
            del steps[-2:]
    return steps


def _steps(output: str) -> list[Step]:
    steps = []
    for part, what, *numbers in _STEP.findall(output):
        number, known, by_call, due, inbox, held, rejected, amberflo = map(int, numbers)
        versions = frozenset(version for version in range(8) if inbox >> version & 1)
        facts = Facts(known, bool(by_call), bool(due), versions, held, rejected, bool(amberflo))
        steps.append(Step(int(part), what, number, facts))
    assert steps, output
    return steps


def _command(folder: Path, program: str, *words: str) -> str:
    """Run a program in the folder; without it the test is skipped."""
    if not program.startswith("./") and shutil.which(program) is None:
        pytest.skip(f"{program} is needed")
    output = subprocess.run(
        [program, *words], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert output.returncode == 0, output.stdout + output.stderr
    return output.stdout
