"""The receiver's OpenAPI document: its paths, what they take, and every answer that they give.

docs/reference/http.md says the same in words; `/openapi.json` serves it.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import orjson

from syncer.passthrough.call import BATCH, MAX_EVENTS, MAX_WEBHOOK_EVENTS, ROUTES, SINGLE
from syncer.passthrough.scopes import WEBHOOK

#: The statuses of refusals, each with why; a path that takes a body may give any of them.
_REFUSALS = {
    "400": "malformed, invalid_event, not_http or small_chunks",
    "401": "invalid_write_key or invalid_signature",
    "403": "not_allowed: the key may not send such a call",
    "404": "unknown_path: there is no such path, or no webhook",
    "405": "unknown_method",
    "408": "too_slow",
    "413": "too_large",
    "415": "unknown_encoding: gzip is the only one",
    "429": "queue_full: send it again after Retry-After",
    "431": "headers_too_large",
    "500": "internal: a fault of the receiver",
    "503": "not_stored, busy or stopping: send it again after Retry-After",
}
#: What a path without a body may answer beside its own.
_OF_A_READ = ("400", "404", "405", "408", "431", "500", "503")
_RETRY_AFTER = {"Retry-After": {"description": "In seconds", "schema": {"type": "integer"}}}
_ALLOW = {"Allow": {"description": "The methods of the path", "schema": {"type": "string"}}}
#: What refusals have beside their body, by the status.
_HEADERS = {"405": {"headers": _ALLOW}, "429": {"headers": _RETRY_AFTER}}
_HEADERS["503"] = _HEADERS["429"]
_ID = {"type": ["string", "number"]}
_OPEN = {"type": "object", "additionalProperties": True}
#: What a call alone must say, by its type: of whom it is, and of a track what happened.
_OF_SOMEBODY: dict[str, Any] = {
    "anyOf": [
        {"required": [name], "properties": {name: {"minLength": 1}}}
        for name in ("userId", "anonymousId")
    ]
}
_OF_SOMETHING: dict[str, Any] = {"required": ["event"], "properties": {"event": {"pattern": r"\S"}}}
_NEEDS: dict[str, list[dict[str, Any]]] = {
    "page": [_OF_SOMEBODY],
    "screen": [_OF_SOMEBODY],
    "track": [_OF_SOMEBODY, _OF_SOMETHING],
}


@cache
def document() -> bytes:
    """Return the document as JSON."""
    return orjson.dumps(_document(), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _document() -> dict[str, Any]:
    paths = {f"/v1/{route}": _calls(route) for route in sorted(ROUTES)}
    paths["/v1/m"] = _path("post", "Drop the figures of SDKs about themselves", "Accepted", _OPEN)
    paths["/v1/projects/{key}/settings"] = _settings()
    paths["/openapi.json"] = _read("This document", "Document")
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Receiver of engage-amberflo-sync",
            "description": "Takes the calls of Segment's SDKs, libraries and webhooks. A call that "
            "is answered with 200 is durable.",
            "version": "1",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {
                "writeKey": {
                    "type": "http",
                    "scheme": "basic",
                    "description": "The write key is the user name; the password is empty. Or it "
                    "stands in the body, as writeKey.",
                },
                "signature": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "X-Signature",
                    "description": "The HMAC-SHA1 of the body with the shared secret, in hex.",
                },
            },
        },
    }


def _calls(route: str) -> dict[str, Any]:
    """Return a path that takes calls."""
    if route == WEBHOOK:
        calls = {
            "oneOf": [
                _ref("Call"),
                {"type": "array", "items": _ref("Call"), "maxItems": MAX_WEBHOOK_EVENTS},
            ]
        }
        path = _path("post", "Take a call of a Segment webhook, or several", "Accepted", calls)
        path["post"]["security"] = [{"signature": []}, {"signature": [], "writeKey": []}]
        text = "The write key, instead of the authorization."
        path["post"]["parameters"].append(_parameter("key", "query", text))
        return path
    if route in BATCH:
        path = _path("post", "Take a batch of calls", "Accepted", _ref("Batch"))
    else:
        needs = _NEEDS.get(SINGLE[route], [])
        call = {"allOf": [_ref("Call"), *needs]} if needs else _ref("Call")
        path = _path("post", "Take a call", "Accepted", call)
    path["post"]["security"] = [{"writeKey": []}, {}]
    return path


def _path(method: str, summary: str, answer: str, body: dict[str, Any]) -> dict[str, Any]:
    operation = _operation(summary, answer, tuple(_REFUSALS))
    operation["parameters"] = [_parameter("Content-Encoding", "header", "gzip, or nothing.")]
    operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    return {method: operation, "options": _preflight()}


def _parameter(name: str, place: str, text: str) -> dict[str, Any]:
    return {"name": name, "in": place, "description": text, "schema": {"type": "string"}}


def _settings() -> dict[str, Any]:
    key = {"name": "key", "in": "path", "required": True, "schema": {"type": "string"}}
    return {"parameters": [key], **_read("Say what SDKs ask Segment's CDN for", "Settings")}


def _read(summary: str, answer: str) -> dict[str, Any]:
    """Return a path that is read: HEAD answers as GET does, without the body."""
    get = _operation(summary, answer, _OF_A_READ)
    head = {
        status: {name: part for name, part in told.items() if name != "content"}
        for status, told in get["responses"].items()
    }
    alone = {"summary": f"{summary}: its headers", "responses": head}
    return {"get": get, "head": alone, "options": _preflight()}


def _operation(summary: str, answer: str, refusals: tuple[str, ...]) -> dict[str, Any]:
    good = {"description": summary, "content": {"application/json": {"schema": _ref(answer)}}}
    return {"summary": summary, "responses": {"200": good, **_refused(refusals)}}


def _preflight() -> dict[str, Any]:
    answers = {"204": {"description": "It may send"}, **_refused(_OF_A_READ)}
    return {"summary": "Answer a browser's preflight", "responses": answers}


def _refused(statuses: tuple[str, ...]) -> dict[str, Any]:
    content = {"application/json": {"schema": _ref("Refusal")}}
    return {
        status: {"description": _REFUSALS[status], **_HEADERS.get(status, {}), "content": content}
        for status in statuses
    }


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _schemas() -> dict[str, Any]:
    text = {"type": "string"}
    call = {
        "type": text,
        "userId": _ID,
        "anonymousId": _ID,
        "event": text,
        "messageId": {"type": "string", "maxLength": 100},
        "timestamp": text,
        "properties": _OPEN,
        "traits": _OPEN,
        "context": _OPEN,
        "writeKey": text,
    }
    batch = {"type": "array", "items": _ref("Call"), "maxItems": MAX_EVENTS}
    refusal = {"success": {"const": False}, "code": text, "message": text}
    return {
        "Call": {"type": "object", "properties": call, "additionalProperties": True},
        "Batch": {
            "type": "object",
            "properties": {"batch": batch, "writeKey": text, "sentAt": text, "context": _OPEN},
            "required": ["batch"],
            "additionalProperties": True,
        },
        "Accepted": {
            "type": "object",
            "properties": {"success": {"const": True}},
            "required": ["success"],
            "additionalProperties": False,
        },
        "Refusal": {
            "type": "object",
            "properties": refusal,
            "required": list(refusal),
            "additionalProperties": False,
        },
        "Settings": {
            "type": "object",
            "properties": {"integrations": _OPEN, "plan": _OPEN, "metrics": _OPEN},
            "required": ["integrations"],
        },
        "Document": {"type": "object", "required": ["openapi", "paths"]},
    }
