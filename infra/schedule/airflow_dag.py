"""An Airflow 3 DAG that retrains every night through `gatehouse submit`: copy it to the folder of DAGs.

The worker of Airflow has Gatehouse installed, and RAY_AUTH_TOKEN_PATH in its environment names the file of the token.
"""

from datetime import datetime, timedelta

from airflow.providers.standard.operators.bash import BashOperator  # type: ignore[import-not-found]
from airflow.sdk import DAG  # type: ignore[import-not-found]

GATE_REFUSED, LOCKED = 4, 75

with DAG(
    dag_id="gatehouse_retrain",
    schedule="30 3 * * *",
    start_date=datetime(2026, 1, 1),
    # `retrain` itself makes up for slots that were missed, in their order.
    catchup=False,
    max_active_runs=1,
) as dag:
    BashOperator(
        task_id="retrain",
        # The run id makes a retry of a task that Airflow lost follow the job that runs, instead of starting another.
        bash_command=(
            "gatehouse submit retrain --address gatehouse-head-svc:8265 --config /etc/gatehouse/run.yaml "
            "--run-id retrain-{{ ts_nodash }}"
        ),
        append_env=True,
        skip_on_exit_code=[GATE_REFUSED, LOCKED],
        retries=2,
        retry_delay=timedelta(minutes=1),
        execution_timeout=timedelta(hours=12),
    )
