"""`gatehouse doctor`: does this machine have what Gatehouse needs?"""

import typer

from jobs.terminal import print_table
from pipeline.errors import SetupError


def main() -> None:
    """Check the installed packages, devices and disk, and say what to mend."""
    from pipeline.doctor import check_setup

    checks = check_setup()
    print_table(["check", "found", ""], [[c.name, c.found, "ok" if c.ok else "WRONG"] for c in checks])
    for check in checks:
        if not check.ok:
            print(f"{check.name}: {check.fix}")
    if not all(check.ok for check in checks):
        raise typer.Exit(SetupError.exit_code)
    print("everything fits")
