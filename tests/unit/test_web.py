"""How pages write things, what a chart looks like, and what a visit makes of its parameters."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from state.history.past import Size
from syncer.web import render
from syncer.web.chart import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, chart
from syncer.web.messages import BadRequest, Request


def visit(**query: str) -> Request:
    return Request("/", query, {}, "")


def test_times_are_utc_and_exact_for_machines() -> None:
    assert render.time(1795503064123) == (
        '<time datetime="2026-11-24T06:51:04.123Z" title="2026-11-24T06:51:04.123Z">'
        "2026-11-24 06:51:04</time>"
    )
    assert "–" in render.time(None)
    assert render.time(317_326_291_200_000).endswith(">+012025-09-02 00:00:00</time>")
    assert render.day(1795503064123) == "2026-11-24 06:51"
    assert render.field(1795503064123) == "2026-11-24T06:51"


def test_values_and_messages_are_escaped() -> None:
    assert render.value('"<b>"') == "<code>&#34;&lt;b&gt;&#34;</code>"
    assert render.ticks("`x <y>` & z") == "<code>x &lt;y&gt;</code> &amp; z"
    assert "absent" in render.value(None)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0 s"), (119, "119 s"), (120, "2 min"), (9000, "2.5 h"), (400_000, "5 days")],
)
def test_lengths_of_time(seconds: float, shown: str) -> None:
    assert render.span(seconds) == shown


def test_links_leave_out_what_is_empty() -> None:
    assert render.link("/a", key="ü/&", after=None, step="") == "/a?key=%C3%BC%2F%26"
    assert render.link("/a", after=0) == "/a?after=0"


@pytest.mark.parametrize("text", ["x", "-1", "1.5", "٣", "9" * 30, str(2**63), "1\0"])
def test_a_number_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        visit(after=text).number("after")


def test_moments_without_a_zone_are_utc() -> None:
    assert visit(at="2026-11-24T06:51").moment("at") == 1795503060000
    assert visit(at="2026-11-24T07:51+01:00").moment("at") == 1795503060000
    assert visit().moment("at") is None
    beyond = ("0001-01-01T00:00+14:00", "9999-12-31T23:59-14:00")
    for wrong in ("yesterday", "2026-13-01", "99999-01-01", *beyond):
        with pytest.raises(BadRequest, match="is not a time; write for example"):
            visit(at=wrong).moment("at")


@given(
    st.lists(st.integers(0, 10**8), min_size=2, max_size=40),
    st.integers(0, 2 * 10**12),
    st.integers(1, 10**9),
)
def test_a_chart_stays_in_its_frame(counts: list[int], start: int, step: int) -> None:
    sizes = [Size(start + step * number, count) for number, count in enumerate(counts)]
    drawn = chart(sizes)
    assert drawn is not None
    points = [tuple(map(float, pair.split(","))) for pair in drawn.line.split(" ")]
    assert len(points) == len(counts)
    assert (points[0][0], points[-1][0]) == (LEFT, WIDTH - RIGHT)
    assert all(TOP <= y <= HEIGHT - BOTTOM for _, y in points)
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    for (_, y), count in zip(points, counts, strict=True):
        assert (y == HEIGHT - BOTTOM) >= (count == 0)
    labels = [int(row.text.replace(",", "")) for row in drawn.rows]
    assert labels == sorted(set(labels))
    assert labels[0] == 0
    assert labels[-1] >= max(counts)
    assert (drawn.lowest, drawn.highest) == (min(counts), max(counts))
    assert [size.members for size in drawn.sizes] == counts[::-1]


def test_there_is_no_chart_of_nothing() -> None:
    assert chart([]) is None
    assert chart([Size(0, 1)]) is None


def test_no_template_has_code_or_style_of_its_own() -> None:
    """The content security policy would stop it."""
    names = render.Templates()._environment.list_templates()
    assert len(names) > 10
    for name in names:
        loader = render.Templates()._environment.loader
        assert loader is not None
        text = loader.get_source(render.Templates()._environment, name)[0]
        assert not re.search(r"<script(?![^>]* src=)|<style|\sstyle=|\son[a-z]+=|javascript:", text)
        assert "|safe" not in text.replace(" ", "")
