"""`gatehouse VERB --config run.yaml --set a.b=c`: the command line; each verb is one file of this package."""

import sys
import traceback

import typer

from jobs import (
    benchmark,
    doctor,
    evaluate,
    export,
    json_schema,
    monitor,
    plan,
    preprocess,
    registry,
    retrain,
    run,
    score,
    simulate,
    submit,
    train,
    tune,
)
from jobs.process import set_up_process
from pipeline.errors import GatehouseError

INTERRUPTED_EXIT_CODE = 130
app = typer.Typer(
    name="gatehouse",
    help="Distributed multi-task recommendation: raw logs to ranked candidates.",
    epilog="Add --debug to any verb to see the traceback of a failure.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for verb in (run, simulate, preprocess, train, evaluate, export, score, retrain, monitor, tune, plan, doctor):
    app.command(verb.__name__.rpartition(".")[2])(verb.main)
app.command("json-schema")(json_schema.main)
app.command("submit", context_settings=submit.PASS_ON)(submit.main)
app.add_typer(benchmark.app, name="benchmark")
app.add_typer(registry.app, name="registry")


def main() -> None:
    """Runs one verb and leaves with its exit code; a failure is one message on standard error."""
    set_up_process()
    arguments = sys.argv[1:]
    is_debug = "--debug" in arguments
    try:
        app([argument for argument in arguments if argument != "--debug"])
    except GatehouseError as error:
        if is_debug:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(INTERRUPTED_EXIT_CODE)
    except Exception as error:
        if is_debug:
            traceback.print_exc()
        first_line = (str(error).splitlines() or [""])[0]
        print(
            f"error: {type(error).__name__}: {first_line}. This is a fault of Gatehouse; --debug shows where.",
            file=sys.stderr,
        )
        sys.exit(1)


if __name__ == "__main__":
    main()
