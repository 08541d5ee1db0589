"""The `sparsing` command: one group, whose commands live in the rooms they belong to.

Commands are imported only when called, so that `sparsing plan` or `sparsing fit` never pays for
torch or ray.
"""

from __future__ import annotations

import errno
import importlib
import sys

import click

from sparsing.study.errors import SparsingError

COMMANDS = {
    "plan": "sparsing.study.commands.definition:plan",
    "schema": "sparsing.study.commands.definition:schema",
    "status": "sparsing.study.commands.status:status",
    "watch": "sparsing.study.commands.status:watch",
    "query": "sparsing.study.commands.query:query",
    "export": "sparsing.study.commands.export:export",
    "store": "sparsing.study.commands.store:store",
    "doctor": "sparsing.study.commands.definition:doctor",
    "run": "sparsing.actors.commands.run:run",
    "submit": "sparsing.actors.commands.lifecycle:submit",
    "stop": "sparsing.actors.commands.lifecycle:stop",
    "resume": "sparsing.actors.commands.lifecycle:resume",
    "logs": "sparsing.actors.commands.lifecycle:logs",
    "measure": "sparsing.actors.commands.measure:measure",
    "generate": "sparsing.actors.commands.generate:generate",
    "data": "sparsing.actors.commands.data:data",
    "laws": "sparsing.analysis.commands.laws:laws",
    "predict": "sparsing.analysis.commands.laws:predict",
    "advise": "sparsing.analysis.commands.advise:advise_command",
    "report": "sparsing.analysis.commands.laws:report",
    "serve": "sparsing.analysis.commands.serve:serve",
    "fit": "sparsing.analysis.commands.fit:fit",
    "bench": "sparsing.study.bench.bench:bench",
}


class LazyGroup(click.Group):
    """A click group that imports a command's module when that command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all commands, in the order in which a study uses them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The command called `name`, or None, which click answers with the nearest name."""
        if name not in COMMANDS:
            return None
        module, attribute = COMMANDS[name].split(":")
        return getattr(importlib.import_module(module), attribute)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.version_option(package_name="sparsing")
def cli(debug: bool) -> None:
    """Scaling studies of activation sparsity: plan, train, measure, fit, predict.

    \b
    Example:
      sparsing plan quickstart        what it would cost; changes nothing
      sparsing run quickstart         train, measure, fit; ends with a report
    """


def main() -> None:
    """Run the command line; SparsingError becomes a message and its exit code."""
    debug = "--debug" in sys.argv
    arguments = [a for a in sys.argv[1:] if a != "--debug"]
    try:
        cli.main(arguments, prog_name="sparsing", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.Abort:
        click.echo("stopped; the same command again goes on where it stopped", err=True)
        sys.exit(130)
    except SparsingError as error:
        if debug:
            raise
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.exit(141)
    except OSError as error:
        if debug:
            raise
        full = "; free some space, then the same command again goes on"
        click.echo(f"error: {error}{full if error.errno == errno.ENOSPC else ''}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
