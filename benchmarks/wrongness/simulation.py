"""Plays a drawn time on the program and on the model of the hosted destination, side by side."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.wrongness import observer
from benchmarks.wrongness.clock import simulated
from benchmarks.wrongness.hosted import Hosted
from benchmarks.wrongness.observer import Observer
from benchmarks.wrongness.service import POINTS, Known, Service, installed
from benchmarks.wrongness.setting import Outcome, Setting
from benchmarks.wrongness.space import AUDIENCES, COMPUTED, TRAITS, Pair, Space, Step, Value
from benchmarks.wrongness.year import DAY, HOUR, Event, draw, event

BEGIN = int(datetime(2027, 1, 1, tzinfo=UTC).timestamp())
#: Minutes for which a webhook destination tries again.
RETRIED = 4 * HOUR
#: Requests that write a customer: a read and a PUT (docs/design.md §3.5).
REQUESTS = 2
#: Minutes after which who is due is on the way, and between two deliveries while somebody is.
LOOK, AGAIN = 2, 5


class Simulation:
    """A heap of events. Each is played by the method of its name, at its minute."""

    def __init__(self, setting: Setting, space: Space, service: Service) -> None:
        self.setting, self.space, self.service = setting, space, service
        self._events: list[tuple[int, int, int, Event]] = []
        self._pushed = count()
        self._end = int(setting.days * DAY)
        self._rng = Random(f"{setting.seed}/calls")
        self._ids: list[str] = []
        self._has: dict[Pair, Value] = {}
        #: writes that Amberflo's rate keeps back: by customer, when the last one is there
        self._under_way: dict[str, int] = {}
        self._written: set[str] = set()
        self._due_since: dict[str, int] = {}
        self._known = Known({}, frozenset(), frozenset(), {})
        self._amberflo_down = self._amberflo_bad = self._warehouse_down = self._stalled = -1
        self._stopped_until = -1
        #: customers that a trouble of Amberflo kept waiting, or a kill
        self._kept_by_amberflo: set[str] = set()
        self._kept_by_stop: set[str] = set()
        #: when a run last took over what it pulled, and why later ones did not
        self._pulled, self._failed_by = -1, ""
        #: whether the state came out of a backup, and no run has compared everything since
        self._restored = False
        self._delivers = False
        self._decides: set[tuple[int, str]] = set()
        self._decided = HOUR
        self._mistaken: set[str] = set()
        self.happened: dict[str, int] = {}
        value = space.now.value
        self.ours = Observer(value, self._has.get, self._why)
        self._models = {
            name: Hosted(setting.seed, replaces, self._sender(name))
            for name, replaces in (("merges", False), ("replaces", True))
        }
        models = self._models.items()
        self.hosted = {name: Observer(value, model.has, model.why) for name, model in models}

    @property
    def _observers(self) -> list[Observer]:
        return [self.ours, *self.hosted.values()]

    def _sender(self, name: str) -> Callable[[int, tuple[Pair, Value, int]], None]:
        return lambda minute, call: self._later(minute, "hosted", name, call)

    def _later(self, minute: int, what: str, *data: Any) -> None:
        self._push(event(minute, what, *data))

    def _push(self, step: Event) -> None:
        heapq.heappush(self._events, (step.minute, step.order, next(self._pushed), step))

    # From the first minute to the last

    def play(self) -> Outcome:
        """Play all of it."""
        self._begin()
        while self._events:
            step = heapq.heappop(self._events)[-1]
            if step.minute >= self._end:
                break
            self._now(step.minute)
            getattr(self, f"_{step.what}")(*step.data)
            self._plan()
        self._now(self._end)
        self.service.stop()
        return Outcome(self.ours, self.hosted, self.happened)

    def _now(self, minute: int) -> None:
        for watcher in self._observers:
            watcher.advance(minute)
        self._minute = self.service._clock.minute = minute

    def _begin(self) -> None:
        """Engage has customers, its warehouse is loaded, and the program is started."""
        for step in draw(self.setting.seed, self.setting.days, self.setting.rates):
            self._push(step)
        self._minute = 0
        rng = Random(f"{self.setting.seed}/first")
        for _ in range(self.setting.rates.customers):
            self._be_born(rng)
        self.space.load(0, 0)
        for name, model in self._models.items():
            model.begin((pair, self.space.now.value(pair)) for pair in self._pairs())
            self.hosted[name].look(self._pairs())
        self.ours.look(self._pairs())
        self.service.start()
        self._plan()

    def _pairs(self) -> Iterable[Pair]:
        return ((customer, key) for customer in self._ids for key in TRAITS)

    def _be_born(self, rng: Random) -> list[Pair]:
        customer = f"u{len(self._ids):05}"
        self._ids.append(customer)
        pairs = self.space.take(Step(self._minute, "born", customer))
        for key in AUDIENCES:
            if (place := rng.random()) < 0.5:
                text = "true" if place < 0.35 else "false"
                self.space.take(Step(self._minute, "says", customer, key, text))
        if rng.random() < 0.6:
            text = str(rng.randrange(1, 5000))
            self.space.take(Step(self._minute, "says", customer, COMPUTED, text))
        for watcher in self._observers:
            watcher.add(len(TRAITS))
        return pairs

    def _plan(self) -> None:
        """See that what is due is done: the next run, and the next delivery."""
        minute, jobs = self.service.jobs.minute, self.service.jobs
        if minute is not None and self._stopped_until < self._minute:
            jobs.minute = None
            self._later(max(minute, self._minute + 1), "slot", jobs)
        if self._known.due and not self._delivers and self._amberflo_down < self._minute:
            self._delivers = True
            waits = min(self._minute - since for since in self._due_since.values())
            self._later(self._minute + (1 if waits < LOOK else AGAIN), "deliver")

    def _count(self, what: str) -> None:
        self.happened[what] = self.happened.get(what, 0) + 1

    # What Engage computes

    def _change(self, key: str, who: float, amount: int) -> None:
        customer = self._ids[int(who * len(self._ids))]
        said = self.space.now.value((customer, key))
        text = str(amount) if key == COMPUTED else "false" if said else "true"
        self._say(customer, key, text)

    def _say(self, customer: str, key: str, text: str) -> bool:
        """Let Engage say a value, unless it has just said one: a computation has one result."""
        row = self.space.now.row((customer, key))
        if row is not None and row.said == self._minute:
            return False
        self._count("changes")
        self._see(self.space.take(Step(self._minute, "says", customer, key, text)), call=True)
        return True

    def _born(self, *_: float) -> None:
        self._count("births")
        rng = Random(f"{self.setting.seed}/born/{len(self._ids)}")
        self._see(self._be_born(rng), call=True)

    def _merge(self, first: float, other: float) -> None:
        """Two profiles become one, whose customers have the newest values of both."""
        gone, into = (self._ids[int(who * len(self._ids))] for who in (first, other))
        if self.space.now.profile[gone] != self.space.now.profile[into]:
            self._count("merges")
            self._see(self.space.take(Step(self._minute, "merges", gone, into)), call=True)

    def _mass(self, key: str, mistake: bool, hours: int, decided: int) -> None:
        """Half of an audience leaves; a mistake of Engage is put right later."""
        members = [id_ for id_ in self._ids if self.space.now.value((id_, key))]
        leaving = Random(f"{self.setting.seed}/mass/{self._minute}").sample(
            members, len(members) // 2
        )
        self._count("mass exits by a mistake" if mistake else "mass exits")
        self._decided = decided
        if mistake:
            self._mistaken.add(key)
            self._later(self._minute + hours, "up", "mistake", (key, leaving))
        for customer in leaving:
            if self._say(customer, key, "false") and mistake:
                for watcher in self._observers:
                    watcher.mistakes[customer, key] = None

    def _load(self, until: int) -> None:
        if max(self._stalled, self._warehouse_down) < self._minute:
            self.space.load(self._minute, until)

    def _see(self, pairs: list[Pair], *, call: bool) -> None:
        """Traits may be others at Engage from now on; it calls what it says of them."""
        for watcher in self._observers:
            watcher.look(pairs)
        for pair in pairs if call else ():
            row = self.space.now.row(pair)
            if row is not None:
                self._call_out(pair, self.space.now.value(pair))

    def _call_out(self, pair: Pair, value: Value) -> None:
        rates, rng = self.setting.rates, self._rng
        lot, again = rng.random(), rng.random() < rates.doubled
        lost, late = lot < rates.lost, rates.lost <= lot < rates.lost + rates.late
        delay = rng.randrange(30, RETRIED) if late else rng.randrange(1, 4)
        second = delay + rng.randrange(1, HOUR)
        for model in self._models.values():
            model.say(self._minute, pair, value, None if lost else delay, late)
        if self.setting.calls and not lost:
            said = self._minute
            name = f"personas-{pair[0]}-{pair[1]}-{said}"
            for after in (delay, second) if again else (delay,):
                self._later(said + after, "call", pair, value, said, name)

    # What comes to the program

    def _call(self, pair: Pair, value: Value, said: int, name: str) -> None:
        """A call of Engage arrives; while nobody answers, it is tried again, for some hours."""
        if self._stopped_until >= self._minute:
            if self._stopped_until - said < RETRIED:
                self._later(self._stopped_until + 1, "call", pair, value, said, name)
            else:
                self._count("calls lost")
            return
        self._count("calls")
        self.service.call([self.space.identify(pair, value, said, name)])
        if self._amberflo_down < self._minute:
            self.service.deliver()
        self._learn(paced=False)

    def _slot(self, jobs: Any) -> None:
        """The schedule starts a run."""
        if jobs is not self.service.jobs or self._stopped_until >= self._minute:
            return
        self._count("runs")
        jobs.take()
        if self.service.broken:
            raise RuntimeError(self.service.broken)
        if self.service.pulled():
            self._pulled, self._failed_by, self._restored = self._minute, "", False
        else:
            self._failed_by = self._why_failed()
        self._learn()
        for run, key in self.service.waiting():
            if (run, key) not in self._decides:
                self._decides.add((run, key))
                self._count("holds")
                self._later(self._minute + self._decided, "decide", run, key)

    def _why_failed(self) -> str:
        """Why the run that just ended took nothing."""
        if self.service.last_run == "killed":
            return observer.STOPS
        if self._warehouse_down >= self._minute:
            return observer.SOURCE
        troubled = max(self._amberflo_down, self._amberflo_bad) >= self._minute
        return observer.AMBERFLO if troubled else observer.OURS

    def _deliver(self) -> None:
        self._delivers = False
        if max(self._stopped_until, self._amberflo_down) < self._minute:
            self.service.deliver()
            self._learn()

    def _decide(self, run: int, key: str) -> None:
        """The operator approves what is true, and rejects what is a mistake."""
        if self._stopped_until >= self._minute:
            self._later(self._stopped_until + 2, "decide", run, key)
            return
        if (run, key) not in self.service.waiting():
            return
        if max(self._amberflo_down, self._warehouse_down) >= self._minute:
            self._later(self._minute + HOUR, "decide", run, key)
            return
        approve = key not in self._mistaken
        self._count("approvals" if approve else "rejections")
        self.service.decide(run, approve)
        self._learn()

    def _learn(self, *, paced: bool = True) -> None:
        """Look at what the program has now, and at what it wrote: `paced` by Amberflo's rate."""
        requests = 0
        # A write whose answer was lost comes again, and says the same.
        writes = {write.customer_id: write.traits for write in self.service.writes()}
        for customer, traits in sorted(writes.items()):
            requests += REQUESTS if customer in self._written else 1
            self._written.add(customer)
            seconds = requests * self.setting.stands_for / self.setting.rate if paced else 0.0
            arrival = self._minute + round(seconds / 60)
            arrival = max(arrival, self._under_way.get(customer, 0))
            self._under_way[customer] = arrival
            self._later(arrival, "effect", customer, dict(traits))
        self._known = self.service.known()
        due = self._known.due
        self._due_since = {id_: self._due_since.get(id_, self._minute) for id_ in due}
        self._mark_waiting()

    def _mark_waiting(self) -> None:
        self._kept_by_amberflo &= self._known.due
        self._kept_by_stop &= self._known.due
        if max(self._amberflo_down, self._amberflo_bad) >= self._minute:
            self._kept_by_amberflo |= self._known.due
        elif self.service.last_run == "killed":
            self._kept_by_stop |= self._known.due - self._kept_by_amberflo

    def _effect(self, customer: str, traits: dict[str, Any]) -> None:
        """A write is at Amberflo, at its rate."""
        if self._under_way.get(customer, 0) <= self._minute:
            self._under_way.pop(customer, None)
        for key in TRAITS:
            value = traits.get(key)
            self._has[customer, key] = None if value is False else value
        self.ours.look([(customer, key) for key in TRAITS])

    # Troubles

    def _amberflo(self, how: str, length: int) -> None:
        until = self._minute + length
        self._count(f"Amberflo {how}")
        if how == "down":
            self._amberflo_down = max(self._amberflo_down, until)
        else:
            self._amberflo_bad = max(self._amberflo_bad, until)
        self._set_faults()
        self._later(until + 1, "up", "amberflo", ())
        self._mark_waiting()

    def _set_faults(self) -> None:
        down, hour = self._amberflo_down >= self._minute, self._amberflo_bad >= self._minute
        self.service.meet(down=down, bad=hour)

    def _warehouse(self, _how: str, length: int) -> None:
        self._count("warehouse down")
        if self._warehouse_down < self._minute:
            self.space.hide(True)
        self._warehouse_down = max(self._warehouse_down, self._minute + length)
        self._later(self._warehouse_down + 1, "up", "warehouse", ())

    def _stall(self, _how: str, length: int) -> None:
        self._count("Profiles Sync stalls")
        self._stalled = max(self._stalled, self._minute + length)

    def _up(self, what: str, data: Any) -> None:
        """What was down is back, or a mistake of Engage is put right."""
        if what == "amberflo":
            self._set_faults()
        elif what == "warehouse" and self._warehouse_down == self._minute - 1:
            self.space.hide(False)
        elif what == "mistake":
            key, customers = data
            self._mistaken.discard(key)
            for customer in customers:
                for watcher in self._observers:
                    watcher.mistakes.pop((customer, key), None)
                if not self.space.now.value((customer, key)):
                    self._say(customer, key, "true")

    def _kill(self, place: float, _: int) -> None:
        self._count("kills")
        self.service.kill_at = POINTS[int(place * len(POINTS))]

    def _backup(self) -> None:
        if self._stopped_until < self._minute and self._pulled >= 0:
            self.service.back_up()

    def _upgrade(self, _place: float, length: int) -> None:
        if self._stopped_until < self._minute:
            self._count("upgrades")
            self._stop(length, "upgrade")

    def _lost(self, length: int) -> None:
        """The state is lost, and its last backup is put in place some hours later."""
        if self._stopped_until < self._minute and self.service.backups:
            self._count("restores")
            self._stop(length, "restore")
            self.service.lose()

    def _stop(self, length: int, why: str) -> None:
        self.service.stop()
        self._stopped_until = self._minute + length
        self._later(self._stopped_until + 1, "restore", why)

    def _restore(self, why: str) -> None:
        """The daemon starts again, where needed from the last backup."""
        if why == "restore":
            self.service.restore()
            self._pulled, self._failed_by, self._restored = -1, observer.STOPS, True
        self.service.start()
        self._learn()

    # Why

    def _why(self, pair: Pair) -> str:
        """Why Amberflo has not what Engage says. Every wait has a cause that is not ours."""
        says = self.space.now.value(pair)
        if self._known.traits.get(pair) == says:
            return self._why_not_there(pair[0])
        row, loaded = self.space.now.row(pair), self.space.loaded.row(pair)
        if self.space.loaded.value(pair) != says or row is None or loaded is None:
            stalled = max(self._stalled, self._warehouse_down) >= self._minute
            return observer.SOURCE if stalled else observer.LOAD
        if pair in self._known.kept:
            return observer.HOLDS
        if self._stopped_until >= self._minute:
            return observer.STOPS
        if self._pulled < max(loaded.loaded, self.space.loaded.joined.get(pair[0], 0)):
            return self._failed_by or observer.SCHEDULE
        if self._known.called.get(pair, row.said) < row.said:
            return observer.CALLS
        return observer.OURS

    def _why_not_there(self, customer: str) -> str:
        """Why Amberflo has not what the program knows."""
        if customer in self._under_way:
            return observer.RATE
        if customer in self._kept_by_amberflo:
            return observer.AMBERFLO
        if customer in self._kept_by_stop or self._stopped_until >= self._minute:
            return observer.STOPS
        if self._restored:
            return self._failed_by or observer.STOPS
        since = self._due_since.get(customer, -LOOK)
        return observer.RATE if self._minute - since < LOOK else observer.OURS

    # The model of the hosted destination

    def _hosted(self, name: str, call: tuple[Pair, Value, int]) -> None:
        pairs = self._models[name].arrive(self._minute, call, self._amberflo_down)
        self.hosted[name].look(pairs)


def simulate(setting: Setting, folder: Path) -> Outcome:
    """Play a simulated time in a folder of its own."""
    with simulated(BEGIN) as clock, installed(folder, clock, setting.seed) as service:
        return Simulation(setting, Space(folder / "engage.db", BEGIN), service).play()
