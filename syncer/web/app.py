"""The page's ASGI app: the checks that each request passes and the headers of each response.

The checks, in this order: the host name is one of ours (against DNS rebinding); a POST comes from
one of our own pages (its origin, and a token in its form); the request has a session. Handlers run
in threads.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import SplitResult, parse_qsl, urlsplit

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import HTMLResponse, RedirectResponse
from starlette.responses import Response as HttpResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from state.errors import Locked, NotKept, StateError
from syncer.errors import SyncerError
from syncer.web.messages import (
    BadRequest,
    Conflict,
    NoContent,
    NotFound,
    Page,
    Redirect,
    Request,
    Response,
)
from syncer.web.render import Templates, assets, link
from syncer.web.session import LIFETIME, LoginThrottle, Sessions

log = logging.getLogger("syncer.web")

Handler = Callable[[Request], Response]

COOKIE = "syncer_session"
#: The largest form, in bytes.
LARGEST_FORM = 64 * 1024
#: The names that this machine has for itself.
_OWN_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_WILDCARDS = frozenset({"0.0.0.0", "::"})
#: The title of a page that reports a failure of ours.
FAILED = "Something went wrong"
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
#: A static file may be cached: its URL has a stamp that changes with its content.
_STATIC_HEADERS = {"cache-control": "public, max-age=31536000, immutable"}


class _Refused(Exception):
    """A request that a check refuses: its status, one line for the user, further headers."""

    def __init__(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(text)
        self.status, self.headers = status, headers or {}


@dataclass
class SecureApp:
    """Builds the app.

    `listen` is the host that the page listens on, `hosts` are further names by which browsers reach
    it, and `layout` returns the data that every page shows around its own.
    """

    sessions: Sessions
    listen: str
    hosts: Sequence[str] = ()
    layout: Callable[[], dict[str, object]] = dict
    throttle: LoginThrottle = field(default_factory=LoginThrottle)

    def __post_init__(self) -> None:
        self._templates = Templates()
        self._assets = assets()
        self._further = frozenset(name.lower() for name in self.hosts)
        self._names = (_OWN_NAMES | {self.listen.lower()} | self._further) - _WILDCARDS

    def build(self, reads: dict[str, Handler], writes: dict[str, Handler]) -> ASGIApp:
        """Return the app for the handlers of GET and of POST by their path."""
        routes = [
            Route("/login", self._guarded(self._login), methods=["GET", "POST"]),
            Route("/static/{name}", self._guarded(self._static), methods=["GET"]),
        ]
        for method, handlers in (("GET", reads), ("POST", writes)):
            for path, handler in handlers.items():
                routes.append(
                    Route(path, self._guarded(self._with_session(handler)), methods=[method])
                )
        if "/logout" not in writes:
            routes.append(Route("/logout", self._guarded(self._logout), methods=["POST"]))
        routes.append(
            Route("/{path:path}", self._guarded(self._with_session(_unknown_page)), methods=["GET"])
        )
        return _with_headers(Starlette(routes=routes))

    # Checks

    def _guarded(
        self, answer: Callable[[HttpRequest], Awaitable[HttpResponse]]
    ) -> Callable[[HttpRequest], Awaitable[HttpResponse]]:
        async def guarded(request: HttpRequest) -> HttpResponse:
            try:
                self._check_host(request)
                if request.method == "POST":
                    self._check_origin(request)
                response = await answer(request)
            except _Refused as refused:
                response = self._render(_error(refused.status, str(refused)), request)
                response.headers.update(refused.headers)
            except ClientDisconnect:
                response = HttpResponse(status_code=400)
            except StateError as error:
                response = self._render(_error(503, str(error), FAILED), request)
            except Exception:
                log.exception("a page failed", extra={"path": request.url.path})
                response = self._render(_broken(), request)
            return response

        return guarded

    def _check_host(self, request: HttpRequest) -> None:
        if _name(request.headers.get("host", "")) not in self._names:
            raise _Refused(
                421, "this page has another host name; add yours to web.hosts"
            )  # fmt: skip

    def _check_origin(self, request: HttpRequest) -> None:
        """Require that a POST comes from a page of this origin."""
        site = request.headers.get("sec-fetch-site")
        if site is not None:
            allowed = site == "same-origin"
        elif (origin := request.headers.get("origin")) is not None:
            url = _split(origin)
            # A proxy may put its own name into Host.
            allowed = url.netloc == request.headers["host"] or url.hostname in self._further
        else:
            allowed = "authorization" in request.headers  # browsers do not send it by themselves
        if not allowed:
            raise _Refused(403, "this form comes from another site; nothing was changed")

    async def _form(self, request: HttpRequest) -> dict[str, str]:
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > LARGEST_FORM:
                raise _Refused(413, f"this form is over {LARGEST_FORM // 1024} KB")
        try:
            return dict(parse_qsl(body.decode(), max_num_fields=1000))
        except ValueError:
            raise _Refused(
                400, "this form is not valid: it is not UTF-8, or has over 1,000 fields"
            ) from None

    # Logging in and out

    async def _login(self, request: HttpRequest) -> HttpResponse:
        to = _own_path(request.query_params.get("next", ""))
        if request.method != "POST":
            return self._login_page(request, to)
        form = await self._form(request)
        to = _own_path(form.get("next", ""))
        if not self._accepts(form.get("token", "")):
            return self._login_page(request, to, wrong=True)
        response = RedirectResponse(to, 303)
        response.set_cookie(
            COOKIE, self.sessions.open(), max_age=LIFETIME, path="/", httponly=True,
            samesite="strict", secure=request.headers.get("x-forwarded-proto") == "https",
        )  # fmt: skip
        return response

    def _login_page(self, request: HttpRequest, to: str, *, wrong: bool = False) -> HttpResponse:
        page = Page("login.html", {"to": to, "wrong": wrong}, 401 if wrong else 200)
        return self._render(page, request)

    def _accepts(self, token: str) -> bool:
        """Whether it is the token.

        After too many wrong tokens only further wrong ones are turned away, so that nobody can lock
        the operator out.
        """
        if self.sessions.matches(token):
            return True
        pause = self.throttle.pause()
        if pause:
            raise _Refused(
                429, f"too many wrong tokens; try again in {pause:.0f} s",
                {"retry-after": f"{pause:.0f}"},
            )  # fmt: skip
        self.throttle.add_failure()
        log.warning("a login with a wrong token was refused")
        return False

    async def _logout(self, request: HttpRequest) -> HttpResponse:
        def end_session(_: Request) -> Response:
            self.sessions.end(request.cookies.get(COOKIE, ""))
            return Redirect("/login")

        response = await self._with_session(end_session)(request)
        if response.status_code == 303:
            response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
        return response

    def _session(self, request: HttpRequest) -> str | None:
        """Return the request's session: "" if it has the token itself, None if it has neither."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            if self._accepts(token.strip()):
                return ""
            raise _Refused(401, "the token is wrong", {"www-authenticate": "Bearer"})
        value = request.cookies.get(COOKIE, "")
        return value if value and self.sessions.holds(value) else None

    # Pages

    def _with_session(self, handler: Handler) -> Callable[[HttpRequest], Awaitable[HttpResponse]]:
        """Require a session, then answer with the handler."""

        async def answer(request: HttpRequest) -> HttpResponse:
            session = await asyncio.to_thread(self._session, request)
            if session is None:
                return _to_login(request)
            form = await self._form(request) if request.method == "POST" else {}
            form_token = self.sessions.form_token(session) if session else ""
            if session and request.method == "POST" and form.get("form_token") != form_token:
                raise _Refused(403, "this form belongs to another session; load the page again")
            asked = Request(
                path=request.url.path,
                query=dict(request.query_params),
                form=form,
                form_token=form_token,
                which=request.path_params.get("which", ""),
            )
            return await asyncio.to_thread(self._answer, handler, asked, request)

        return answer

    def _answer(self, handler: Handler, asked: Request, request: HttpRequest) -> HttpResponse:
        try:
            response = handler(asked)
            if isinstance(response, Redirect):
                return RedirectResponse(response.url, 303)
            if isinstance(response, NoContent):
                return HttpResponse(status_code=204)
            return self._render(response, request, asked)
        except BadRequest as error:
            page = _error(error.status, str(error), error.title)
        except NotKept as error:
            page = _error(NotFound.status, str(error), NotFound.title)
        except Locked as error:
            page = _error(Conflict.status, str(error), Conflict.title)
        except (StateError, SyncerError) as error:
            page = _error(503, str(error), FAILED)
        except Exception:
            log.exception("a page failed", extra={"path": request.url.path})
            page = _broken()
        return self._render(page, request, asked)

    def _render(
        self, page: Page, request: HttpRequest, asked: Request | None = None
    ) -> HttpResponse:
        """Render a page as HTML; `asked` is None where nobody is logged in."""
        layout = {} if page.part or asked is None else self.layout()
        data = {
            "request": asked,
            "form_token": asked.form_token if asked else "",
            "path": request.url.path,
            "tasks": [],
            "needs": {},
            **layout,
            **page.data,
        }
        return HTMLResponse(self._templates(page.template, data), page.status, dict(page.headers))

    async def _static(self, request: HttpRequest) -> HttpResponse:
        asset = self._assets.get(request.path_params["name"])
        if asset is None:
            raise _Refused(404, "there is no such file")
        body, media_type = asset
        return HttpResponse(body, media_type=media_type, headers=_STATIC_HEADERS)


def _error(status: int, text: str, title: str = "Refused") -> Page:
    return Page("error.html", {"title": title, "text": text}, status)


def _broken() -> Page:
    return _error(500, "an error occurred; the log has the details", FAILED)


def _unknown_page(request: Request) -> Response:
    raise NotFound(f"there is no page {request.path}")


def _to_login(request: HttpRequest) -> HttpResponse:
    if request.headers.get("hx-request"):
        return HttpResponse(status_code=401, headers={"hx-redirect": "/login"})
    to = request.url.path if request.method in ("GET", "HEAD") else "/"
    if request.url.query and request.method in ("GET", "HEAD"):
        to = f"{to}?{request.url.query}"
    return RedirectResponse(link("/login", next=to if to != "/" else None), 303)


def _own_path(to: str) -> str:
    """Return where to go after the login: a path of ours, or the front page."""
    own = to.startswith("/") and not to.startswith(("//", "/\\")) and to.isprintable()
    return to if own else "/"


def _name(host: str) -> str:
    """Return the name in a Host header, without the port."""
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
    """Add our headers to every response of an app, whoever made it."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await app(scope, receive, send_with_headers)

    return answer
