"""`edgeface`: the command line. One module of this folder per subcommand, loaded when it is called."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import signal
import sys
import threading

import click

from edgeface.errors import EdgefaceError, install_extra
from edgeface.frames import MAX_PX

#: Packages that an install may lack, and the extra that brings each.
EXTRAS = {"onnx": "build", "onnxruntime": "host", "cv2": "host"}
#: Subcommand -> one line of help. The module of the same name has a click command of the same name.
COMMANDS = {
    "demo": "Enrol people from photographs that come with edgeface and recognise them in others.",
    "build": "Quantise models to INT8, prove them against float32, write them or refuse.",
    "compare": "Show layer by layer where two versions of a model first differ.",
    "inspect": "Show what an engine is, how it was built and what it measured.",
    "models": "List, fetch and check models.",
    "detect": "Find the faces of photographs.",
    "enroll": "Enrol a person from photographs.",
    "identify": "Say who is in photographs.",
    "watch": "Say who comes and goes in front of a camera.",
    "verify": "Say whether two photographs show one person.",
    "gallery": "Look after the people of a gallery.",
    "doctor": "Examine this machine and say how to mend what is wrong.",
    "eval": "Measure error rates on photographs of known people.",
    "bench": "Measure speed against other libraries, correctness beside it.",
}


class LazyGroup(click.Group):
    """Imports a subcommand's module on use: `edgeface --help` must not wait for OpenCV."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"edgeface.tools.{cmd_name}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="edgeface")
@click.option("-v", "--verbose", is_flag=True, help="Log what is done, to standard error.")
def cli(verbose: bool) -> None:
    """Face recognition for Jetson-class boards.

    Exit codes: 0 done, 1 the job failed, 2 wrong usage.
    """
    level = logging.DEBUG if verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s")


def _terminated(number: int, frame: object) -> None:
    """SIGTERM ends like Ctrl-C, so that temporary folders go and what is done is kept."""
    raise KeyboardInterrupt


def _drop_output() -> None:
    """Send what is still buffered nowhere: Python would fail on it a second time while it ends."""
    with contextlib.suppress(OSError, ValueError):  # ValueError: no file behind it, or closed
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def main() -> None:
    """Run the command line; an error of the library is one clear line and exit code 1."""
    if threading.current_thread() is threading.main_thread():  # signals reach no other one
        signal.signal(signal.SIGTERM, _terminated)
    # Read when OpenCV is imported. Larger photographs are no frames, and a file of 1 MB can unpack to 3 GB.
    os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MAX_PX**2))
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file's name that is not UTF-8 must not end a table
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        # Without standalone mode click returns the exit code of `context.exit(code)`; commands return nothing else.
        try:
            code = cli(standalone_mode=False)
        finally:
            sys.stdout.flush()  # a full disk shows here, not while Python ends
        sys.exit(code)
    except click.ClickException as error:  # wrong usage: exit code 2
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        sys.stderr.close()
        sys.exit(1)
    except EdgefaceError as error:
        click.echo(f"edgeface: {error}", err=True)
        sys.exit(1)
    except ModuleNotFoundError as error:  # a part of edgeface that was not installed; anything else is our fault
        if error.name not in EXTRAS:
            raise
        click.echo(f"edgeface: this needs {error.name}; {install_extra(EXTRAS[error.name])}", err=True)
        sys.exit(1)
    except OSError as error:  # a full disk below `> file`, a file that the user may not read
        click.echo(f"edgeface: {error}", err=True)
        _drop_output()
        sys.exit(1)


if __name__ == "__main__":
    main()
