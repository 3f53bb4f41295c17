"""The direction of imports (docs/design.md §2): who may know whom, and where each library is
used."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted([*(ROOT / "syncer").rglob("*.py"), *(ROOT / "state").rglob("*.py")])


@cache
def imported(file: Path) -> set[str]:
    """The modules that a file imports, at its top or anywhere else."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names.add(node.module or "")
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def inside(package: str) -> list[Path]:
    return [file for file in FILES if file.is_relative_to(ROOT / package.replace(".", "/"))]


def uses(file: Path, package: str) -> bool:
    return any(name == package or name.startswith(package + ".") for name in imported(file))


def test_there_is_something_to_look_at() -> None:
    assert uses(ROOT / "syncer/app.py", "state")
    assert len(FILES) > 20


#: The floors of the house (docs/architecture.md): a module imports from its own room and from the
#: floors below, never from a room beside it or above.
FLOORS: list[set[str]] = [
    {"state"},
    {"syncer.errors", "syncer.ids", "syncer.input_text", "syncer.json_text"},
    {"syncer.cache", "syncer.display", "syncer.wakeup"},
    {
        "syncer.clock",
        "syncer.chunks",
        "syncer.cron",
        "syncer.egress",
        "syncer.pause",
        "syncer.in_flight",
        "syncer.rate_limit",
        "syncer.retry",
        "syncer.progress",
        "syncer.stop",
    },
    {
        "syncer.event_times",
        "syncer.log",
        "syncer.process.runtime",
        "syncer.process.problem",
        "syncer.setting_types",
    },
    {"syncer.engage", "syncer.amberflo", "syncer.sandbox", "syncer.passthrough.scopes"},
    {"syncer.config"},
    {"syncer.databases", "syncer.process", "syncer.status"},
    {"syncer.delivery"},
    {"syncer.passthrough"},
    {"syncer.privacy"},
    {"syncer.sync"},
    {"syncer.verify"},
    {"syncer.app"},
    {"syncer.resend", "syncer.evidence", "syncer.capacity"},
    {"syncer.web"},
    {"syncer.daemon"},
    {"syncer.cli"},
    {"syncer.start"},
    {"syncer.__main__"},
]


def module_of(file: Path) -> str:
    name = file.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
    return name.removesuffix(".__init__")


def floor_of(module: str) -> tuple[int, str]:
    """The floor of a module and the room there, by the longest name that fits."""
    rooms = [(len(room), floor, room) for floor, rooms in enumerate(FLOORS) for room in rooms]
    _, floor, room = max(
        entry for entry in rooms if module == entry[2] or module.startswith(entry[2] + ".")
    )
    return floor, room


def test_no_import_runs_up() -> None:
    modules = {module_of(file) for file in FILES if file.name != "__init__.py"}
    wrong = []
    for file in FILES:
        if module_of(file) == "syncer":
            continue
        floor, room = floor_of(module_of(file))
        for other in imported(file) & modules:
            other_floor, other_room = floor_of(other)
            if other_room != room and other_floor >= floor:
                wrong.append(f"{module_of(file)} imports {other}")
    assert not wrong


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("state", ["syncer"]),
        ("syncer.engage", ["state"]),
        ("syncer.amberflo", ["state"]),
        ("syncer.sandbox", ["state"]),
    ],
)
def test_parts_do_not_know_each_other(package: str, forbidden: list[str]) -> None:
    wrong = [
        f"{file.relative_to(ROOT)} imports {other}"
        for file in inside(package)
        for other in forbidden
        if uses(file, other)
    ]
    assert not wrong


@pytest.mark.parametrize(
    ("library", "homes"),
    [
        ("httpx", {"syncer/engage/public_api.py", "syncer/engage/profile_client.py"}),
        ("aiohttp", {"syncer/amberflo", "syncer/sandbox"}),
        ("fsspec", {"syncer/engage/files/storage.py"}),
        ("duckdb", {"syncer/engage/files/records.py", "syncer/engage/warehouses"}),
        ("apprise", {"syncer/daemon/channels.py"}),
        ("click", {"syncer/cli"}),
        ("apscheduler", {"syncer/daemon/schedule.py"}),
        ("cronsim", {"syncer/cron.py"}),
        ("sqlmodel", {"state/db/models.py", "state/db/queue_models.py", "state/db/schema.py"}),
        ("rich", {"syncer/cli/console.py", "syncer/cli/progress_bar.py"}),
        (
            "starlette",
            {
                "syncer/passthrough/receiver.py",
                "syncer/passthrough/request.py",
                "syncer/web/app.py",
                "syncer/daemon/ops.py",
            },
        ),
        ("jinja2", {"syncer/web/render.py"}),
        ("uvicorn", {"syncer/process/server.py", "syncer/process/protocol.py"}),
        ("httptools", {"syncer/process/protocol.py"}),
    ],
)
def test_a_library_is_used_where_it_belongs(library: str, homes: set[str]) -> None:
    users = {file.relative_to(ROOT) for file in FILES if uses(file, library)}
    assert all(any(file.is_relative_to(home) for home in homes) for file in users), users


def test_the_pure_core_does_no_io() -> None:
    pure = ["sync/diff.py", "sync/guard.py", "engage/trait_names.py", "engage/values.py"]
    pure += [
        "amberflo/json_stream.py",
        "sync/readiness.py",
        "engage/computations.py",
        "engage/catalog.py",
        "amberflo/record.py",
        "retry.py",
        "in_flight.py",
        "rate_limit.py",
    ]
    pure += ["passthrough/parsing.py", "passthrough/call.py", "passthrough/mapping.py"]
    pure += ["passthrough/scopes.py", "passthrough/signature.py"]
    pure += ["engage/calls.py", "engage/wide.py", "engage/files/layouts.py"]
    pure += ["engage/catalog_builder.py", "engage/selection.py", "json_text.py", "cron.py"]
    pure += ["capacity/machine.py", "capacity/forecast.py", "capacity/advice.py"]
    for file in pure:
        for module in ("time", "random", "os", "socket", "sqlalchemy", "httpx", "asyncio"):
            assert not uses(ROOT / "syncer" / file, module), f"{file} imports {module}"


#: The models of the tables, and what they load (10 MB): for who works on the whole schema.
MODELS = {"sqlmodel", "sqlalchemy.orm", "state.db.models"}
#: What a process imports first, and what is then not to be loaded yet: one process can import them
#: all in this order, since no later one may do without more. `rich` (7 MB, also loaded by httpx) is
#: for terminals; only the daemon schedules (14 MB).
SLIM: list[tuple[str, set[str]]] = [
    ("syncer.cli", {"asyncio", "orjson", "pydantic", "rich", "sqlalchemy", "syncer.config"}),
    ("syncer.config", {"apscheduler", "httpx", "rich", "fsspec", "duckdb"}),
    ("syncer.daemon.worker", {"apscheduler", "httpx", "rich", *MODELS}),
    ("syncer.daemon.run_process", {"apscheduler", "httpx", "rich", *MODELS}),
    ("syncer.web.server", {"apscheduler", "httpx", "rich", *MODELS}),
    ("syncer.web.task_process", {"apscheduler", "httpx", "rich", *MODELS}),
    ("syncer.daemon.service", {"apprise", "httpx", "requests", "rich", *MODELS}),
]
#: A question about the state needs neither a run nor a connection; and the list of commands, which
#: `--help` prints before `syncer.cli` is looked at, none of them.
QUESTION: list[tuple[str, set[str]]] = [
    ("syncer.cli.status", {"aiohttp", "apscheduler", "httpx", "jinja2", "starlette", "uvloop"}),
    ("syncer.cli.status", {"syncer.app", "syncer.amberflo", "syncer.delivery", "syncer.sync"}),
    ("syncer.cli.status", {"rich", "sqlalchemy.dialects.postgresql", *MODELS}),
]
HELP = """
import contextlib, io, sys, syncer.cli
with contextlib.redirect_stdout(io.StringIO()):
    syncer.cli.cli(["--help"], standalone_mode=False)
"""


@pytest.mark.parametrize("slim", [SLIM, QUESTION], ids=["processes", "status"])
def test_a_process_loads_no_library_that_it_does_not_need(
    slim: list[tuple[str, set[str]]],
) -> None:
    program = HELP + "".join(f"import {module}; print(*sys.modules)\n" for module, _ in slim)
    printed = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    for (module, libraries), line in zip(slim, printed.splitlines(), strict=True):
        assert module in line.split()
        assert libraries.isdisjoint(line.split()), module
