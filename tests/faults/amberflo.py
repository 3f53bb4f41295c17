"""The Amberflo of a scenario: the sandbox, which also writes down every write as it happens."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, NamedTuple

from aiohttp import web

from syncer.sandbox.amberflo import AmberfloSandbox, Json

_request: ContextVar[web.BaseRequest] = ContextVar("_request")


class Write(NamedTuple):
    """A customer's record as it was from this write on."""

    customer_id: str
    traits: dict[str, Any]


class Recorder(AmberfloSandbox):
    """`writes` are all writes of customers in their order; `overlaps` the customers of whom a write
    began while another one was in progress whose sender still waited for the answer. (One that was
    killed, or had given up, cannot call its request back.)"""

    def __init__(self, api_key: str, *, put_unknown: str = "create") -> None:
        super().__init__(api_key, put_unknown=put_unknown)
        self.writes: list[Write] = []
        self.overlaps: list[str] = []
        self._open: dict[str, list[web.BaseRequest]] = {}

    async def _serve(self, request: web.BaseRequest) -> web.Response:
        _request.set(request)
        return await super()._serve(request)

    def _store(self, customer: Json, before: Json) -> web.Response:
        answer = super()._store(customer, before)
        self.writes.append(Write(customer["customerId"], customer.get("traits", {})))
        return answer

    async def _linger(self, customer: str, delay: float) -> None:
        request, others = _request.get(), self._open.setdefault(customer, [])
        if any(other.transport and not other.transport.is_closing() for other in others):
            self.overlaps.append(customer)
        others.append(request)
        try:
            await super()._linger(customer, delay)
        finally:
            others.remove(request)
