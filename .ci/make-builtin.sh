#!/usr/bin/env bash
# Make the run that is packaged as builtin:chair, anew: .ci/make-builtin.sh VENV [HOME]
# On two cores a quarter of an hour; the same snapshot with the same torch.
set -euo pipefail
cd "$(dirname "$0")/.."
g3d=$PWD/$1/bin/g3d
export G3D_HOME=${2:-$(mktemp -d)}
run=$G3D_HOME/runs/chair
"$g3d" prepare procedural --category chair --limit 500
"$g3d" train --data "$G3D_HOME/datasets/procedural-chair" --preset cpu --kimg 70 -o "$run" \
  --set run.threads=1 --set run.snapshot_kimg=10 --set run.keep_snapshots=1
place=trainer/builtin/chair
rm -rf "$place"
mkdir -p "$place"
for file in "$run"/{config.yaml,run.json,stats.jsonl,environment.json,report.html,reals.png} \
    "$run"/{fakes-*.png,snapshot-*.safetensors} "$run"/turntable-000070000.webp; do
  if [ -e "$file" ]; then cp "$file" "$place"; fi
done
du -sh "$place"
