#!/usr/bin/env bash
# Every check, on the packages in .venv: format, lint, types, tests. All of them run, though one fails.
# Arguments go to pytest: infra/check.sh -m "not slow" tests/pipeline
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH="$PWD/.venv/bin:$PATH"

failed=()

check() {
    local name="$1"
    shift
    echo "== $name"
    "$@" || failed+=("$name")
}

check "format" ruff format --check .
check "lint" ruff check .
check "types" mypy
# `python -m` puts the root first on the path: a folder such as tests/pipeline must not stand in for the package.
check "tests" python -m pytest -n 2 "$@"

if ((${#failed[@]})); then
    echo "== FAILED: ${failed[*]}" >&2
    exit 1
fi
echo "== all checks passed"
