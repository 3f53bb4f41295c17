"""A stop wakes all who wait for it: threads, event loops, and whom a signal interrupts."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest
import uvloop

from syncer.process import server
from syncer.process.supervisor import Part, Supervisor
from syncer.stop import Stop
from syncer.wakeup import Wakeup
from tests.support.processes import wait_until

#: Longer than a test waits for the end of what waits.
LONG = 600.0


def ends(wait: Callable[[], object], then: Callable[[], object]) -> None:
    """Assert that a wait in a thread ends when something happens, and not before."""
    entered = threading.Event()

    def work() -> None:
        entered.set()
        wait()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert entered.wait(5)
    thread.join(0.02)
    assert thread.is_alive()
    then()
    thread.join(5)
    assert not thread.is_alive()


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_one_stop_wakes_threads_and_tasks_also_of_those_that_come_after_it(
    run: Callable[[Any], Any],
) -> None:
    stop = Stop()
    later = Stop(after=Stop(after=stop))

    async def two_tasks() -> list[bool]:
        return await asyncio.gather(later.made(LONG), later.made())

    told: list[list[bool]] = []

    def wait_twice() -> None:
        told.append([stop.wait(), later.wait(LONG)])

    def all_wait() -> None:
        thread = threading.Thread(target=wait_twice, daemon=True)
        thread.start()
        told.append(run(two_tasks()))
        thread.join()

    assert [stop.wait(0), later.wait(0.001), run(later.made(0.001))] == [False] * 3
    ends(all_wait, stop.set)
    assert told == [[True, True]] * 2
    assert later()
    stop.set()
    assert stop.wait(5)  # it stays made


def test_a_stop_does_not_stop_what_it_comes_after() -> None:
    first = Stop()
    later = Stop(after=first)
    later.set()
    assert (first(), later()) == (False, True)


def test_a_signal_handler_may_stop_the_thread_that_it_interrupts() -> None:
    stop = Stop()
    before = signal.signal(signal.SIGUSR1, lambda *_: stop.set())
    sends = threading.Timer(0.02, lambda: os.kill(os.getpid(), signal.SIGUSR1))
    waits = threading.Thread(target=stop.wait, daemon=True)
    try:
        for thread in (waits, sends):
            thread.start()
        assert stop.wait(5)
        waits.join(5)
        assert not waits.is_alive()
    finally:
        sends.join()
        signal.signal(signal.SIGUSR1, before)


def test_a_part_waits_for_the_end_and_for_what_else_wakes_it() -> None:
    supervisor, wakeup = Supervisor(Stop()), Wakeup()
    seen: list[bool] = []

    def work(part: Part) -> None:
        part.well()
        while not part.wait(LONG, wakeup):
            seen.append(wakeup.taken())

    for end in (Part.ask_to_end, lambda part: supervisor.ending.set()):
        part = supervisor.start("part", work)
        wakeup.set()
        wait_until(lambda: seen, 5)
        assert (seen.pop(), wakeup.taken()) == (True, False)
        end(part)
        part.join(5)
        assert part.thread is not None
        assert not part.thread.is_alive()


def test_a_server_ends_at_once_however_seldom_it_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "IDLE_TICK", LONG)
    listener, stop = server.bind("127.0.0.1", 0), Stop()
    port = listener.getsockname()[1]
    serving = server.serve(None, listener, stop)
    ends(lambda: uvloop.run(serving), stop.set)
    with socket.socket() as client, pytest.raises(ConnectionRefusedError):
        client.connect(("127.0.0.1", port))


def test_the_descriptors_go_with_what_has_them() -> None:
    gc.collect()
    before = os.listdir("/proc/self/fd")
    for _ in range(3):
        stop = Stop(after=Stop())
        stop.set()
        asyncio.run(stop.made(5))
    del stop
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= len(before)
