"""The reference pages of docs/, read and written.

    python -m tests.support.reference

writes every command's `--help` into docs/reference/cli.md, and into the man page beside it,
and the OpenAPI document of the receiver.
tests/unit/test_reference.py and tests/e2e/test_reference.py compare the pages with the program.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import click

from syncer.passthrough import openapi

ROOT = Path(__file__).parents[2]
OPENAPI = ROOT / "docs/reference/openapi.json"

#: Columns of a help text on the page.
WIDTH = 100

_HELP = re.compile(r"^##+ `(syncer[^`]*)`\n\n```text\n(.*?)\n```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`]+)`")


def page(name: str) -> str:
    """The text of a reference page."""
    return document(f"docs/reference/{name}")


def document(path: str) -> str:
    """The text of a document, by its path from the root."""
    return (ROOT / path).read_text(encoding="utf-8")


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


MAN_PAGE = ROOT / "docs/reference/syncer.1"


def man_page() -> str:
    """The man page: what cli.md says, and the help of every command, as roff."""
    before, _, _ = page("cli.md").partition("\n## ")
    (statuses,) = tables(before)
    by_name = helps()
    lines = [
        '.TH SYNCER 1 "" "engage-amberflo-sync" "User Commands"',
        ".SH NAME",
        r"syncer \- keep Amberflo's customers in step with Segment Engage",
        ".SH SYNOPSIS",
        r".B syncer",
        r"COMMAND [\-\-config FILE] [\-\-json] [OPTIONS]",
        ".SH COMMANDS",
        *_no_fill(by_name.pop("syncer")),
    ]
    for name, text in by_name.items():
        lines += [f".SS {_roff(name)}", *_no_fill(text)]
    lines += [".SH EXIT STATUS"]
    for status, means in statuses.rows:
        lines += [".TP", f".B {status}", _roff(means)]
    lines += [
        ".SH ENVIRONMENT",
        *(".TP", ".B SYNCER_CONFIG", r"The config file, where no \-\-config names one."),
        *(".TP", ".B SYNCER_SECTION__KEY", "The setting section.key, over that of the file."),
        ".SH FILES",
        *(".TP", ".I config.toml", "The config, in the working folder."),
    ]
    return "\n".join(lines) + "\n"


def _no_fill(text: str) -> list[str]:
    """A text whose lines stay as they are."""
    return [".nf", *map(_roff, text.splitlines()), ".fi"]


def _roff(line: str) -> str:
    """A line of text: no character of it is one of roff's."""
    escaped = line.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


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


@cache
def metrics() -> set[Metric]:
    """The metrics that the code makes: calls of Prometheus' classes with a name of ours."""
    files = [*(ROOT / "syncer").rglob("*.py"), *(ROOT / "state").rglob("*.py")]
    texts = (file.read_text(encoding="utf-8") for file in files)
    trees = (ast.parse(text) for text in texts if "prometheus" in text)
    calls = (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call))
    return {metric for call in calls if (metric := _metric(call)) is not None}


def _metric(call: ast.Call) -> Metric | None:
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    kind = re.fullmatch(r"(Counter|Gauge|Histogram|Summary)(MetricFamily)?", name)
    texts = [argument.value for argument in call.args[:1] if isinstance(argument, ast.Constant)]
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


# -- HTTP


def refusal_codes() -> set[str]:
    """The codes of refused requests that the receiver and its server have."""
    files = [*(ROOT / "syncer/passthrough").rglob("*.py"), *(ROOT / "syncer/process").rglob("*.py")]
    return {
        code
        for file in files
        for code in _codes(ast.parse(file.read_text(encoding="utf-8")))
        if re.fullmatch("[a-z_]+", code)
    }


def _codes(tree: ast.Module) -> Iterator[str]:
    """`Refusal(429, "queue_full", …)`, `code="malformed"` as an argument or its default, what
    `refused("…")` counts, and the keys of a table of refusals: `{BUSY: (503, "…")}`."""
    names = dict(_constants(tree))
    for node in ast.walk(tree):
        match node:
            case ast.Call(args=[ast.Constant(value=int()), ast.Constant(value=str(text)), *_]):
                yield text
            case ast.Call(func=ast.Attribute(attr="refused"), args=[ast.Constant(value=text)]):
                yield str(text)
            case ast.keyword(arg="code", value=value):
                yield from _texts(value)
            case ast.arguments(kwonlyargs=names_of, kw_defaults=defaults):
                for argument, default in zip(names_of, defaults, strict=True):
                    if argument.arg == "code" and default is not None:
                        yield from _texts(default)
            case ast.Dict(keys=keys, values=[ast.Tuple(elts=[ast.Constant(value=int()), *_]), *_]):
                yield from (names[key.id] for key in keys if isinstance(key, ast.Name))


def _texts(node: ast.AST) -> Iterator[str]:
    for below in ast.walk(node):
        if isinstance(below, ast.Constant) and isinstance(below.value, str):
            yield below.value


def _constants(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """The texts that a module has names for."""
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=str(text))):
                yield name, text
            case ast.Assign(targets=[ast.Tuple(elts=targets)], value=ast.Tuple(elts=right)):
                for target, value in zip(targets, right, strict=False):
                    if isinstance(target, ast.Name):
                        yield from ((target.id, text) for text in _texts(value))


def page_paths() -> set[str]:
    """The paths of the operator's page: the keys of every `READS` and `WRITES`."""
    files = (ROOT / "syncer/web").glob("*.py")
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in files]
    return {
        str(key.value).replace("{which}", "N")
        for tree in trees
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict)
        for target in node.targets
        if isinstance(target, ast.Name) and target.id in ("READS", "WRITES")
        for key in node.value.keys
        if isinstance(key, ast.Constant)
    }


# -- JSON documents


@dataclass(frozen=True)
class Document:
    """An object as json.md describes it: the type of each field, and those that may be missing."""

    fields: dict[str, str]
    optional: frozenset[str]


_PRINTS = re.compile(r"^## `?([^`\n]+)`?\nPrints: (.+)$", re.MULTILINE)
_SHAPE = re.compile(r"^### (\w+)\n(.*?)(?=^##|\Z)", re.MULTILINE | re.DOTALL)
_LIKE = re.compile(r"^Everything of \[(\w+)\]", re.MULTILINE)
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


class Documents:
    """The documents that json.md describes; remembers which of them were seen."""

    def __init__(self, text: str) -> None:
        self.prints = {name: _plain(kind) for name, kind in _PRINTS.findall(text)}
        bodies = dict(_SHAPE.findall(text))
        self.shapes = {name: _document(name, bodies) for name in bodies}
        self._seen = set[tuple[str, str]]()

    def wrong(self, heading: str, value: object) -> list[str]:
        """What of a document is not as the page says under a heading."""
        return list(self._wrong(value, self.prints[heading], ""))

    def unseen(self) -> set[str]:
        """The shapes that have a field which no document had so far."""
        return {
            name
            for name, shape in self.shapes.items()
            if any((name, key) not in self._seen for key in shape.fields)
        }

    def _wrong(self, value: Any, kind: str, path: str) -> Iterator[str]:
        kind, or_null = kind.removesuffix(" or null"), kind.endswith(" or null")
        if value is None and or_null:
            return
        if kind in self.shapes and isinstance(value, dict):
            yield from self._wrong_fields(value, kind, path)
        elif kind.startswith("list of ") and isinstance(value, list):
            for number, item in enumerate(value):
                yield from self._wrong(item, kind.removeprefix("list of "), f"{path}[{number}]")
        elif kind.startswith("map of ") and isinstance(value, dict):
            for key, item in value.items():
                yield from self._wrong(item, kind.removeprefix("map of "), f"{path}.{key}")
        elif not _is_of(value, kind):
            yield f"{path} is no {kind}: {value!r}"

    def _wrong_fields(self, value: dict[str, Any], name: str, path: str) -> Iterator[str]:
        shape = self.shapes[name]
        for key in sorted(shape.fields.keys() - value.keys() - shape.optional):
            yield f"{path} has no {key}"
        for key in sorted(value.keys() - shape.fields.keys()):
            yield f"{path} has {key}, which is not on the page"
        for key in shape.fields.keys() & value.keys():
            self._seen.add((name, key))
            yield from self._wrong(value[key], shape.fields[key], f"{path}.{key}")


def _document(name: str, bodies: dict[str, str]) -> Document:
    """The object that a part of the page describes, with the fields of another that it names."""
    body = bodies[name]
    like = _LIKE.search(body)
    above = _document(like[1], bodies) if like else Document({}, frozenset())
    rows = [row for table in tables(body) for row in table.rows]
    kinds = {code(key): _plain(kind) for key, kind, _ in rows}
    optional = {key for key, kind in kinds.items() if "," in kind}
    fields = {key: kind.partition(",")[0] for key, kind in kinds.items()}
    return Document(above.fields | fields, above.optional | optional)


def _plain(kind: str) -> str:
    """A type without its links."""
    return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", kind)


def _is_of(value: object, kind: str) -> bool:
    match kind:
        case "JSON":
            return True
        case "text":
            return isinstance(value, str)
        case "time":
            return isinstance(value, str) and bool(_TIME.fullmatch(value))
        case "boolean":
            return isinstance(value, bool)
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
    return False


if __name__ == "__main__":
    cli_page = ROOT / "docs/reference/cli.md"
    cli_page.write_text(with_helps(page("cli.md"), helps()), encoding="utf-8")
    MAN_PAGE.write_text(man_page(), encoding="utf-8")
    OPENAPI.write_bytes(openapi.document())
