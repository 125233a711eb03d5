"""`instancefcn`: the verbs, and how errors are printed.

The verbs' files import only what their options need; torch is imported when a verb runs.
"""

from __future__ import annotations

import warnings
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from instancefcn.cli.app import app as serve_app
from instancefcn.cli.bench import bench
from instancefcn.cli.bulk import bulk
from instancefcn.cli.check import check
from instancefcn.cli.convert import convert
from instancefcn.cli.convert_weights import convert_weights
from instancefcn.cli.demo import demo
from instancefcn.cli.eval import eval_
from instancefcn.cli.export import export
from instancefcn.cli.label import label
from instancefcn.cli.plan import plan
from instancefcn.cli.predict import predict
from instancefcn.cli.propose import propose
from instancefcn.cli.train import train
from instancefcn.cpu_settings import set_up_cpu
from instancefcn.errors import InstanceFCNError
from instancefcn.files import WRITE_ERRORS
from instancefcn.version import __version__


class _Verbs(TyperGroup):
    """Prints errors that the user can fix, such as a full disk, without a traceback, with exit status 2."""

    def invoke(self, ctx: Any) -> Any:
        # Pillow's, from 89 megapixels: the size of an image has a check of its own.
        warnings.filterwarnings("ignore", r"Image size \(\d+ pixels\) exceeds limit")
        try:
            return super().invoke(ctx)
        except InstanceFCNError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(2) from error
        except OSError as error:
            if error.errno not in WRITE_ERRORS:
                raise
            typer.echo(f"error: {error.filename or 'a file'}: {error.strerror}", err=True)
            raise typer.Exit(2) from error


app = typer.Typer(
    cls=_Verbs,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Find, name and outline every object in images.",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"instancefcn {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    set_up_cpu()  # before a verb loads torch


app.command()(demo)
app.command()(predict)
app.command()(propose)
app.command()(bulk)
app.command()(label)
app.command()(check)
app.command()(plan)
app.command()(train)
app.command("eval")(eval_)
app.add_typer(bench, name="bench")
app.command()(convert)
app.command("convert-weights")(convert_weights)
app.command()(export)
app.command("app")(serve_app)
