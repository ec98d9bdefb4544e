# Resolve every lock of this repository anew. A lock names versions and hashes, never where they came from.
set -eu
resolve() {
    (cd "$(dirname "$1")" && "$OLDPWD"/.venv/bin/uv pip compile --quiet --upgrade --universal --generate-hashes --no-emit-index-url \
        --no-annotate --no-header --python-version 3.11 "$(basename "$1").in" -o "$(basename "$1").lock")
    printf 'resolved %s.lock\n' "$1"
}
for name in run test check bench peers; do resolve "locks/$name"; done
for file in stages/locks/*.in; do resolve "${file%.in}"; done
for name in requirements build test; do resolve "examples/camera_counting/$name"; done
