#!/bin/bash
# Every ring of tests in the order of their cost; all rings run, the exit code says whether one failed.
# On a busy machine a deadline may pass: what failed runs once more by itself, and the last lines tell of it.
set -uo pipefail
cd "$(dirname "$0")/.."
bin=.venv/bin
failed=()
late=()

ring() { # ring NAME COMMAND…
    local name=$1 started=$SECONDS
    shift
    printf '\n=== %s\n' "$name"
    if "$@"; then printf -- '--- %s: ok, %d s\n' "$name" $((SECONDS - started)); else
        failed+=("$name")
        printf -- '--- %s: FAILED, %d s\n' "$name" $((SECONDS - started))
    fi
}

tests() { # tests FOLDER… : pytest, and what failed once more; what a test left behind is no matter of luck
    local log=build/pytest.log
    $bin/pytest -q "$@" 2>&1 | tee "$log" && return 0
    grep -q 'left the machine in another state' "$log" && return 1
    echo "once more, what failed:"
    $bin/pytest -q --last-failed --last-failed-no-failures none "$@" || return 1
    late+=("$(grep -E '^(FAILED|ERROR) ' "$log" | sort -u)")
}

# The machine's disk image is made while the rings without root work run; later ones compare mounts before and after.
$bin/python -c 'import sys; sys.path.insert(0, "tests/vm"); import machine, ring; machine.build_image(); ring.build_disk()' >build/vm.log 2>&1 &
image=$!

ring style $bin/ruff check .
ring format $bin/ruff format --check .
ring spelling $bin/codespell
ring types $bin/pyright
ring imports $bin/lint-imports
wait $image || tail -5 build/vm.log
ring unit tests tests/engine/unit tests/machine tests/unit
ring kernel tests tests/engine/kernel
ring compat tests tests/engine/compat
ring collection tests tests/integration
ring fleet tests tests/fleet
ring vm tests tests/vm

printf '\n'
for names in "${late[@]}"; do printf 'passed only at the second try:\n%s\n' "$names"; done
if [ ${#failed[@]} -gt 0 ]; then
    echo "failed: ${failed[*]}"
    exit 1
fi
echo "all rings passed in $SECONDS s"
