#!/bin/bash
# Every ring of tests in the order of their cost; all rings run, the exit code says whether one failed.
set -uo pipefail
cd "$(dirname "$0")/.."
bin=.venv/bin
failed=()

ring() { # ring NAME COMMAND…
    local name=$1 started=$SECONDS
    shift
    printf '\n=== %s\n' "$name"
    if "$@"; then printf -- '--- %s: ok, %d s\n' "$name" $((SECONDS - started)); else
        failed+=("$name")
        printf -- '--- %s: FAILED, %d s\n' "$name" $((SECONDS - started))
    fi
}

# The machine's disk image is made while the other rings run.
$bin/python -c 'import sys; sys.path.insert(0, "tests/vm"); import machine; machine.build_image()' >build/vm.log 2>&1 &
image=$!

ring style $bin/ruff check .
ring format $bin/ruff format --check .
ring spelling $bin/codespell
ring types $bin/pyright
ring imports $bin/lint-imports
ring unit $bin/pytest -q tests/engine/unit tests/machine tests/unit
ring kernel $bin/pytest -q tests/engine/kernel
ring compat $bin/pytest -q tests/engine/compat
ring collection $bin/pytest -q tests/integration
ring fleet $bin/pytest -q tests/fleet
wait $image || tail -5 build/vm.log
ring vm $bin/pytest -q tests/vm

printf '\n'
if [ ${#failed[@]} -gt 0 ]; then
    echo "failed: ${failed[*]}"
    exit 1
fi
echo "all rings passed in $SECONDS s"
