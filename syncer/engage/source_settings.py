"""What every source declares of itself: its settings, what it can see, and how it is built.

A source is a subclass of `SourceSettings` in a file of `syncer/engage/sources`, which that package
lists. All else reads it from there: the config its section, the state what identifies it, `check`
and the documents what it can see.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import scrypt
from pathlib import Path
from typing import Any, ClassVar

from sqlalchemy.engine import URL

from syncer.engage.events import Called
from syncer.engage.source import Source
from syncer.errors import ConfigError
from syncer.progress import LineProgress, Progress
from syncer.setting_types import Section, kind_of_file, shown


@dataclass(frozen=True)
class Sight:
    """What a source can see of Engage.

    `lag` is how late it sees a change and `cost` what a pull costs, each as a phrase.
    """

    lag: str
    cost: str
    #: that a trait is gone of a profile that is still there
    vanished_traits: bool = True
    #: that a value was taken away, as a row without one
    nulls: bool = True
    #: that a profile was deleted, and did not only leave its audiences
    deletions: bool = True
    #: profiles with traits and without a customer id, which are counted
    anonymous: bool = True
    #: that a profile was merged into another one
    merges: bool = True
    #: when a row was loaded, so that an incremental run reads only what changed
    load_times: bool = True

    @property
    def unseen(self) -> list[str]:
        """What a user would miss, as phrases."""
        phrases = {
            "values that are gone": self.vanished_traits,
            "who was deleted in Segment": self.deletions,
            "profiles without a customer id": self.anonymous,
            "merges": self.merges,
        }
        return [phrase for phrase, seen in phrases.items() if not seen]


@dataclass(frozen=True)
class SourceContext:
    """What a source gets beside its own settings."""

    #: the external id type that is the customer id, and `engage.filter`
    customer_id: str = "user_id"
    filter: str = ""
    #: the keys that `engage.audiences` and `engage.computed_traits` name exactly
    named_keys: tuple[str, ...] = ()
    #: whether a key may be ours, or is a name or email: nothing else needs to be read
    selects: Callable[[str], bool] = lambda key: True
    #: the folder of the state's local files; None: the state has none, as it is on a server
    folder: Path | None = None
    #: who lists customer ids beside Segment, by name: Amberflo, and what was seen here
    customer_ids: Mapping[str, Callable[[], Iterable[str]]] = field(default_factory=dict)
    #: whether Segment's signed webhook may send calls, and what calls brought until now
    has_webhook: bool = False
    called: Callable[[], Called] = Called
    progress: Progress = field(default_factory=LineProgress)
    stop: Callable[[], bool] = lambda: False
    #: to be called for each sign of life of the source, while a pull is being opened
    answered: Callable[[], None] = lambda: None


class SourceSettings(Section, ABC):
    """The section `[engage.NAME]` of a source; `source` builds the source from it."""

    #: `engage.source`, and the name of the section
    NAME: ClassVar[str]
    SIGHT: ClassVar[Sight]
    #: whether each run pulls everything, because to pull what changed would take as long
    ALWAYS_WHOLE: ClassVar[bool] = False
    #: the secrets among the settings: each has a twin with `_file` at its end
    SECRETS: ClassVar[tuple[str, ...]] = ()
    #: the settings that hold a path, or the URL of a file: they begin at the config's folder
    PATHS: ClassVar[tuple[str, ...]] = ()

    @property
    @abstractmethod
    def place(self) -> str:
        """Where it reads from, for logs and messages: short, and without a secret."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Return what makes the snapshot incomparable with a partial pull when it changes.

        The state stores it as JSON: a secret may be in it only as `fingerprint`. "source" must be
        among its keys, and be of the form [NAME, …].
        """

    @abstractmethod
    def source(self, context: SourceContext) -> Source:
        """Build the source; raise `ConfigError` if the settings cannot work.

        Heavy libraries are imported here, and not at the top: every process reads the settings.
        """


def check_file(url: URL, key: str, tables: str) -> None:
    """Raise `ConfigError` if a URL names a file that does not exist."""
    if (kind := kind_of_file(url)) is None or str(url.database or "").startswith("file:"):
        return
    path = Path(str(url.database or ""))
    if not path.is_file():
        raise ConfigError(
            f"{key}: the {kind} file {path} does not exist; name the file that holds the {tables}"
        )


def fingerprint(url: URL) -> str:
    """Return a text that is the same for the same URL, to be stored.

    It reveals neither the password nor the query, and guessing them from it is slow.
    """
    if not url.query:
        return shown(url)
    salt, query = shown(url).encode(), repr(sorted(url.query.items())).encode()
    return f"{shown(url)}?{scrypt(query, salt=salt, n=2**14, r=8, p=1, dklen=16).hex()}"
