"""Where alerts go: a webhook that takes Slack's JSON ({"text": …}), and the URLs of apprise.

A channel is sent a text, and says why it did not take it. Its address is a secret: it stands in no
text and no log, so neither do the errors of the libraries that may quote it.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future
from importlib.util import find_spec
from typing import Any, Protocol
from urllib.error import HTTPError
from urllib.request import Request

import orjson
from pydantic import SecretStr

from syncer import egress
from syncer.config import AlertsConfig
from syncer.errors import ConfigError
from syncer.process.problem import ProblemLog

#: Seconds until a request to the webhook is given up.
TIMEOUT = 10.0
#: What a webhook answers that refuses one text: it cannot read it, or takes none that long.
ONE_REFUSED = frozenset({400, 413, 422})
TITLE = "syncer"


class NotTaken(Exception):
    """Why a channel did not take a text; `text_alone` says that it may well take another."""

    def __init__(self, why: str, *, text_alone: bool = False) -> None:
        super().__init__(why)
        self.text_alone = text_alone


class Channel(Protocol):
    """Somewhere that alerts go; `part` is its name among what can have a problem."""

    part: str

    @property
    def address(self) -> str:
        """Where it is: a secret."""

    def send(self, text: str, *, over: bool) -> None:
        """Send a text, `over` if something is over; raise `NotTaken` if it was not taken."""


class Webhook:
    """A webhook that takes Slack's JSON."""

    part = "webhook"

    def __init__(self, url: SecretStr) -> None:
        self._url = url

    @property
    def address(self) -> str:
        return self._url.get_secret_value()

    def send(self, text: str, *, over: bool) -> None:
        request = Request(
            self._url.get_secret_value(),
            data=orjson.dumps({"text": f"{TITLE}: {text}"}),
            headers={"content-type": "application/json", "user-agent": "engage-amberflo-sync"},
        )
        try:
            with egress.answer(request, TIMEOUT) as answer:
                answer.read(1000)
        except HTTPError as error:
            error.close()
            # It may refuse this text only, so that others are sent.
            why = f"it answered {error.code}; tried again until it accepts"
            raise NotTaken(why, text_alone=error.code in ONE_REFUSED) from None
        except Exception as error:  # noqa: BLE001 - whatever it answers costs a retry only
            why = f"it cannot be reached ({type(error).__name__}); tried again"
            raise NotTaken(why) from None


class AppriseUrl:
    """A service that apprise knows, by its URL: PagerDuty, Opsgenie, Teams, e-mail, …"""

    def __init__(self, number: int, url: SecretStr) -> None:
        """Raise `ConfigError` if it is none, or apprise is not installed."""
        for name in ("apprise", "urllib3", "requests"):  # they quote URLs
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        self.part, self._url = f"alerts.urls {number}", url
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of its own libraries
            from apprise import Apprise, AppriseAsset

            # What is redirected is often sent to nobody, and answered well.
            self._service = Apprise(asset=AppriseAsset(http_redirects=False))
            known = self._service.add(url.get_secret_value())
        if not known:
            raise ConfigError(
                f"alerts.urls: entry {number} is no URL that apprise knows; its list of services "
                "has the form of each"
            )
        if len(self._service) > 1:  # if one failed, the others would be sent it again
            raise ConfigError(f"alerts.urls: entry {number} is several URLs; write an entry each")
        #: the text that is being sent, and how that ended
        self._sending: tuple[str, Future[bool]] | None = None

    @property
    def address(self) -> str:
        return self._url.get_secret_value()

    def send(self, text: str, *, over: bool) -> None:
        # A service may answer for ever, a little at a time: what was begun goes on beside.
        if self._sending is not None and self._sending[1].done() and self._sending[0] != text:
            self._sending = None
        if self._sending is None:
            self._sending = text, self._begun(text, over)
        try:
            if self._sending[0] != text:
                raise TimeoutError
            taken = self._sending[1].result(TIMEOUT)
        except TimeoutError:
            raise NotTaken("it does not answer; tried again until it does") from None
        except Exception as error:  # noqa: BLE001 - whatever a service does costs a retry only
            self._sending = None
            raise NotTaken(f"it failed ({type(error).__name__}); tried again") from None
        self._sending = None
        if not taken:
            raise NotTaken("it does not take alerts; tried again until it does")

    def _begun(self, text: str, over: bool) -> Future[bool]:
        sent: Future[bool] = Future()
        service: Any = self._service

        def send() -> None:
            kind = "success" if over else "failure"
            try:  # as plain text: an e-mail may be HTML, which a text is not to become
                taken = service.notify(body=text, title=TITLE, notify_type=kind, body_format="text")
                sent.set_result(bool(taken))
            except Exception as error:  # noqa: BLE001 - `send` says it
                sent.set_exception(error)

        threading.Thread(target=send, name=self.part, daemon=True).start()
        return sent


def _mark(address: str, others: Collection[str]) -> str:
    """Return the mark of an address: enough to see that it is another, too little to guess it."""
    mark = hashlib.sha256(address.encode()).hexdigest()[:4]
    return mark if mark not in others else f"{mark}.{len(others)}"


class Channels:
    """All channels. What one has not taken is sent to it again, and not to the others.

    `problems` makes the record of what is wrong with a channel, by its part.
    """

    def __init__(self, config: AlertsConfig, problems: Callable[[str], ProblemLog]) -> None:
        """Raise `ConfigError` if a channel of the settings cannot work."""
        self._channels = channels(config)
        self._problems = {channel.part: problems(channel.part) for channel in self._channels}
        #: by the mark of each, which stays the same wherever its address stands in the settings
        self._by_mark: dict[str, Channel] = {}
        for channel in self._channels:
            self._by_mark[_mark(channel.address, self._by_mark)] = channel
        #: the channels that took no text at this look, and those that refused any
        self._closed, self._failed = set[str](), set[str]()

    def look(self) -> None:
        """Begin a new look: channels that took nothing are tried again."""
        self._closed, self._failed = set(), set()

    @property
    def marks(self) -> list[str]:
        return list(self._by_mark)

    def any_open(self, to: Collection[str]) -> bool:
        """Whether one of these is sent anything more at this look."""
        return any(self._by_mark[mark].part not in self._closed for mark in to)

    def send(self, text: str, to: Collection[str], *, over: bool = False) -> Iterator[str]:
        """Send a text to channels, by their marks; yield each as soon as it took the text."""
        for mark in to:
            channel = self._by_mark[mark]
            if channel.part not in self._closed and self._sent(channel, text, over):
                yield mark

    def _sent(self, channel: Channel, text: str, over: bool) -> bool:
        try:
            channel.send(text, over=over)
        except NotTaken as error:
            self._failed.add(channel.part)
            if not error.text_alone:
                self._closed.add(channel.part)
            self._problems[channel.part](str(error))
            return False
        if channel.part not in self._failed:
            self._problems[channel.part](None)
        return True

    def end(self, *, kept: Iterable[str] = ()) -> None:
        """End the problems of channels that are no more, but for the parts that are kept."""
        for part in self._problems.keys() - set(kept):
            self._problems[part](None)

    @property
    def parts(self) -> list[str]:
        return list(self._problems)


def check(config: AlertsConfig) -> None:
    """Raise `ConfigError` if `alerts.urls` cannot work."""
    channels(config)


def channels(config: AlertsConfig) -> list[Channel]:
    """Return the channels of the settings; raise `ConfigError` if one cannot work."""
    targets: list[Channel] = [] if config.webhook is None else [Webhook(config.webhook)]
    if config.urls and find_spec("apprise") is None:
        raise ConfigError(
            "alerts.urls: apprise sends there, and it is not installed; install it with: pip "
            "install 'engage-amberflo-sync[alerts]'"
        )
    return [*targets, *(AppriseUrl(number, url) for number, url in enumerate(config.urls, 1))]
