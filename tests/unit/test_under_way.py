"""Requests under way: one timer ends each of them when it is overdue, and nothing else."""

from __future__ import annotations

import asyncio

import pytest

from syncer.amberflo.under_way import UnderWay


async def overdue() -> None:
    requests, loop = UnderWay(0.1, 9), asyncio.get_running_loop()

    async def ask(after: float, takes: float) -> tuple[bool, float]:
        await asyncio.sleep(after)
        began = loop.time()
        try:
            with requests.begin():
                await asyncio.sleep(takes)
        except TimeoutError:
            return False, loop.time() - began
        return True, loop.time() - began

    asked = await asyncio.gather(ask(0, 9), ask(0.05, 0.02), ask(0.06, 9), ask(0.3, 9))
    assert [answered for answered, _ in asked] == [False, True, False, False]
    assert all(seconds >= 0.099 for answered, seconds in asked if not answered)
    assert not len(requests)
    assert requests.longest == 0


async def cancelled() -> None:
    requests = UnderWay(9, 9)

    async def ask() -> None:
        with requests.begin():
            await asyncio.sleep(9)

    task = asyncio.create_task(ask())
    await asyncio.sleep(0)
    assert len(requests) == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not len(requests)


async def broken() -> None:
    requests = UnderWay(9, 9)
    with pytest.raises(ConnectionError), requests.begin():
        raise ConnectionError
    assert not len(requests)


async def turns() -> None:
    requests = UnderWay(9, 1)
    order = list[str]()

    async def ask(name: str, *, at_once: bool = False) -> None:
        await requests.turn(at_once=at_once)
        order.append(name)
        await asyncio.sleep(0.01)
        requests.leave()

    first, gone, second = (asyncio.create_task(ask(name)) for name in ("first", "gone", "second"))
    await asyncio.sleep(0)
    gone.cancel()
    await ask("at once", at_once=True)
    await asyncio.gather(first, second)
    assert order == ["first", "at once", "second"]
    await asyncio.wait_for(ask("last"), 1)


def test_turns_are_taken_one_after_the_other_and_none_is_lost() -> None:
    asyncio.run(turns())


def test_each_request_ends_when_it_is_overdue_and_not_before() -> None:
    asyncio.run(overdue())


def test_who_is_cancelled_meanwhile_gets_no_timeout() -> None:
    asyncio.run(cancelled())


def test_what_breaks_off_breaks_off() -> None:
    asyncio.run(broken())
