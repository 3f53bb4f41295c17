"""Dagster: an asset that a run brings up to date, every two hours.

The program has an environment of its own, and the state lies where each host of a run reaches it.
Try it: dagster dev -f dagster_job.py
"""

import json
import subprocess

import dagster

SYNC = ["/opt/syncer/.venv/bin/syncer", "sync", "--json", "--config", "/etc/syncer/config.toml"]


@dagster.asset(retry_policy=dagster.RetryPolicy(max_retries=3, delay=600), pool="syncer")
def amberflo_customers(context: dagster.AssetExecutionContext) -> dagster.MaterializeResult:
    done = subprocess.run(SYNC, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode == 2:
        raise dagster.Failure("the config is wrong; another try does not help", allow_retries=False)
    if done.returncode not in (0, 3):
        raise dagster.Failure("the run is not good; what is left goes with the next one")
    run = json.loads(done.stdout)
    for key, reason in run["hold_reasons"].items():
        context.log.warning(f"held until syncer runs approve or runs reject: {key}: {reason}")
    shown = ("run", "state", "entered", "exited", "delivered", "held")
    return dagster.MaterializeResult(metadata={key: run[key] for key in shown})


defs = dagster.Definitions(
    assets=[amberflo_customers],
    schedules=[
        dagster.ScheduleDefinition(
            name="every_two_hours",
            target=dagster.AssetSelection.assets(amberflo_customers),
            cron_schedule="17 */2 * * *",
            default_status=dagster.DefaultScheduleStatus.RUNNING,
        )
    ],
)
