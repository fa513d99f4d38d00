"""`tensorferry`, or `python -m tensorferry.cli`."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import NoReturn

import click

from .. import Error, __version__
from . import _render
from .bench import bench
from .check import check
from .demo import demo
from .doctor import doctor
from .inspect import inspect
from .join_ranges import join_ranges
from .run import run
from .trace import trace


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="tensorferry")
def cli() -> None:
    """Tensors between a server and the Python processes that run its models, through shared memory.

    Exit codes: 0 good; 1 ran and failed; 2 used wrongly; 3 this host lacks something; 130 and 143 ended by SIGINT, SIGTERM.
    """


for command in (demo, run, check, bench, doctor, inspect, trace, join_ranges):
    cli.add_command(command)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    """SIGTERM as an exception, so that servers close in order."""
    sys.exit(_render.TERMINATED)


def main() -> None:
    """The entry point: our own errors end with their message and exit code, Ctrl-C with 130."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = cli(standalone_mode=False)
    except (click.exceptions.Abort, KeyboardInterrupt):
        sys.exit(_render.INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except Error as error:
        _render.show_error(error)
        sys.exit(_render.ENVIRONMENT if error.code == "SYSTEM" else _render.FAILED)
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
