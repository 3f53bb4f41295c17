"""The Segment call: from a request's JSON to single events, each validated on its own. Pure.

An event ends in one of three ways. It is a `Call`; or it is `Dropped`: a good event that Amberflo
has no place for, accepted and counted; or it is `Rejected`: something is wrong with it, it goes to
the failures with its reason and the other events of its request are taken. What is wrong with the
request as a whole raises `BadRequest`, and nothing of it is taken. Reasons are few and fixed, so
they can be counted by.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from syncer import clock
from syncer.clock import Reading
from syncer.errors import SyncerError
from syncer.ids import MAX_ID, is_unicode, storable
from syncer.passthrough.scopes import DELETE, MEMBERSHIPS, WEBHOOK

Json = Mapping[str, Any]

#: Segment's limits (docs/facts/segment.md §4.4).
MAX_EVENT = 32 * 1024
MAX_EVENTS = 2500
#: What Segment's webhook destination puts into one signed request at most.
MAX_WEBHOOK_EVENTS = 4000
MAX_MESSAGE_ID = 100
MAX_DEPTH = 64

#: What a call may be; and what one of a webhook may be beside.
TYPES = ("page", "screen", "track", "identify", "group", "alias")
WEBHOOK_TYPES = (*TYPES, "delete")
SINGLE = {
    **{kind: kind for kind in TYPES},
    **{"p": "page", "s": "screen", "t": "track", "i": "identify", "g": "group", "a": "alias"},
}
BATCH = frozenset({"batch", "import", "b"})
#: The routes that `split` knows.
ROUTES = frozenset({*SINGLE, *BATCH, WEBHOOK})

NO_OBJECT = "not an object"
TOO_LARGE = "larger than 32 KB"
TOO_DEEP = "nested deeper than 64"
UNKNOWN_TYPE = "unknown type"
BAD_MESSAGE_ID = "messageId is no text of up to 100 characters"
BAD_ID = "userId or anonymousId is no usable id"
NO_ID = "no userId and no anonymousId"
NO_EVENT = "track without an event name"
BAD_DATA = "properties or traits are no object"
DELETE_WITHOUT_USER = "delete without userId"

GROUP, ALIAS = "group is not supported", "alias is not supported"
IDENTIFY_WITHOUT_USER = "identify without userId"
SWITCHED_OFF = "switched off by integrations"

#: Beside the reasons of `syncer.clock`, for which a time is not believed.
OLD = "timestamp older than 60 days"
_DAY = 24 * 3600 * 1000
_OLD_AFTER = 60 * _DAY
#: A client's clock that is wrong by more ahead says nothing about when it sent (milliseconds).
_WRONG_CLOCK = _DAY


class BadRequest(SyncerError):
    """A request that is refused whole: the `status` and the `code` to answer with."""

    def __init__(self, reason: str, *, status: int = 400, code: str = "malformed") -> None:
        super().__init__(reason)
        self.status, self.code = status, code


class Personas(NamedTuple):
    """Which audience or computed trait of Engage a call speaks of."""

    computation_class: object
    computation_key: object


class Call(NamedTuple):
    """One valid event. Ids that are not set are ""; `data` is its properties or traits."""

    type: str
    message_id: str
    user_id: str
    anonymous_id: str
    #: a track's event; the name of a page or screen, as it came
    name: Any
    data: Json
    personas: Personas | None
    #: when it happened, in epoch milliseconds, never after `received_at`; what is odd about that
    #: is in `notes`
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
    """A good event that goes nowhere: accepted, counted by its reason."""

    reason: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """An event that cannot be taken; `raw` is its JSON, cut at 32 KB, without the write key. Who it
    is about is known where its id can be one."""

    reason: str
    raw: str
    message_id: str | None = None
    customer_id: str | None = None


def rejected(reason: str, event: object, message_id: str | None = None) -> Rejected:
    customer_id = None
    if isinstance(event, dict):
        event = {key: value for key, value in event.items() if key != "writeKey"}
        customer_id = identifier(event.get("userId")) or identifier(event.get("anonymousId"))
    return Rejected(reason, json_text(event)[:MAX_EVENT], message_id, customer_id or None)


def json_text(value: object) -> str:
    """The JSON of a parsed value. What orjson does not write (integers beyond 64 bits, lone
    surrogates, which are escaped) changes nothing of how the rest is written."""
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        try:
            return _written(value)
        except (TypeError, RecursionError):
            return '"(cannot be written down)"'


def _written(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{{','.join(f'{_quoted(key)}:{_written(one)}' for key, one in value.items())}}}"
    if isinstance(value, list):
        return f"[{','.join(map(_written, value))}]"
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return orjson.dumps(value).decode()


def _quoted(text: str) -> str:
    quoted = json.dumps(text, ensure_ascii=False)
    return quoted if is_unicode(text) else _SURROGATE.sub(lambda one: f"\\u{ord(one[0]):x}", quoted)


_SURROGATE = re.compile("[\ud800-\udfff]")


# -- the request


class Odd(SyncerError):
    """A body that is not read quickly."""


def parse(body: bytes, *, exactly: bool = True) -> Any:
    """The JSON of a request; `BadRequest` where it has none.

    What SDKs really send that is not quite JSON (NaN from Python, half an emoji from JavaScript,
    bytes in another encoding) is one event's matter and must not cost the others, so where orjson
    refuses, a lenient reader reads once more. It reads integers beyond 64 bits too, which orjson
    rounds; who has no need of them can do without (`exactly`).
    """
    try:
        return parse_quickly(body, exactly=exactly)
    except Odd:
        pass
    try:
        return _lenient_json(body)
    except (ValueError, RecursionError):
        raise BadRequest("the body is not JSON") from None


def parse_quickly(body: bytes, *, exactly: bool = True) -> Any:
    """As `parse`, in a millisecond or two at most for 64 KB; `Odd` where that cannot be."""
    if len(body) > _AT_ONCE or (exactly and _has_large_integer(body)):
        raise Odd
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        raise Odd from None


#: Bytes that orjson takes in one go: it keeps every other thread waiting while it reads.
_AT_ONCE = 1024 * 1024
#: An integer of more digits may be beyond 64 bits; of still more, it stays text, since reading them
#: takes the longer the more they are.
_DIGITS, _TOO_MANY_DIGITS = b"0" * 19, b"0" * 1001
_AS_ZEROS = bytes.maketrans(b"123456789", b"0" * 9)
_ZEROS = re.compile(rb"0+")
_BLANK = re.compile(r"[ \t\r\n]*")


def _has_large_integer(body: bytes) -> bool:
    """Whether an integer that may be beyond 64 bits stands in it: so many digits, and before them
    what may stand before a number. (Ids of as many digits are common, in quotes.)"""
    zeros = body.translate(_AS_ZEROS)
    at = zeros.find(_DIGITS)
    while at >= 0:
        before = zeros[at - 1 : at]
        if before == b"-":
            before = zeros[at - 2 : at - 1]
        if before in b":[, \t\r\n":
            return True
        run = _ZEROS.match(zeros, at)
        assert run is not None
        at = zeros.find(_DIGITS, run.end())
    return False


def _lenient_json(body: bytes) -> Any:
    """JSON read value by value, so that no large body keeps other threads waiting. Bytes that are
    no UTF-8 become lone surrogates, as half an emoji does."""
    text = body.decode("utf-8-sig", "surrogateescape")
    long = _TOO_MANY_DIGITS in body.translate(_AS_ZEROS)
    decoder = json.JSONDecoder(strict=False, parse_int=_integer if long else None)
    found, end = _value(text, _past_blank(text, 0), decoder, levels=2)
    if _past_blank(text, end) != len(text):
        raise ValueError("more than one value")
    return found


def _value(text: str, at: int, decoder: json.JSONDecoder, levels: int) -> tuple[Any, int]:
    """The value at a place of a text and where it ends; members of the outer levels one by one."""
    first = text[at : at + 1]
    if not levels or first not in ("[", "{"):
        return decoder.raw_decode(text, at) if first else _nothing()
    items: list[Any] = []
    named: dict[str, Any] = {}
    close = "]" if first == "[" else "}"
    at = _past_blank(text, at + 1)
    if text[at : at + 1] == close:
        return (items if first == "[" else named), at + 1
    while True:
        if first == "{":
            if text[at : at + 1] != '"':
                _nothing()
            name, at = decoder.raw_decode(text, at)
            at = _past_blank(text, at)
            if text[at : at + 1] != ":":
                _nothing()
            at = _past_blank(text, at + 1)
            named[name], at = _value(text, at, decoder, levels - 1)
        else:
            item, at = _value(text, at, decoder, 0)
            items.append(item)
        at = _past_blank(text, at)
        if text[at : at + 1] == close:
            return (items if first == "[" else named), at + 1
        if text[at : at + 1] != ",":
            _nothing()
        at = _past_blank(text, at + 1)


def _nothing() -> Any:
    raise ValueError("no value")


def _past_blank(text: str, at: int) -> int:
    match = _BLANK.match(text, at)
    assert match is not None
    return match.end()


def _integer(digits: str) -> int | str:
    return int(digits) if len(digits) < len(_TOO_MANY_DIGITS) else digits


@dataclass(slots=True)
class _Request:
    """What the events of one request share."""

    received_at: int
    make_id: Callable[[], str]
    webhook: bool = False
    sent_at: Reading | None = None
    integrations: Json = field(default_factory=dict)
    personas: Json = field(default_factory=dict)


def split(
    route: str, body: object, *, received_at: int, make_id: Callable[[], str]
) -> list[Call | Dropped | Rejected]:
    """The events of a request, in order; one of `ROUTES` says what the body is.

    `received_at` is in epoch milliseconds; `make_id` makes the id of an event that has none.
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
    if not isinstance(event, dict):
        return rejected(NO_OBJECT, event)
    if wrong := _wrong_size(event):
        return rejected(wrong, event)
    if (message_id := identifier(event.get("messageId"))) is None:
        return rejected(BAD_MESSAGE_ID, event)
    if len(message_id) > MAX_MESSAGE_ID:
        return rejected(BAD_MESSAGE_ID, event)
    message_id = message_id or request.make_id()

    kind = kind or event.get("type")
    if kind == "track":
        data, name = event.get("properties"), event.get("event")
        if not isinstance(name, str) or not name or name.isspace():
            return rejected(NO_EVENT, event, message_id)
    elif kind == "page" or kind == "screen":
        data, name = event.get("properties"), event.get("name")
    elif kind == "identify":
        data, name = event.get("traits"), None
    elif kind == "group":
        return Dropped(GROUP)
    elif kind == "alias":
        return Dropped(ALIAS)
    elif kind == "delete" and request.webhook:
        data = name = None
    else:
        return rejected(UNKNOWN_TYPE, event, message_id)
    if not data and (data is None or isinstance(data, list)):
        data = {}  # PHP writes an empty object as []
    if not isinstance(data, dict):
        return rejected(BAD_DATA, event, message_id)

    if not request.webhook and _switched_off(event.get("integrations"), request.integrations):
        return Dropped(SWITCHED_OFF)

    user_id = identifier(event.get("userId"))
    anonymous_id = identifier(event.get("anonymousId"))
    if user_id is None or anonymous_id is None:
        return rejected(BAD_ID, event, message_id)
    personas = _personas(event.get("context"), request.personas)
    if not user_id:
        if kind == "delete":
            return rejected(DELETE_WITHOUT_USER, event, message_id)
        if kind == "identify" and personas is None:
            return Dropped(IDENTIFY_WITHOUT_USER)
        if not anonymous_id and personas is None:
            return rejected(NO_ID, event, message_id)

    at_ms, notes = _moment(event, request)
    return Call(
        *(kind, message_id, user_id, anonymous_id, name, data, personas),
        *(at_ms, request.received_at, notes, event),
    )


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


def identifier(value: Any) -> str | None:
    """The text of an id, "" when it is not set; None when it is no id: neither text nor number,
    a number that was not read exactly, too long, or text that a database cannot keep."""
    text: str
    if isinstance(value, str):
        text = "" if value.isspace() else value
    elif value is None:
        text = ""
    elif isinstance(value, bool):
        return None
    elif isinstance(value, int):
        text = str(value)
    elif isinstance(value, float) and abs(value) < 2**53:
        text = str(int(value) if value.is_integer() else value)
    else:
        return None
    return text if storable(text, MAX_ID) else None


def _switched_off(own: object, common: Json) -> bool:
    """Whether `integrations` keep the event from Amberflo; its own win over the batch's."""
    if not own and not common:
        return False
    flags = _object(own)
    amberflo = flags.get("Amberflo", common.get("Amberflo"))
    if amberflo is None:
        return flags.get("All", common.get("All")) is False
    return amberflo is False


def _personas(context: object, common: Json) -> Personas | None:
    """The event's `context.personas`, merged over the batch's; None when there is nothing."""
    own = _object(context.get("personas")) if isinstance(context, dict) else {}
    if not own and not common:
        return None
    return Personas(
        own.get("computation_class", common.get("computation_class")),
        own.get("computation_key", common.get("computation_key")),
    )


# -- time


def _moment(event: Json, request: _Request) -> tuple[int, tuple[str, ...]]:
    """When the event happened: `receivedAt - (sentAt - originalTimestamp)`, which takes the error
    of the client's clock out; the client's own time where it does not say when it sent."""
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
    """When the event was sent by the client's clock, the event's own word before the batch's; None
    where that does not tell how wrong the clock is: zero and other times that cannot be, and a time
    of an unknown zone beside one of the event that names its zone (`zoned`)."""
    latest = request.received_at + _WRONG_CLOCK
    own = clock.reading(event["sentAt"]) if "sentAt" in event else None
    for sent in (own, request.sent_at):
        if sent is None:
            continue
        at, comparable = sent
        if clock.EARLIEST <= at <= latest and (comparable or not zoned):
            return at
    return None
