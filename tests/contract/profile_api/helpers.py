"""A space of the Profile API whose customers a test names."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from syncer.engage.profile_api import ProfileApi
from syncer.engage.source import Everything, Scope
from syncer.engage.source_settings import SourceContext
from syncer.sandbox.profile_api import ProfileApiSandbox

AT = "2026-03-04T10:00:00.000Z"


class Said:
    """Progress that keeps what it says."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    def begin(self, stage: str, total: int, done: int = 0) -> None: ...

    def at(self, done: int) -> None: ...

    def end(self) -> None: ...

    def trouble(self, text: str | None) -> None: ...


@dataclass
class ProfileApiSpace:
    """The stand-in, and sources that sweep the `ids` of it."""

    sandbox: ProfileApiSandbox
    url: str
    folder: Path
    ids: list[str] = field(default_factory=list)
    said: Said = field(default_factory=Said)

    def put(self, customer_id: str, *, known: bool = True, **traits: Any) -> None:
        """A profile with these traits, whose id is known here."""
        profile = {name: (value, AT) for name, value in traits.items()}
        self.sandbox.profiles = {
            **self.sandbox.profiles,
            f"user_id:{customer_id.lower()}": profile,
        }
        if known:
            self.ids.append(customer_id)

    def source(self, token: str = "token", **settings: Any) -> ProfileApi:
        context = {
            "customer_ids": {"test": self._listed},
            "progress": self.said,
            **settings.pop("context", {}),
        }
        return ProfileApi(
            token,
            settings.pop("space_id", "a space"),
            self.folder,
            settings.pop("url", self.url),
            **{"rate": 100_000, "context": SourceContext(**context), **settings},
        )

    def pulled(
        self,
        scope: Scope | None = None,
        keys: Iterable[str] = ("vip", "total"),
        **settings: Any,
    ) -> dict[str, dict[str, Any]]:
        """What a pull yields: the texts of the traits, by customer."""
        with self.source(**settings).pull(scope or Everything()) as pull:
            return {
                row.customer_id: dict(
                    zip(json.loads(row.keys), json.loads(row.values), strict=True)
                )
                for row in pull.customers(list(keys))
            }

    def _listed(self) -> list[str]:
        return list(self.ids)
