"""The direction of imports (docs/design.md §2): who may know whom, and where each library is
used."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted([*(ROOT / "syncer").rglob("*.py"), *(ROOT / "state").rglob("*.py")])


def imported(file: Path) -> set[str]:
    """The modules that a file imports, at its top or anywhere else."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found.add(node.module or "")
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def inside(package: str) -> list[Path]:
    return [file for file in FILES if file.is_relative_to(ROOT / package.replace(".", "/"))]


def uses(file: Path, package: str) -> bool:
    return any(name == package or name.startswith(package + ".") for name in imported(file))


def test_there_is_something_to_look_at() -> None:
    assert uses(ROOT / "syncer/app.py", "state")
    assert len(FILES) > 20


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("state", ["syncer"]),
        ("syncer.engage", ["state", "syncer.amberflo", "syncer.passthrough", "syncer.sync"]),
        ("syncer.amberflo", ["syncer.engage", "syncer.passthrough", "syncer.sync"]),
        ("syncer.passthrough", ["syncer.delivery", "syncer.verify", "syncer.privacy"]),
        ("syncer.sandbox", ["syncer.sync", "syncer.passthrough"]),
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
        ("httpx", {"syncer/engage/public_api.py"}),
        ("aiohttp", {"syncer/amberflo", "syncer/sandbox"}),
        ("click", {"syncer/cli"}),
        ("apscheduler", {"syncer/daemon/schedule.py"}),
        ("sqlmodel", {"state/db/tables.py"}),
        ("rich", {"syncer/cli/output.py"}),
        (
            "starlette",
            {"syncer/passthrough/receiver.py", "syncer/web/app.py", "syncer/daemon/ops.py"},
        ),
        ("jinja2", {"syncer/web/render.py"}),
        ("uvicorn", {"syncer/process/server.py"}),
        ("httptools", {"syncer/process/server.py"}),
    ],
)
def test_a_library_is_used_where_it_belongs(library: str, homes: set[str]) -> None:
    found = {file.relative_to(ROOT) for file in FILES if uses(file, library)}
    assert all(any(file.is_relative_to(home) for home in homes) for file in found), found


def test_the_pure_core_does_no_io() -> None:
    pure = ["sync/diff.py", "sync/guard.py", "engage/trait_names.py", "engage/values.py"]
    pure += [
        "amberflo/json_stream.py",
        "sync/readiness.py",
        "engage/computations.py",
        "engage/catalog.py",
        "amberflo/record.py",
        "retry.py",
        "amberflo/rate_limit.py",
    ]
    pure += ["passthrough/call.py", "passthrough/mapping.py", "passthrough/signature.py"]
    for file in pure:
        for module in ("time", "random", "os", "socket", "sqlalchemy", "httpx", "asyncio"):
            assert not uses(ROOT / "syncer" / file, module), f"{file} imports {module}"
