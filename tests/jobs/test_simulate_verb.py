"""`gatehouse simulate`: overwriting replaces a simulation, whole or interrupted, and nothing else."""

from pathlib import Path
from typing import Any

from test_mistakes import gatehouse


def test_an_interrupted_simulation_is_replaced(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    out = tmp_path / "out"
    (out / "log").mkdir(parents=True)
    (out / "users.parquet").write_bytes(b"half")
    code, error = gatehouse(monkeypatch, capsys, "simulate", "--out", str(out), "--rows", "2000", "--overwrite")
    assert (code, error) == (0, "")
    assert (out / "simulation.json").exists()


def test_a_folder_with_other_files_is_kept(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    code, error = gatehouse(monkeypatch, capsys, "simulate", "--out", str(tmp_path), "--rows", "2000", "--overwrite")
    assert code == 2
    assert "holds thesis.txt, which is not part of a simulation" in error
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
