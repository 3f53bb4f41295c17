"""The door: every request comes through here, and every answer leaves with the same headers.

In this order: is it for a host name of ours (DNS rebinding), is it logged in, and for what changes
something, does it come from a page of ours (two independent signs). Handlers run in threads.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import SplitResult, parse_qsl, urlsplit

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from state.errors import Locked, NotKept, StateError
from syncer.errors import SyncerError
from syncer.web.messages import Answer, GoTo, Missing, Nothing, NotNow, Page, Visit, Wrong
from syncer.web.render import Templates, assets, link
from syncer.web.session import LASTS, Sessions, Tries

log = logging.getLogger("syncer.web")

Handler = Callable[[Visit], Answer]

COOKIE = "syncer_session"
#: Bytes of a form.
LARGEST_FORM = 64 * 1024
#: Names by which this machine reaches itself.
_OWN_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_WILDCARDS = frozenset({"0.0.0.0", "::"})
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
#: Files beside the pages have a stamp in their address that changes with them.
_KEPT = {"cache-control": "public, max-age=31536000, immutable"}


class _Refused(Exception):
    """An answer that is no page of ours."""

    def __init__(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(text)
        self.status, self.headers = status, headers or {}


@dataclass
class Door:
    """Lets visitors in. `listen` is the host that the page listens on, `hosts` are further names
    by which browsers reach it; `around` gives what every page shows around its own."""

    sessions: Sessions
    listen: str
    hosts: Sequence[str] = ()
    around: Callable[[], dict[str, object]] = dict
    tries: Tries = field(default_factory=Tries)

    def __post_init__(self) -> None:
        self._templates = Templates()
        self._assets = assets()
        self._further = frozenset(name.lower() for name in self.hosts)
        self._names = (_OWN_NAMES | {self.listen.lower()} | self._further) - _WILDCARDS

    def app(self, reads: dict[str, Handler], writes: dict[str, Handler]) -> ASGIApp:
        """The app to serve: handlers of GET and of POST by their path."""
        routes = [
            Route("/login", self._guarded(self._login), methods=["GET", "POST"]),
            Route("/static/{name}", self._guarded(self._static), methods=["GET"]),
        ]
        for method, handlers in (("GET", reads), ("POST", writes)):
            for path, handler in handlers.items():
                routes.append(Route(path, self._guarded(self._open(handler)), methods=[method]))
        if "/logout" not in writes:
            routes.append(Route("/logout", self._guarded(self._logout), methods=["POST"]))
        routes.append(Route("/{path:path}", self._guarded(self._open(_nowhere)), methods=["GET"]))
        return _with_headers(Starlette(routes=routes))

    # What every request goes through

    def _guarded(
        self, answer: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def guarded(request: Request) -> Response:
            try:
                self._check_host(request)
                if request.method == "POST":
                    self._check_origin(request)
                response = await answer(request)
            except _Refused as refused:
                response = self._shown(_error(refused.status, str(refused)), request)
                response.headers.update(refused.headers)
            except ClientDisconnect:
                response = Response(status_code=400)
            except StateError as error:
                response = self._shown(_error(503, str(error), "That did not work"), request)
            except Exception:
                response = self._shown(_broken(request), request)
            return response

        return guarded

    def _check_host(self, request: Request) -> None:
        if _name(request.headers.get("host", "")) not in self._names:
            raise _Refused(
                421, "this page is not served under that host name; web.hosts in the config lets "
                "further names in",
            )  # fmt: skip

    def _check_origin(self, request: Request) -> None:
        """What changes something must come from a page of this very origin."""
        site = request.headers.get("sec-fetch-site")
        if site is not None:
            good = site == "same-origin"
        elif (origin := request.headers.get("origin")) is not None:
            there = _split(origin)
            # A proxy may have put its own name into Host.
            good = there.netloc == request.headers["host"] or there.hostname in self._further
        else:
            good = "authorization" in request.headers  # no browser
        if not good:
            raise _Refused(403, "this form was sent from elsewhere; nothing was done")

    async def _form(self, request: Request) -> dict[str, str]:
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > LARGEST_FORM:
                raise _Refused(413, "this form is too large")
        try:
            return dict(parse_qsl(body.decode(), max_num_fields=1000))
        except ValueError:
            raise _Refused(400, "this form cannot be read") from None

    # Logging in and out

    async def _login(self, request: Request) -> Response:
        to = _inside(request.query_params.get("next", ""))
        if request.method != "POST":
            return self._login_page(request, to)
        form = await self._form(request)
        to = _inside(form.get("next", ""))
        if not self._tried(form.get("token", "")):
            return self._login_page(request, to, wrong=True)
        response = RedirectResponse(to, 303)
        response.set_cookie(
            COOKIE, self.sessions.open(), max_age=LASTS, path="/", httponly=True,
            samesite="strict", secure=request.headers.get("x-forwarded-proto") == "https",
        )  # fmt: skip
        return response

    def _login_page(self, request: Request, to: str, *, wrong: bool = False) -> Response:
        page = Page("login.html", {"to": to, "wrong": wrong}, 401 if wrong else 200)
        return self._shown(page, request)

    def _tried(self, token: str) -> bool:
        """Whether it is the token. Who has it comes in at any time: only wrong ones have to wait
        where there were too many, so that nobody can keep the operator out."""
        if self.sessions.matches(token):
            return True
        pause = self.tries.pause()
        if pause:
            raise _Refused(
                429, f"too many wrong tokens; try again in {pause:.0f} s",
                {"retry-after": f"{pause:.0f}"},
            )  # fmt: skip
        self.tries.wrong()
        log.warning("a log-in with a wrong token was refused")
        return False

    async def _logout(self, request: Request) -> Response:
        def end(_visit: Visit) -> Answer:
            self.sessions.end(request.cookies.get(COOKIE, ""))
            return GoTo("/login")

        response = await self._open(end)(request)
        if response.status_code == 303:
            response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
        return response

    def _session(self, request: Request) -> str | None:
        """The session of a request: "" where it has the token itself, None where it has none."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            if self._tried(token.strip()):
                return ""
            raise _Refused(401, "this is not the token", {"www-authenticate": "Bearer"})
        value = request.cookies.get(COOKIE, "")
        return value if value and self.sessions.holds(value) else None

    # Pages

    def _open(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        """A page for who is logged in."""

        async def opened(request: Request) -> Response:
            session = await asyncio.to_thread(self._session, request)
            if session is None:
                return _to_login(request)
            form = await self._form(request) if request.method == "POST" else {}
            form_token = self.sessions.form_token(session) if session else ""
            if session and request.method == "POST" and form.get("form_token") != form_token:
                raise _Refused(403, "this form was not made for this session; load it again")
            visit = Visit(
                path=request.url.path,
                query=dict(request.query_params),
                form=form,
                form_token=form_token,
                which=request.path_params.get("which", ""),
            )
            return await asyncio.to_thread(self._answer, handler, visit, request)

        return opened

    def _answer(self, handler: Handler, visit: Visit, request: Request) -> Response:
        try:
            answer = handler(visit)
            if isinstance(answer, GoTo):
                return RedirectResponse(answer.url, 303)
            if isinstance(answer, Nothing):
                return Response(status_code=204)
            return self._shown(answer, request, visit)
        except Wrong as wrong:
            page = _error(wrong.status, str(wrong), wrong.title)
        except NotKept as older:
            page = _error(Missing.status, str(older), Missing.title)
        except Locked as locked:
            page = _error(NotNow.status, str(locked), NotNow.title)
        except (StateError, SyncerError) as error:
            page = _error(503, str(error), "That did not work")
        except Exception:
            page = _broken(request)
        return self._shown(page, request, visit)

    def _shown(self, page: Page, request: Request, visit: Visit | None = None) -> Response:
        around = {} if page.part or visit is None else self.around()
        data = {
            "visit": visit,
            "form_token": visit.form_token if visit else "",
            "path": request.url.path,
            "tasks": [],
            "needs": {},
            **around,
            **page.data,
        }
        return HTMLResponse(self._templates(page.template, data), page.status, dict(page.headers))

    async def _static(self, request: Request) -> Response:
        found = self._assets.get(request.path_params["name"])
        if found is None:
            raise _Refused(404, "there is no such file")
        return Response(found[0], media_type=found[1], headers=_KEPT)


def _error(status: int, text: str, title: str = "Refused") -> Page:
    return Page("error.html", {"title": title, "text": text}, status)


def _broken(request: Request) -> Page:
    log.exception("a page broke", extra={"path": request.url.path})
    return _error(500, "this page broke; the log says why", "That did not work")


def _nowhere(visit: Visit) -> Answer:
    raise Missing(f"there is no page {visit.path}")


def _to_login(request: Request) -> Response:
    if request.headers.get("hx-request"):
        return Response(status_code=401, headers={"hx-redirect": "/login"})
    to = request.url.path if request.method in ("GET", "HEAD") else "/"
    if request.url.query and request.method in ("GET", "HEAD"):
        to = f"{to}?{request.url.query}"
    return RedirectResponse(link("/login", next=to if to != "/" else None), 303)


def _inside(to: str) -> str:
    """Where to go on after the log-in: a path of ours, nothing else."""
    inside = to.startswith("/") and not to.startswith(("//", "/\\")) and to.isprintable()
    return to if inside else "/"


def _name(host: str) -> str:
    """The name in a Host header, without the port."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _split(origin: str) -> SplitResult:
    try:
        return urlsplit(origin)
    except ValueError:
        raise _Refused(400, "the Origin header of this request cannot be read") from None


def _with_headers(app: ASGIApp) -> ASGIApp:
    """An app whose every answer has our headers, also where no handler of ours made it."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await app(scope, receive, send_with_headers)

    return answer
