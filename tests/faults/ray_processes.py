"""Which processes are Ray's workers that a run has started, so that a test can kill one."""

from pathlib import Path


def ray_processes_below(pid: int, name: str) -> list[int]:
    """The processes of Ray actors whose class is so named, or begins so, that descend from a process."""
    parents, titles = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            titles[int(folder.name)] = (folder / "cmdline").read_bytes().decode(errors="replace")
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue

    def descends(one: int) -> bool:
        while one in parents and one != pid:
            one = parents[one]
        return one == pid

    return [one for one, title in titles.items() if title.startswith(f"ray::{name}") and descends(one)]
