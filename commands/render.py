"""``g3d render``: contact sheets and turntables of one mesh."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from .. import console
from ..console import format_seconds
from .options import CONFIG, INPUT, LOOK, OUTPUT, Sets, argument, command, option


@command(
    "render",
    LOOK,
    "g3d render car.glb",
    "g3d render car.glb --views 12 --camera fibonacci -s camera.elevation_deg=[0,60]",
    "g3d render car.glb --turntable 48 -o car.webp",
    "g3d render datasets/procedural-chair --uid chair-s0-000003 --light flat",
)
def render_command(
    mesh: Annotated[Path, argument("Model file, or a dataset with --uid.")],
    uid: Annotated[str | None, option(INPUT, "--uid", help="Asset of the dataset.")] = None,
    out: Annotated[
        Path | None,
        option(
            OUTPUT, "-o", "--out",
            help="A .png: the sheet. A .gif, .webp, .apng or .mp4: the turntable "
            "(default: renders/NAME.png).",
        ),
    ] = None,
    turntable: Annotated[
        int | None, option(OUTPUT, "--turntable", help="A turntable of so many frames, too.")
    ] = None,
    views: Annotated[int | None, option(CONFIG, "--views", help="Rows (default: 6).")] = None,
    size: Annotated[
        int | None, option(CONFIG, "--size", help="Side of a picture (default: 256).")
    ] = None,
    camera: Annotated[
        str | None,
        option(
            CONFIG, "--camera",
            help="get3d, sphere, hemisphere, ring, fibonacci or lrm (default: ring); "
            "more by -s camera.KEY=VALUE.",
        ),
    ] = None,
    light: Annotated[
        str | None, option(CONFIG, "--light", help="rig, get3d, pbr or flat (default: rig).")
    ] = None,
    extent: Annotated[
        float | None,
        option(CONFIG, "--extent", help="Longest side (default: 1, or the dataset's)."),
    ] = None,
    renderer: Annotated[
        str | None, option(CONFIG, "--renderer", help="auto, raster or blender (default: auto).")
    ] = None,
    sets: Sets = None,
) -> None:  # fmt: skip
    """Render a mesh: a contact sheet, a turntable.

    A row a view; the columns are RGB, mask, depth and normal.
    """
    from . import pictures

    def given(**values: Any) -> dict[str, Any]:
        return {key: value for key, value in values.items() if value is not None}

    flags = given(
        views=views, extent=extent, renderer=renderer, turntable=turntable,
        camera=given(sampler=camera) or None, render=given(size=size, light=light) or None,
    )  # fmt: skip
    config = pictures.render_config(flags, sets or ())
    done = pictures.render(mesh, config, uid=uid, out=out)
    names = " and ".join(str(path) for path in (done.sheet, done.turntable) if path)
    console.say(f"made {names} in {format_seconds(done.seconds)}")
    made = {"path": done.path, "sheet": done.sheet, "turntable": done.turntable}
    counts = {"size": done.size, "views": done.shown, "seconds": round(done.seconds, 3)}
    console.result({**made, **counts, **done.facts})
