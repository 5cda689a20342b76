"""What all commands share: the app, the options of one meaning, registering with examples."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import console

app = typer.Typer(
    name="g3d",
    help="Generate textured 3D meshes by category: prepare, train, export.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
presets_app = typer.Typer(no_args_is_help=True, help="List presets, or show one in full.")
app.add_typer(presets_app, name="presets", rich_help_panel="Set up")

WORKFLOW, LOOK, SET_UP = "Workflow", "Look", "Set up"
INPUT, OUTPUT, CONFIG, RUN, COMMON = "Input", "Output", "Config", "Run", "Common options"


def option(panel: str, *names: str, help: str, **more: Any) -> Any:
    """An option in a panel of the help; its default, where there is one, is said in the text."""
    return typer.Option(*names, help=help, rich_help_panel=panel, show_default=False, **more)


def argument(help: str) -> Any:
    """What a command is about, by its place on the command line; it has to be given."""
    return typer.Argument(help=help, show_default=False)


# One word, one meaning, in every command.
Out = Annotated[
    Path | None, option(OUTPUT, "-o", "--out", help="Folder to write (default: by name).")
]
OutPlace = Annotated[
    str | None, option(OUTPUT, "-o", "--out", help="Folder or URL to write (default: by name).")
]
Overwrite = Annotated[
    bool, option(OUTPUT, "--overwrite", help="Replace what another config left there.")
]
DryRun = Annotated[bool, option(RUN, "-n", "--dry-run", help="Show the plan; write nothing.")]
Preset = Annotated[str | None, option(CONFIG, "--preset", help="Named values: g3d presets ls.")]
Files = Annotated[list[Path] | None, option(CONFIG, "--config", help="YAML of values; repeatable.")]
Sets = Annotated[list[str] | None, option(CONFIG, "-s", "--set", help="a.b=c; repeatable.")]
Data = Annotated[Path | None, option(INPUT, "--data", help="Dataset folder (default: the newest).")]
RunPath = Annotated[
    Path | None,
    typer.Argument(help="Run folder or snapshot (default: the newest run).", show_default=False),
]

COMMON_OPTIONS = {
    "as_json": (("--json",), "Print one JSON object on stdout."),
    "quiet": (("-q", "--quiet"), "Print only paths or tables; errors on stderr."),
    "verbose": (("-v", "--verbose"), "Log what is done and why."),
    "debug": (("--debug",), "Log everything; show tracebacks, as G3D_DEBUG=1 does."),
}


def command(
    name: str, panel: str, *examples: str, group: typer.Typer = app
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a command: its function, the common options, and examples below its help."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        def run(*, as_json: bool, quiet: bool, verbose: bool, debug: bool, **given: Any) -> None:
            if debug:
                os.environ["G3D_DEBUG"] = "1"
            mode: console.Mode = "json" if as_json else "quiet" if quiet else "human"
            full = name if group is app else f"{group.info.name} {name}"
            console.setup(mode, command=full, verbose=2 if debug else int(verbose))
            try:
                function(**given)
            except KeyboardInterrupt as stop:
                # If it came out of an exec of text, as where dataclasses are made, `python -m` will
                # end by a signal, whatever the exit code; the next exec makes it forget that.
                exec("")
                console.say("interrupted; the same command goes on")
                raise typer.Exit(getattr(stop, "exit_code", 130)) from None

        keyword = inspect.Parameter.KEYWORD_ONLY
        signature = inspect.signature(function, eval_str=True)
        parameters = [p.replace(kind=keyword) for p in signature.parameters.values()]
        for key, (names, text) in COMMON_OPTIONS.items():
            annotation = Annotated[bool, option(COMMON, *names, help=text)]
            parameters.append(inspect.Parameter(key, keyword, default=False, annotation=annotation))
        run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        run.__doc__ = function.__doc__
        epilog = "Examples:\n\n" + "\n\n".join(f"$ {example}" for example in examples)
        group.command(name, rich_help_panel=panel, epilog=epilog)(run)
        return function

    return register


def given(**values: Any) -> dict[str, Any]:
    """The options that were given."""
    return {key: value for key, value in values.items() if value is not None}
