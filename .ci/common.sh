# What the scripts beside this file share. They `source` it in the root of the repository, with VENV set to the folder
# of the virtual environment that they make. The trap below deletes it when they end.

export PYTHONUNBUFFERED=1
# A cache of wheels would take as much space again.
export PIP_NO_CACHE_DIR=1

# pip leaves gigabytes behind when it is stopped; in a folder of our own they are deleted too.
TMPDIR=$(mktemp -d)
export TMPDIR
log=$TMPDIR/log
: >"$log"
trap 'rm -rf "$TMPDIR" "$VENV"' EXIT
rm -rf "$VENV"

failed=()

# room GB FOLDER: stop unless that much disk space is free.
room() {
    local free
    free=$(df -Pk "$2" | awk 'NR == 2 { print int($4 / 1048576) }')
    if ((free < $1)); then
        printf 'not enough disk space: %s has %s GB free, %s are needed (torch and its CUDA libraries)\n' \
            "$2" "$free" "$1"
        exit 1
    fi
}

# step NAME COMMAND...: run it, and remember whether it failed.
step() {
    local name=$1 started=$SECONDS
    shift
    printf '\n=== %s\n' "$name"
    if "$@"; then
        printf '=== %s passed (%d s)\n' "$name" $((SECONDS - started))
    else
        printf '=== %s FAILED (%d s)\n' "$name" $((SECONDS - started))
        failed+=("$name")
        return 1
    fi
}

# The last line of every pytest run, and the outcome as exit status.
finish() {
    printf '\n'
    grep -E '^=+ .*(passed|failed|error|no tests ran).* in [0-9.]+s' "$log"
    if ((${#failed[@]})); then
        printf 'failed: %s\n' "$(IFS=,; echo "${failed[*]}")"
        exit 1
    fi
    printf 'all passed in %d s\n' "$SECONDS"
}
