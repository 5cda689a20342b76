"""``g3d view``: a picture of whatever is at a path."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from .. import console
from ..console import format_seconds
from ..errors import PartialFailure
from .options import INPUT, LOOK, OUTPUT, RUN, argument, command, option


@command(
    "view",
    LOOK,
    "g3d view datasets/procedural-chair --open",
    "g3d view datasets/procedural-chair --uid chair-s0-000003",
    "g3d view exports/00000-procedural-chair-cpu -o chairs.png",
    "g3d view my/cars --limit 40",
)
def view_command(
    path: Annotated[
        Path, argument("Dataset, run, export, folder of models, or one model file.")
    ],
    uid: Annotated[
        str | None, option(INPUT, "--uid", help="Asset of the dataset: all its views.")
    ] = None,
    limit: Annotated[
        int, option(INPUT, "--limit", help="At most so many assets (default: 24).")
    ] = 24,
    out: Annotated[
        Path | None,
        option(OUTPUT, "-o", "--out", help="The PNG to write (default: renders/NAME.png)."),
    ] = None,
    show: Annotated[
        bool, option(RUN, "--open", help="Open it with the desktop's viewer.")
    ] = False,
) -> None:  # fmt: skip
    """Make a contact sheet of anything; print its path."""
    from . import overview, pictures

    done = overview.view(path, uid=uid, limit=limit, out=out)
    console.say(f"{done.shown} on a sheet, in {format_seconds(done.seconds)}")
    console.result(
        {
            "path": done.path,
            "size": done.size,
            "shown": done.shown,
            "problems": done.problems,
            "seconds": round(done.seconds, 3),
        }
    )
    if show:
        pictures.open_with_desktop(done.path)
    if done.problems:
        raise PartialFailure(
            f"{len(done.problems)} cannot be drawn: {done.problems[0]}",
            hint=f"g3d view {path} --json lists all",
        )
