"""The child process of :mod:`g3d.trainer.export.unwrap`: one mesh in on stdin, one atlas out.

Both directions are ``.npz`` bytes without pickles.
"""

from __future__ import annotations

import io
import sys

import numpy as np


def main() -> None:
    """Read vertices, faces and options; write source, faces, uvs and the atlas size."""
    import xatlas

    with np.load(io.BytesIO(sys.stdin.buffer.read()), allow_pickle=False) as request:
        vertices, faces = request["vertices"], request["faces"]
        resolution, padding = (int(v) for v in request["options"])
    atlas = xatlas.Atlas()
    atlas.add_mesh(vertices, faces)
    charts, pack = xatlas.ChartOptions(), xatlas.PackOptions()
    # The one chart setting that measurably helps (fewer charts, less time); and xatlas packs
    # without any padding unless told.
    charts.normal_deviation_weight = 1.0
    pack.padding, pack.resolution = padding, resolution
    atlas.generate(charts, pack)
    source, out, uvs = atlas.get_mesh(0)
    reply = io.BytesIO()
    size = [atlas.width, atlas.height, atlas.chart_count]
    np.savez(reply, source=source, faces=out, uvs=uvs, size=size)
    sys.stdout.buffer.write(reply.getvalue())


if __name__ == "__main__":
    main()
