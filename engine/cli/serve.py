"""`softpaint studio` and `serve`: the page, and the service for others."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer

from engine.cli.app import app, note, say
from engine.cli.command import Command
from engine.cli.options import MODEL, given, load, loading
from engine.errors import InputError

TOKEN = "SOFTPAINT_TOKEN"  # noqa: S105 - where it is, not what

Port = Annotated[
    int | None, typer.Option(help="[default: 7788]", min=0, max=65535, show_default=False)
]
Running = Annotated[
    int, typer.Option(help="Edits denoised at a time, in shared model calls.", min=1, max=256)
]
IpAdapter = Annotated[
    list[str] | None,
    typer.Option(
        "--ip-adapter",
        help="An IP-Adapter's file, for requests with reference pictures; may be repeated. Its "
        "image encoder is looked for beside it.",
        metavar="FILE",
        rich_help_panel=MODEL,
    ),
]


@app.command(cls=Command)
@loading
def studio(
    *,
    port: Port = None,
    no_open: Annotated[
        bool, typer.Option("--no-open", help="Do not open the browser; print the address.")
    ] = False,
    ip_adapter: IpAdapter = None,
    loads: dict[str, Any],
) -> None:
    """Paint strength maps in the browser and see the picture follow.

    It listens for this machine alone, and works offline on the embedded model.

    \b
    Examples:
      softpaint studio
      softpaint studio --model ./sdxl-base --device cuda
    """
    from engine.serve.run import NEARBY, PORT, listen, serve

    host = "127.0.0.1"
    sock = listen(host, PORT, nearby=NEARBY) if port is None else listen(host, port)
    note("loading the model ...")
    engine = load(loads | given(ip_adapter=ip_adapter))
    serve(engine, sock, host=host, browser=not no_open, say=_say)


@app.command(cls=Command)
@loading
def serve(
    *,
    host: Annotated[
        str, typer.Option(help="Where it listens; 0.0.0.0 is for everybody who has the token.")
    ] = "127.0.0.1",
    port: Port = None,
    token: Annotated[
        str | None,
        typer.Option(
            help=f"What requests bear (better in ${TOKEN}). Beyond this machine one is made where "
            "none is given."
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="A name under which it is reached; may be repeated.", metavar="NAME"),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(help="A site whose pages may use it; may be repeated.", metavar="ORIGIN"),
    ] = None,
    running: Running = 8,
    queue: Annotated[int, typer.Option(help="Jobs that may wait.", min=1, max=100_000)] = 64,
    max_pixels: Annotated[int, typer.Option(help="Of a picture.", min=64)] = 4096 * 4096,
    max_mb: Annotated[int, typer.Option(help="Of a request.", min=1)] = 64,
    max_steps: Annotated[int, typer.Option(help="Of an edit.", min=1, max=1000)] = 200,
    max_images: Annotated[int, typer.Option(help="Of a request.", min=1, max=1024)] = 16,
    sessions: Annotated[int, typer.Option(help="That may be open.", min=1)] = 16,
    session_mb: Annotated[int, typer.Option(help="That their steps take.", min=0)] = 2048,
    keep: Annotated[
        int, typer.Option(help="Finished jobs that are remembered with their pictures.", min=1)
    ] = 512,
    keep_mb: Annotated[int, typer.Option(help="That they take.", min=1)] = 1024,
    grace: Annotated[
        float, typer.Option(help="Seconds for what runs, when it is told to end.", min=0)
    ] = 20.0,
    ip_adapter: IpAdapter = None,
    loads: dict[str, Any],
) -> None:
    """Serve the model over HTTP: its own API, OpenAI's image edits, A1111's img2img.

    \b
    Examples:
      softpaint serve
      SOFTPAINT_TOKEN=secret softpaint serve --host 0.0.0.0 --model ./sdxl-base
    """
    from engine.serve.limits import Limits
    from engine.serve.run import PORT, listen
    from engine.serve.run import serve as run

    if token is not None and not token.strip():
        raise InputError("--token is empty: leave it away, or say what requests bear.")
    limits = Limits(
        pixels=max_pixels,
        bytes=max_mb * 2**20,
        steps=max_steps,
        n=max_images,
        queue=queue,
        running=running,
        sessions=sessions,
        session_bytes=session_mb * 2**20,
        jobs=keep,
        job_bytes=keep_mb * 2**20,
    )
    sock = listen(host, PORT if port is None else port)
    note("loading the model ...")
    run(
        load(loads | given(ip_adapter=ip_adapter)),
        sock,
        host=host,
        token=token or os.environ.get(TOKEN, ""),
        hosts=allow_host or [],
        origins=allow_origin or [],
        limits=limits,
        grace=grace,
        say=_say,
    )


def _say(text: str) -> None:
    """Print a line at once, also into a pipe."""
    say(text)
    sys.stdout.flush()
