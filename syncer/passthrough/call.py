"""The Segment call: from a request's JSON to single events, each validated on its own. Pure.

An event becomes a `Call`, or it is `Dropped` (a valid event that Amberflo has no place for: it is
accepted and counted), or it is `Rejected` (something is wrong with it: it goes to the failures with
its reason, and the other events of its request go on). A request that is wrong as a whole raises
`BadRequest`, and nothing of it is stored. Reasons are few and fixed, so that they can be counted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from syncer import clock
from syncer.clock import Reading
from syncer.engage.calls import identifier
from syncer.json_text import printable
from syncer.passthrough.parsing import BadRequest
from syncer.passthrough.scopes import DELETE, MEMBERSHIPS, WEBHOOK

Json = Mapping[str, Any]

#: Segment's limits (docs/facts/segment.md §4.4).
MAX_EVENT = 32 * 1024
MAX_EVENTS = 2500
#: What Segment's webhook destination puts into one signed request at most.
MAX_WEBHOOK_EVENTS = 4000
MAX_MESSAGE_ID = 100
MAX_DEPTH = 64

#: The types of calls; Segment's webhook sends deletes as well.
TYPES = ("page", "screen", "track", "identify", "group", "alias")
WEBHOOK_TYPES = (*TYPES, "delete")
SINGLE = {
    **{kind: kind for kind in TYPES},
    **{"p": "page", "s": "screen", "t": "track", "i": "identify", "g": "group", "a": "alias"},
}
BATCH = frozenset({"batch", "import", "b"})
#: The routes that `split` knows.
ROUTES = frozenset({*SINGLE, *BATCH, WEBHOOK})

#: Where a call of each type has its name and its data.
_FIELDS: dict[str, tuple[str | None, str | None]] = {
    "track": ("event", "properties"),
    "page": ("name", "properties"),
    "screen": ("name", "properties"),
    "identify": (None, "traits"),
    "delete": (None, None),
}

NO_OBJECT = "not an object"
TOO_LARGE = "larger than 32 KB"
TOO_DEEP = "nested deeper than 64"
UNKNOWN_TYPE = "unknown type"
BAD_MESSAGE_ID = "messageId is not a text of up to 100 characters"
BAD_ID = "userId or anonymousId is not a usable id"
NO_ID = "no userId and no anonymousId"
NO_EVENT = "track without an event name"
BAD_DATA = "properties or traits are not an object"
DELETE_WITHOUT_USER = "delete without userId"

GROUP, ALIAS = "group is not supported", "alias is not supported"
IDENTIFY_WITHOUT_USER = "identify without userId"
SWITCHED_OFF = "switched off by integrations"

#: A note on a call's time; `syncer.clock` has the others.
OLD = "timestamp older than 60 days"
_DAY = 24 * 3600 * 1000
_OLD_AFTER = 60 * _DAY
#: A client's clock that is further ahead does not tell when the client sent (milliseconds).
_WRONG_CLOCK = _DAY


class Personas(NamedTuple):
    """The audience or computed trait of Engage that a call is about."""

    computation_class: object
    computation_key: object


class Call(NamedTuple):
    """One valid event; an id that is not set is "", and `data` is its properties or traits."""

    type: str
    message_id: str
    user_id: str
    anonymous_id: str
    #: the event of a track, or the name of a page or screen, as it came
    name: Any
    data: Json
    personas: Personas | None
    #: when it happened, in epoch milliseconds, never after `received_at`; `notes` say what was
    #: wrong with the time that the client sent
    at_ms: int
    received_at: int
    notes: tuple[str, ...]
    #: the event as it came
    source: Json

    @property
    def scope(self) -> str:
        """The scope that its caller needs."""
        if self.type == DELETE or self.personas is None:
            return self.type
        return MEMBERSHIPS


@dataclass(frozen=True, slots=True)
class Dropped:
    """A valid event that goes nowhere: accepted, and counted by its reason."""

    reason: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """An event that cannot be taken.

    `raw` is its JSON, cut at 32 KB, without the write key. `customer_id` is None when the event has
    no usable id. `name` is the event of a track, else the type; None when it has neither.
    """

    reason: str
    raw: str
    message_id: str | None = None
    customer_id: str | None = None
    name: str | None = None


def rejected(
    reason: str, event: object, message_id: str | None = None, kind: object = None
) -> Rejected:
    """Return an event with the reason why it cannot be taken; `kind` is its type, where known."""
    customer_id = name = None
    if isinstance(event, dict):
        name = identifier(event.get("event")) or identifier(kind or event.get("type"))
        event = {key: value for key, value in event.items() if key != "writeKey"}
        customer_id = identifier(event.get("userId")) or identifier(event.get("anonymousId"))
    raw = printable(event)[:MAX_EVENT]
    return Rejected(reason, raw, message_id, customer_id or None, name or None)


# -- the request


@dataclass(slots=True)
class _Request:
    """The values that all events of one request share."""

    received_at: int
    make_id: Callable[[], str]
    webhook: bool = False
    sent_at: Reading | None = None
    integrations: Json = field(default_factory=dict)
    personas: Json = field(default_factory=dict)


def split(
    route: str, body: object, *, received_at: int, make_id: Callable[[], str]
) -> list[Call | Dropped | Rejected]:
    """Return the events of a request, in order; `route`, one of `ROUTES`, says what the body is.

    `received_at` is in epoch milliseconds. `make_id` returns the id for an event without one.
    A body that does not fit the route raises `BadRequest`.
    """
    request = _Request(received_at, make_id)
    if route in SINGLE:
        if not isinstance(body, dict):
            raise BadRequest("the body is not an object")
        return [_event(body, SINGLE[route], request)]
    if route == WEBHOOK:
        request.webhook = True
        events = [body] if isinstance(body, dict) else body
        if not isinstance(events, list):
            raise BadRequest("the body is neither an object nor an array")
    elif route in BATCH:
        events = body.get("batch") if isinstance(body, dict) else None
        if not isinstance(body, dict) or not isinstance(events, list):
            raise BadRequest('the body is not an object with an array "batch"')
        request.sent_at = clock.reading(body.get("sentAt"))
        request.integrations = _object(body.get("integrations"))
        request.personas = _object(_object(body.get("context")).get("personas"))
    else:
        raise ValueError(f"no such route: {route}")
    most = MAX_WEBHOOK_EVENTS if request.webhook else MAX_EVENTS
    if len(events) > most:
        reason = f"{len(events)} events; a request takes up to {most}"
        raise BadRequest(reason, status=413, code="too_large")
    return [_event(event, None, request) for event in events]


def _object(value: object) -> Json:
    return value if isinstance(value, dict) else {}


# -- one event


def _event(event: Any, kind: str | None, request: _Request) -> Call | Dropped | Rejected:
    """Return what one event is; `kind` is its type where the route says it."""
    if not isinstance(event, dict):
        return rejected(NO_OBJECT, event)
    if problem := _wrong_size(event):
        return rejected(problem, event, kind=kind)
    message_id = identifier(event.get("messageId"))
    if message_id is None or len(message_id) > MAX_MESSAGE_ID:
        return rejected(BAD_MESSAGE_ID, event, kind=kind)
    message_id = message_id or request.make_id()
    result = _call(event, kind or event.get("type"), message_id, request)
    return rejected(result, event, message_id, kind) if isinstance(result, str) else result


def _call(event: Json, kind: object, message_id: str, request: _Request) -> Call | Dropped | str:
    """Return the call of an event, or the reason for which the event is rejected."""
    if kind == "group":
        return Dropped(GROUP)
    if kind == "alias":
        return Dropped(ALIAS)
    if not isinstance(kind, str) or kind not in (WEBHOOK_TYPES if request.webhook else TYPES):
        return UNKNOWN_TYPE
    name_field, data_field = _FIELDS[kind]
    name = event.get(name_field) if name_field else None
    data = event.get(data_field) if data_field else None
    if kind == "track" and (not isinstance(name, str) or not name or name.isspace()):
        return NO_EVENT
    if not data and (data is None or isinstance(data, list)):
        data = {}  # PHP writes an empty object as []
    if not isinstance(data, dict):
        return BAD_DATA
    if not request.webhook and _switched_off(event.get("integrations"), request.integrations):
        return Dropped(SWITCHED_OFF)

    user_id = identifier(event.get("userId"))
    anonymous_id = identifier(event.get("anonymousId"))
    if user_id is None or anonymous_id is None:
        return BAD_ID
    personas = _personas(event.get("context"), request.personas)
    if not user_id and (problem := _without_user(kind, anonymous_id, personas)) is not None:
        return problem
    at_ms, notes = _moment(event, request)
    return Call(
        *(kind, message_id, user_id, anonymous_id, name, data, personas),
        *(at_ms, request.received_at, notes, event),
    )


def _without_user(kind: str, anonymous_id: str, personas: Personas | None) -> Dropped | str | None:
    """Return why an event without a userId is no call; None if it is one."""
    if kind == "delete":
        return DELETE_WITHOUT_USER
    if personas is not None:
        return None
    if kind == "identify":
        return Dropped(IDENTIFY_WITHOUT_USER)
    return None if anonymous_id else NO_ID


def _wrong_size(event: Json) -> str | None:
    try:
        raw = orjson.dumps(event)
    except TypeError:  # lone surrogates, integers beyond 64 bits, or really deep
        try:
            text = json.dumps(event, ensure_ascii=False, separators=(",", ":"))
            raw = text.encode("utf-8", "surrogatepass")
        except (ValueError, RecursionError):
            return TOO_DEEP
    if len(raw) > MAX_EVENT:
        return TOO_LARGE
    if raw.count(b"{") + raw.count(b"[") > MAX_DEPTH and _deeper(event, MAX_DEPTH):
        return TOO_DEEP
    return None


def _deeper(value: object, levels: int) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list):
        return False
    return levels == 0 or any(_deeper(child, levels - 1) for child in value)


def _switched_off(own: object, common: Json) -> bool:
    """Return whether `integrations` keep the event from Amberflo; its own win over the batch's."""
    if not own and not common:
        return False
    flags = _object(own)
    amberflo = flags.get("Amberflo", common.get("Amberflo"))
    if amberflo is None:
        return flags.get("All", common.get("All")) is False
    return amberflo is False


def _personas(context: object, common: Json) -> Personas | None:
    """Return the event's `context.personas` over the batch's; None if neither has any."""
    own = _object(context.get("personas")) if isinstance(context, dict) else {}
    if not own and not common:
        return None
    return Personas(
        own.get("computation_class", common.get("computation_class")),
        own.get("computation_key", common.get("computation_key")),
    )


# -- time


def _moment(event: Json, request: _Request) -> tuple[int, tuple[str, ...]]:
    """Return when the event happened (epoch milliseconds), and notes on its time.

    That is `receivedAt - (sentAt - originalTimestamp)`, which takes out the error of the client's
    clock, and the client's own time if the client does not say when it sent.
    """
    received_at = request.received_at
    client, original = event.get("timestamp"), event.get("originalTimestamp")
    if client is None and original is None:
        return received_at, ()
    corrected = request.webhook or event.get("receivedAt") is not None  # Segment has done it
    first, second = (client, original) if corrected else (original, client)
    at, zoned = clock.reading(first) or clock.reading(second) or (None, False)
    if at is not None and not corrected:
        sent_at = _sent_at(event, request, zoned)
        at = at if sent_at is None else at + received_at - sent_at
    at, reason = clock.believed(at, received_at)
    if reason is None and at < received_at - _OLD_AFTER:
        reason = OLD
    return at, () if reason is None else (reason,)


def _sent_at(event: Json, request: _Request, zoned: bool) -> int | None:
    """Return when the client sent the event, by the client's clock (epoch milliseconds).

    The event's own `sentAt` comes before the batch's. None if it does not tell how wrong the clock
    is: a time that cannot be, such as zero, and a time without a zone when the event's own time
    names one (`zoned`).
    """
    latest = request.received_at + _WRONG_CLOCK
    own = clock.reading(event["sentAt"]) if "sentAt" in event else None
    for sent in (own, request.sent_at):
        if sent is None:
            continue
        at, comparable = sent
        if clock.EARLIEST <= at <= latest and (comparable or not zoned):
            return at
    return None
