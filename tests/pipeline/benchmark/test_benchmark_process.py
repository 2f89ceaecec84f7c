"""What is measured of a process of one's own: memory of its own and of mapped files, its cores, its failure."""

import sys
from pathlib import Path

import pytest

from pipeline.benchmark.process import run_measured
from pipeline.errors import SetupError

MIB = 1 << 20


def _python(script: str) -> list[str]:
    return [sys.executable, "-c", script]


def test_own_memory_counts_in_both_peaks() -> None:
    usage = run_measured(_python("import time; x = bytearray(b'x' * (100 << 20)); print(1); time.sleep(0.2)"), 1)
    assert usage.peak_rss_bytes > 100 * MIB
    assert usage.peak_anonymous_bytes > 100 * MIB


def test_a_mapped_file_counts_as_resident_only(tmp_path: Path) -> None:
    path = tmp_path / "zeros"
    path.write_bytes(bytes(100 * MIB))
    usage = run_measured(
        _python(
            "import mmap, time\n"
            f"with open({str(path)!r}, 'rb') as file: pages = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)\n"
            "print(sum(pages[place] for place in range(0, len(pages), 4096)))\n"
            "time.sleep(0.2)"
        ),
        1,
    )
    assert usage.peak_rss_bytes > 100 * MIB
    assert usage.peak_anonymous_bytes < 50 * MIB


def test_memory_of_the_parent_does_not_count() -> None:
    held = bytearray(b"x" * (200 * MIB))
    usage = run_measured(_python("import time; print(1); time.sleep(0.1)"), 1)
    assert usage.peak_rss_bytes < len(held) / 2


def test_a_command_sees_the_cores_it_is_given() -> None:
    script = (
        "import os, sys; print(1); sys.exit(len(os.sched_getaffinity(0)) != 1 or os.environ['OMP_NUM_THREADS'] != '1')"
    )
    run_measured(_python(script), 1)


def test_a_command_that_fails_is_named_with_its_last_words() -> None:
    with pytest.raises(SetupError, match=r"1/0 ended with status 1: ZeroDivisionError: division by zero\. Run this"):
        run_measured(_python("print('starts'); 1/0"), 1)


def test_a_command_that_never_says_that_its_work_begins_is_refused() -> None:
    with pytest.raises(SetupError, match="ended with status 0: it says nothing"):
        run_measured(_python("pass"), 1)
