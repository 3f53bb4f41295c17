"""What is secret is in no file of the state and in nothing that is printed."""

from __future__ import annotations

from syncer.sandbox.engage import EngageSandbox
from tests.support.installation import Installation

SECRET = "hunter2-in-the-query"


def test_the_query_of_a_url_is_not_stored(
    installation: Installation, engage: EngageSandbox
) -> None:
    engage.fill(20, 2)

    def kind(query: str) -> str:
        installation.configure(source=installation.source_url + query)
        done = installation.run("sync")
        assert SECRET not in done.stdout + done.stderr
        for file in installation.folder.glob("*.db*"):
            assert SECRET.encode() not in file.read_bytes(), file
        return str(installation.json("runs")[0]["kind"])

    assert kind(f"?password={SECRET}") == "initial"
    assert kind(f"?password={SECRET}") == "incremental"
    # It says which source it is all the same: another one is compared whole.
    assert kind(f"?password={SECRET}&role=reader") == "reconcile"
    assert kind(f"?role=reader&password={SECRET}") == "incremental"
    assert kind("") == "reconcile"
