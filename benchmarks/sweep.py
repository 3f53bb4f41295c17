"""The pace of a sweep of the Profile API, against Segment's limit of 100 requests a second.

    python -m benchmarks.sweep [--profiles 10000] [--limit 100] [--latency 0.05]

Serves the sandbox's Profile API in a process of its own: it answers 429 as soon as any second has
more requests than the limit, and each answer takes `latency` seconds. Another process sweeps it.
Prints the requests a second, the answers by status, and the CPU time and memory of the sweep.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

TRAITS = 12
SERVER = """
import json, sys
from syncer.sandbox.faults import Faults
from syncer.sandbox.profile_api import ProfileApiSandbox, running
profiles, traits, limit, latency = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
of_one = {f"trait_{n}": (n % 2 == 0, "2026-11-01T00:00:00.000Z") for n in range(traits)}
sandbox = ProfileApiSandbox(
    "token",
    "space",
    limit=limit,
    profiles={f"user_id:u{n:07d}": of_one for n in range(profiles)},
    faults=Faults.parse(f"slow=1,slow_seconds={latency}"),
)
with running(sandbox) as url:
    print(url, flush=True)
    sys.stdin.read()
    print(json.dumps(sandbox.stats()["answers"]), flush=True)
"""
SWEEP = """
import json, resource, sys, time
from pathlib import Path
from syncer.engage.profile_api import ProfileApi
from syncer.engage.source_settings import SourceContext
url, folder, profiles, limit = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
context = SourceContext(customer_ids={"all": lambda: (f"u{n:07d}" for n in range(profiles))})
source = ProfileApi("token", "space", Path(folder), url, rate=limit, context=context)
began = time.monotonic()
source.sweep()
usage = resource.getrusage(resource.RUSAGE_SELF)
seconds = time.monotonic() - began
print(json.dumps([seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--profiles", type=int, default=10_000)
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--latency", type=float, default=0.05)
    args = parser.parse_args()
    numbers = [str(args.profiles), str(TRAITS), str(args.limit), str(args.latency)]
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(
            [sys.executable, "-c", SERVER, *numbers],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as server,
    ):
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        swept = subprocess.run(
            [sys.executable, "-c", SWEEP, url, folder, str(args.profiles), str(args.limit)],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        answers = json.loads(server.communicate()[0])
        size = (Path(folder) / "syncer-profile-api.db").stat().st_size / 2**20
    seconds, cpu, memory = json.loads(swept.stdout)
    rate = args.profiles / seconds
    print(
        f"{args.profiles:,} profiles in {seconds:.1f} s: {rate:.1f} a second, "
        f"{rate / args.limit:.1%} of the limit; answers {answers}; "
        f"CPU {cpu:.1f} s, memory {memory:.0f} MB, file {size:.1f} MB"
    )


if __name__ == "__main__":
    main()
