"""`tensorferry`, or `python -m tensorferry.cli`."""

from __future__ import annotations

import sys

import click

from .. import Error, __version__
from . import _render
from .bench import bench
from .check import check
from .demo import demo
from .doctor import doctor
from .run import run


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="tensorferry")
def cli() -> None:
    """Tensors between a server and the Python processes that run its models, through shared memory."""


for command in (demo, run, check, bench, doctor):
    cli.add_command(command)


def main() -> None:
    """The entry point: our own errors end with exit code 1 and their message, Ctrl-C with 130."""
    try:
        code = cli(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(_render.INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(_render.INTERRUPTED)
    except Error as error:
        _render.errors.print(f"[red]error[/red] {error.code}:", end=" ")
        _render.errors.print(str(error), markup=False)
        sys.exit(_render.FAILED)
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
