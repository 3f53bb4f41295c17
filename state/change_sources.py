"""Where a change of the history comes from, beside a row of a run and a call of Engage."""

from __future__ import annotations

#: What `change.source` says; null is a row that a run pulled, or a membership that a call told.
#: `amberflo`: `before` is what Amberflo had, and not what was recorded here; `deleted`: Segment has
#: no identifier of the customer left; `identify`: an identify call said this trait, name or email;
#: `renamed`: the key gave its name to another one; `released`: the trait was given back; `adopted`:
#: as `amberflo`, and Amberflo had the customer as it should be, so nothing was sent.
SOURCES = ("amberflo", "deleted", "identify", "renamed", "released", "adopted")
AMBERFLO, DELETED, IDENTIFY, RENAMED, RELEASED, ADOPTED = SOURCES
#: The sources of changes whose `before` is what Amberflo had.
MET = (AMBERFLO, ADOPTED)
