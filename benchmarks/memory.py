"""The highest memory of a run, on customers whose sets of traits all differ.

    python -m benchmarks.memory [--customers 33000] [--traits 200] [--longest 40]

Makes a Profiles Sync database in a temporary folder: each customer has four fifths of the traits,
at random, half of them audiences and half computed traits of its own values, of up to `longest`
characters. Then runs `syncer diff` and `syncer sync` on it, against the sandbox, each in a process
of its own, and `sync --full` after that, and prints the highest resident memory of each.
"""

from __future__ import annotations

import argparse
import random
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

from syncer.sandbox.amberflo import AmberfloSandbox, running

KEY = "sandbox-key"
TIME = "2026-11-01 00:00:00.000"
ROW = "canonical_segment_id TEXT, {}, seq INTEGER, received_at TEXT, uuid_ts TEXT, timestamp TEXT"
MEASURED = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=-3, stderr=subprocess.PIPE, text=True)
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
sys.exit(done.stderr) if done.returncode else print(f"{peak:.0f}")
"""


def make(path: Path, customers: int, traits: int, longest: int) -> None:
    rng = random.Random(1)
    database = sqlite3.connect(path)
    database.execute("PRAGMA synchronous = OFF")
    for table, own in (
        ("user_traits", "name TEXT, value TEXT"),
        ("user_identifiers", "type TEXT, value TEXT"),
        ("profile_merges", "segment_id TEXT"),
    ):
        database.execute(f"CREATE TABLE {table} ({ROW.format(own)})")
    end = (1, TIME, TIME, TIME)
    for number in range(customers):
        profile = f"p{number}"
        rows = [
            (profile, *_trait(rng, trait, longest), *end)
            for trait in range(traits)
            if rng.random() < 0.8
        ]
        database.executemany("INSERT INTO user_traits VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        named = (profile, "user_id", f"user_{number:09}", *end)
        database.execute("INSERT INTO user_identifiers VALUES (?, ?, ?, ?, ?, ?, ?)", named)
    database.commit()
    database.close()


def _trait(rng: random.Random, number: int, longest: int) -> tuple[str, str]:
    if number % 2:
        return f"audience_{number:04}", rng.choice(("true", "false"))
    return f"total_{number:04}", "x" * rng.randrange(longest) + f"{rng.random():.9f}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--customers", type=int, default=33_000)
    parser.add_argument("--traits", type=int, default=200)
    parser.add_argument("--longest", type=int, default=40)
    options = parser.parse_args()
    amberflo = AmberfloSandbox(KEY)
    with tempfile.TemporaryDirectory() as name, running(amberflo) as url:
        folder = Path(name)
        make(folder / "engage.db", options.customers, options.traits, options.longest)
        config = folder / "config.toml"
        config.write_text(
            f'[amberflo]\napi_key = "{KEY}"\ncustomers_url = "{url}/customers"\nrate = 0\n'
            '[engage]\ncomputed_traits = ["total_*"]\n'
            f'[engage.profiles_sync]\nurl = "sqlite:///{folder}/engage.db"\n'
            f'[state]\nurl = "sqlite:///{folder}/state.db"\n'
        )
        for command in (["diff"], ["sync"], ["sync", "--full"]):
            syncer = [sys.executable, "-m", "syncer", *command, "--config", str(config)]
            process = subprocess.run(
                [sys.executable, "-c", MEASURED, *syncer], capture_output=True, text=True
            )
            print(
                f"{' '.join(command):12} {(process.stdout or process.stderr).strip()} MB",
                flush=True,
            )


if __name__ == "__main__":
    main()
