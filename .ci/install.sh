#!/usr/bin/env bash
# Install g3d and its tools for developers into a virtual environment: .ci/install.sh VENV
#
# Where no CUDA device answers, torch is the CPU build if pip can get one: it is a tenth of the
# size. Tried in this order: a version marked +cpu among the places pip is configured with,
# PyTorch's public CPU index, whatever `pip install torch` gives.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$1
python=$venv/bin/python
pip() { "$python" -m pip --disable-pip-version-check "$@"; }

if ! "$python" -m pip --version >/dev/null 2>&1; then
  "${PYTHON:-python3.11}" -m venv "$venv"
fi

install_cpu_torch() {
  local version
  # `pip index` is experimental: where it is gone, the next way is tried.
  version=$(pip index versions torch 2>/dev/null | grep '^Available' | grep -o '[0-9][0-9.]*+cpu' |
    head -n 1) || true
  if [ -n "$version" ] && pip install -qq "torch==$version"; then
    echo "torch: CPU build $version, from the places pip is configured with"
  elif pip install -qq --timeout 15 --retries 0 \
      --index-url https://download.pytorch.org/whl/cpu torch >/dev/null 2>&1; then
    echo "torch: CPU build, from download.pytorch.org"
  else
    echo "torch: no CPU build found by pip, taking the standard build"
  fi
}

if "$python" -c 'import torch' >/dev/null 2>&1; then
  echo "torch: already installed"
elif command -v nvidia-smi >/dev/null && nvidia-smi >/dev/null 2>&1; then
  echo "torch: a CUDA device answers, taking the standard build"
elif [ "$(uname -s)" = Linux ]; then
  echo "torch: no CUDA device answers, looking for the CPU build"
  install_cpu_torch
fi

# pip reads dependency groups only from 25.1 on, and the one that Python 3.11 brings is older.
"$python" - > "$venv/dev-requirements.txt" <<'PY'
import tomllib
from pathlib import Path
print("\n".join(tomllib.loads(Path("pyproject.toml").read_text())["dependency-groups"]["dev"]))
PY
echo "installing g3d and its packages"
pip install -qq --editable . --requirement "$venv/dev-requirements.txt"
"$python" -c 'import torch; print("torch:", torch.__version__)'
