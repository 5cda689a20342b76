#!/usr/bin/env bash
# Blender's wheel in an environment of its own, third_party/blender, where g3d looks for it: it wants
# Python 3.11 and numpy 1, and the rest of g3d need not have them. About 800 MB.
# Does nothing where it is installed; where it cannot be, says so and succeeds: tests are skipped.
set -euo pipefail
cd "$(dirname "$0")/.."
place=third_party/blender

if "$place/bin/python" -c 'import bpy' >/dev/null 2>&1; then
  exit 0
fi
python=${BLENDER_BASE_PYTHON:-python3.11}
if ! command -v "$python" >/dev/null; then
  echo "note: no $python here: the tests that need Blender are skipped"
  exit 0
fi
rm -rf "$place"
if ! { "$python" -m venv "$place" &&
  "$place/bin/python" -m pip install --quiet --disable-pip-version-check 'bpy==4.5.*' &&
  "$place/bin/python" -c 'import bpy' >/dev/null 2>&1; }; then
  rm -rf "$place"
  echo "note: Blender (bpy 4.5) cannot be installed: the tests that need it are skipped"
fi
