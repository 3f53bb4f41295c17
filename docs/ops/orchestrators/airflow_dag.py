"""An Airflow 3 DAG: a run every two hours. Put it into the folder of DAGs.

The worker has the program in an environment of its own, and the state where each worker reaches it.
"""

import json
import subprocess
from datetime import datetime, timedelta

from airflow.sdk import dag, task
from airflow.sdk.exceptions import AirflowException, AirflowFailException

SYNC = ["/opt/syncer/.venv/bin/syncer", "sync", "--json", "--config", "/etc/syncer/config.toml"]


@dag(schedule="17 */2 * * *", start_date=datetime(2026, 1, 1), catchup=False, max_active_runs=1)
def syncer() -> None:
    @task(retries=3, retry_delay=timedelta(minutes=10))
    def sync() -> dict[str, object]:
        done = subprocess.run(SYNC, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode == 2:
            raise AirflowFailException("the config is wrong; another try does not help")
        if done.returncode not in (0, 3):
            raise AirflowException("the run is not good; what is left goes with the next one")
        run = json.loads(done.stdout)
        for key, reason in run["hold_reasons"].items():
            print(f"held until syncer runs approve or runs reject: {key}: {reason}")
        return {key: run[key] for key in ("run", "state", "entered", "exited", "delivered", "held")}

    sync()


syncer()
