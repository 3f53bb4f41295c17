"""A client that goes on calling daemons while a test does something to them."""

from __future__ import annotations

import threading

from tests.support.daemon import Daemon
from tests.support.events import unique

#: Seconds between two calls.
PAUSE = 0.03
USERS = 20


class Caller:
    """Sends track and identify calls to daemons in turn, while it is entered.

    `accepted` are the users of the calls that were answered 200, by messageId, in their order;
    `values` the last value of the trait that each of them was told.
    """

    def __init__(self, *daemons: Daemon, event: str, trait: str) -> None:
        self._daemons, self._event, self._trait = daemons, event, trait
        self.accepted: dict[str, str] = {}
        self.values: dict[str, int] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._call, daemon=True)

    def __enter__(self) -> Caller:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _call(self) -> None:
        number = 0
        while not self._over.wait(PAUSE):
            number += 1
            receiver = self._daemons[number % len(self._daemons)]
            user, name = f"caller-{number % USERS}", unique()
            track = {"type": "track", "event": self._event, "userId": user, "messageId": name}
            identify = {"type": "identify", "userId": user, "traits": {self._trait: number}}
            try:
                answer = receiver.post("batch", {"batch": [track, identify]})
            except Exception:  # it was killed: the call may be in or not
                continue
            if answer.status_code == 200:
                self.accepted[name] = user
                self.values[user] = number
