"""Customers and records for the tests of the stand-in."""

from __future__ import annotations

from typing import Any

import httpx

KEY = "key-1"


NOW = 1_767_225_600_000


def client(url: str = "", key: str | None = KEY) -> httpx.Client:
    """Without TLS, whose certificates would take longer to load than most tests to run."""
    headers = {} if key is None else {"X-API-Key": key}
    return httpx.Client(base_url=url, headers=headers, trust_env=False, verify=False)


def customer(customer_id: str = "c1", **fields: Any) -> dict[str, Any]:
    return {"customerId": customer_id, "customerName": "Name", **fields}


def record(**fields: Any) -> dict[str, Any]:
    return {
        "uniqueId": "m1",
        "customerId": "c1",
        "meterApiName": "page",
        "meterValue": 1,
        "meterTimeInMillis": NOW,
        "dimensions": {"url": "https:__segment.com"},
        **fields,
    }


def message(answer: httpx.Response, status: int = 400) -> str:
    assert answer.status_code == status, answer.text
    return str(answer.json()["errorMessage"])
