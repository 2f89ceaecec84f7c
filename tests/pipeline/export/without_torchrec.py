"""Runs what serves in an interpreter in which torchrec, fbgemm and torch's checkpoints cannot be imported.

without_torchrec.py serve EXPORT ENCODED.arrow OUT.json      Serving.load and predict
without_torchrec.py run PROGRAM.pt2 INPUTS.pt OUT.json       the program alone; nothing of Gatehouse either
"""

import json
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

ABSENT = ["torchrec", "fbgemm_gpu", "torch.distributed.checkpoint"]


class Absent(MetaPathFinder):
    def find_spec(self, fullname: str, *_: Any) -> None:
        if any(fullname == name or fullname.startswith(f"{name}.") for name in ABSENT):
            raise ImportError(f"{fullname} is not installed here")


def main(what: str, path: str, given: str, out: str) -> None:
    sys.meta_path.insert(0, Absent())
    if what == "serve":
        import pyarrow as pa

        from pipeline.export.serving import Serving

        with pa.ipc.open_file(given) as reader:
            outputs = {
                name: values.tolist() for name, values in Serving.load(Path(path)).predict(reader.read_all()).items()
            }
    else:
        ABSENT.extend(["models", "pipeline"])
        import torch

        with torch.no_grad():
            found = torch.export.load(path).module()(torch.load(given, weights_only=True))
        outputs = {name: values.tolist() for name, values in found.items()}
    Path(out).write_text(json.dumps(outputs))


if __name__ == "__main__":
    main(*sys.argv[1:])
