#!/usr/bin/env bash
# Makes the locks of infra/locks from their .in files. Pins that still fit stay; --upgrade takes the newest.
#   infra/lock.sh                      after a change of a .in file
#   infra/lock.sh --upgrade            every package
#   infra/lock.sh --upgrade-package x  one package
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/locks"

tools="$(mktemp -d)"
trap 'rm -rf "$tools"' EXIT
"${PYTHON:-python3.11}" -m venv "$tools"
"$tools/bin/python" -m pip install -q uv==0.13.8

lock() {
    local name="$1"
    shift
    "$tools/bin/uv" pip compile "$name.in" -o "$name.lock" --python-version 3.11 --quiet \
        --python-platform x86_64-manylinux_2_28 --no-emit-index-url --no-emit-find-links --no-annotate --no-header "$@"
    echo "infra/locks/$name.lock: $(wc -l <"$name.lock") packages"
}

lock cpu --overrides cpu-overrides.txt "$@"
lock cuda "$@"
lock image-cpu --overrides cpu-overrides.txt
lock image-cuda
lock mlflow
lock peers "$@"
lock deepctr --overrides borrowed-overrides.txt "$@"
lock rechub --overrides borrowed-overrides.txt "$@"
