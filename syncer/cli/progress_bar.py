"""Show progress on stderr: a bar on a terminal, else lines."""

from __future__ import annotations

import sys
from collections.abc import Iterable

import click
from rich.console import RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from syncer.cli.console import VisibleConsole
from syncer.display import visible
from syncer.progress import OVER, LineProgress


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0:,.0f}/s", style="dim")


class _Bar(Progress):
    """A bar, and below it what keeps the work from going on."""

    trouble: str | None = None

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self.trouble is not None:
            yield Text(visible(self.trouble), style="bold red")


class BarProgress:
    """A bar with the rate and the remaining time."""

    def __init__(self) -> None:
        self._console = VisibleConsole(stderr=True, highlight=False, markup=False)
        self._bar: _Bar | None = None
        self._between = LineProgress(self.say)

    def say(self, text: str) -> None:
        self._console.print(text)

    def begin(self, stage: str, total: int, done: int = 0) -> None:
        self._bar = _Bar(
            TextColumn("{task.description:<10}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
        )
        self._task = self._bar.add_task(stage, total=total, completed=done)
        self._bar.start()

    def at(self, done: int) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=done)

    def trouble(self, text: str | None) -> None:
        if self._bar is None:
            self._between.trouble(text)
        else:
            if text is None and self._bar.trouble is not None:
                self.say(OVER)
            self._bar.trouble = text
            self._bar.refresh()

    def close(self) -> None:
        """Leave the terminal as it was, where an error ended the work in the middle of a stage."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def end(self) -> None:
        if self._bar is not None:
            self._bar.trouble = None
            task = self._bar.tasks[0]
            if not task.finished and task.description == "comparing":
                self._bar.update(self._task, completed=task.total)
            self.close()


def progress() -> BarProgress | LineProgress:
    """Return a bar if stderr is a terminal, else lines; a bar ends with the command at last."""
    if not sys.stderr.isatty():
        return LineProgress()
    bar = BarProgress()
    if (context := click.get_current_context(silent=True)) is not None:
        context.call_on_close(bar.close)
    return bar
