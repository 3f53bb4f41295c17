"""The reference pages of docs/, read and written.

    python -m tests.support.reference

writes every command's `--help` into docs/reference/cli.md. tests/unit/test_reference.py and
tests/e2e/test_reference.py compare the pages with the program.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
#: Columns of a help text on the page.
WIDTH = 100

_HELP = re.compile(r"^##+ `(syncer[^`]*)`\n\n```text\n(.*?)\n```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`]+)`")


def page(name: str) -> str:
    """The text of a reference page."""
    return (REFERENCE / name).read_text(encoding="utf-8")


# -- the command line


def helps() -> dict[str, str]:
    """The `--help` of every command, by its name such as "syncer runs show"."""
    from syncer.cli import cli

    settings = {**cli.context_settings, "info_name": "syncer", "terminal_width": WIDTH}
    return dict(_helps(cli, click.Context(cli, **settings)))


def _helps(command: click.Command, context: click.Context) -> Iterator[tuple[str, str]]:
    yield context.command_path, context.get_help()
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None, name
            below = click.Context(child, info_name=name, parent=context, terminal_width=WIDTH)
            yield from _helps(child, below)


def helps_on(text: str) -> dict[str, str]:
    """The help texts that a page has below its commands' headings, by the command's name."""
    return dict(_HELP.findall(text))


def with_helps(text: str, by_name: dict[str, str]) -> str:
    """The page with these help texts; a command without a heading gets one at the end."""

    def replace(match: re.Match[str]) -> str:
        start, end = match.start(2) - match.start(), match.end(2) - match.start()
        return match[0][:start] + by_name.get(match[1], match[2]) + match[0][end:]

    missing = by_name.keys() - helps_on(text).keys()
    return _HELP.sub(replace, text) + "".join(
        f"\n{'##' if name.count(' ') < 2 else '###'} `{name}`\n\n```text\n{by_name[name]}\n```\n"
        for name in by_name
        if name in missing
    )


# -- tables


@dataclass(frozen=True)
class Table:
    """A table of a page below its heading: a row is its cells, as they are written."""

    heading: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def column(self, name: str) -> list[str]:
        """The cells of a column."""
        place = self.columns.index(name)
        return [row[place] for row in self.rows]


def tables(text: str) -> list[Table]:
    """The tables of a page, in order."""
    heading, lines, result = "", list[tuple[str, ...]](), list[Table]()
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            cells = re.split(r"(?<!\\)\|", line.strip().strip("|"))
            lines.append(tuple(cell.strip() for cell in cells))
            continue
        if lines:
            result.append(Table(heading, lines[0], tuple(lines[2:])))
            lines = []
        if line.startswith("#"):
            heading = line.lstrip("# ")
    return result


def code(cell: str) -> str:
    """The first text of a cell that is marked as code."""
    match = _CODE.search(cell)
    assert match is not None, cell
    return match[1]


def codes(cell: str) -> list[str]:
    """All texts of a cell that are marked as code."""
    return _CODE.findall(cell)


# -- metrics


@dataclass(frozen=True)
class Metric:
    """A metric by the name that Prometheus sees."""

    name: str
    kind: str
    labels: tuple[str, ...]


def metrics() -> set[Metric]:
    """The metrics that the code makes: calls of Prometheus' classes with a name of ours."""
    files = [*(ROOT / "syncer").rglob("*.py"), *(ROOT / "state").rglob("*.py")]
    trees = (ast.parse(file.read_text(encoding="utf-8")) for file in files)
    calls = (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call))
    return {metric for call in calls if (metric := _metric(call)) is not None}


def _metric(call: ast.Call) -> Metric | None:
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    kind = re.fullmatch(r"(Counter|Gauge|Histogram|Summary)(MetricFamily)?", name)
    texts = [one.value for one in call.args[:1] if isinstance(one, ast.Constant)]
    if kind is None or not texts or not str(texts[0]).startswith("syncer_"):
        return None
    lists = [*call.args, *(keyword.value for keyword in call.keywords if keyword.arg == "labels")]
    labels = [
        str(item.value)
        for value in lists
        if isinstance(value, ast.List)
        for item in value.elts
        if isinstance(item, ast.Constant)
    ]
    suffix = "_total" if kind[1] == "Counter" else ""
    return Metric(f"{texts[0]}{suffix}", kind[1].lower(), tuple(labels))


if __name__ == "__main__":
    cli_page = REFERENCE / "cli.md"
    cli_page.write_text(with_helps(page("cli.md"), helps()), encoding="utf-8")
