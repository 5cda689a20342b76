#!/usr/bin/env bash
# Lint, types, spelling and generated docs: .ci/check.sh VENV. The suite is run by `make check`.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$PWD/$1/bin
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT

step() { echo "== $1"; }

step "ruff check";   "$bin/ruff" check .
step "ruff format";  "$bin/ruff" format --check .
# The checkout is the package: mypy needs it under its own name, whatever the folder is called.
step "mypy"
ln -s "$PWD" "$temporary/g3d"
(cd "$temporary" && MYPYPATH="$temporary" "$bin/python" -m mypy \
  --config-file g3d/pyproject.toml --cache-dir "$OLDPWD/.mypy_cache" -p g3d)
step "codespell";    "$bin/codespell" --toml pyproject.toml
step "docs/cli.md is up to date"
"$bin/python" -m typer g3d.cli utils docs --name g3d --output "$temporary/cli.md" >/dev/null
diff -u docs/cli.md "$temporary/cli.md" || { echo "docs/cli.md is stale: make docs"; exit 1; }
