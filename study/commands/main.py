"""The `sparsing` command: one group, whose commands live in the rooms they belong to.

Modules of commands hold their words, arguments and options alone. What a command does is imported
when it runs, so that `sparsing --help` never pays for torch, ray, scipy or polars.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
import traceback

import click

from sparsing.study.commands.group import Group
from sparsing.study.errors import SparsingError

COMMANDS = {
    "init": "sparsing.study.commands.studies:init",
    "plan": "sparsing.actors.commands.plan:plan",
    "schema": "sparsing.study.commands.definition:schema",
    "status": "sparsing.actors.commands.status:status",
    "watch": "sparsing.actors.commands.status:watch",
    "list": "sparsing.study.commands.studies:list_command",
    "runs": "sparsing.study.commands.runs:runs",
    "diff": "sparsing.study.commands.runs:diff",
    "note": "sparsing.study.commands.runs:note",
    "rm": "sparsing.study.commands.studies:rm",
    "query": "sparsing.study.commands.query:query",
    "export": "sparsing.actors.commands.export:export",
    "store": "sparsing.study.commands.store:store",
    "doctor": "sparsing.actors.commands.doctor:doctor",
    "run": "sparsing.actors.commands.run:run",
    "submit": "sparsing.actors.commands.lifecycle:submit",
    "stop": "sparsing.actors.commands.lifecycle:stop",
    "resume": "sparsing.actors.commands.lifecycle:resume",
    "keep": "sparsing.actors.commands.keep:keep",
    "logs": "sparsing.actors.commands.lifecycle:logs",
    "measure": "sparsing.actors.commands.measure:measure",
    "generate": "sparsing.actors.commands.generate:generate",
    "data": "sparsing.actors.commands.data:data",
    "laws": "sparsing.analysis.commands.laws:laws",
    "predict": "sparsing.analysis.commands.laws:predict",
    "advise": "sparsing.analysis.commands.advise:advise_command",
    "report": "sparsing.analysis.commands.laws:report",
    "figures": "sparsing.analysis.commands.figures:figures",
    "serve": "sparsing.analysis.commands.serve:serve",
    "fit": "sparsing.analysis.commands.fit:fit",
    "bench": "sparsing.study.commands.bench:bench",
    "completion": "sparsing.study.commands.completion:completion",
}
GOES_ON = ("run", "resume", "data")
"""Commands that go on where they were interrupted, when they are called again."""


class LazyGroup(Group):
    """A group that imports a command's module when that command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all commands, in the order in which a study uses them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The command called `name`, or None."""
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
    """Run the command line: every error becomes a sentence and an exit code.

    `--debug` shows where an error comes from.
    """
    debug = "--debug" in sys.argv
    arguments = [a for a in sys.argv[1:] if a != "--debug"]
    _take_any_encoding()
    try:
        cli.main(arguments, prog_name="sparsing", standalone_mode=False)
        _flush()
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        again = "; the same command again goes on where it stopped"
        click.echo(f"stopped{again if arguments[:1] and arguments[0] in GOES_ON else ''}", err=True)
        sys.exit(130)
    except BrokenPipeError:
        _close_quietly()
        sys.exit(141)
    except Exception as error:
        if debug:
            traceback.print_exc()
        click.echo(f"error: {sentence(error)}", err=True)
        sys.exit(error.exit_code if isinstance(error, SparsingError) else 1)


def sentence(error: Exception) -> str:
    """What an error says to a user: ours as they are, a library's in one line with its kind."""
    if isinstance(error, SparsingError):
        return str(error)
    if isinstance(error, OSError):
        full = "; free some space, then the same command again goes on"
        return f"{error}{full if error.errno == errno.ENOSPC else ''}"
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    kind = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
    return f"{kind}{': ' if said else ''}{said}; --debug shows where it comes from"


def _take_any_encoding() -> None:
    """Letters that a terminal or pipe cannot take become `?` there, in place of an error."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if stream is not None and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def _flush() -> None:
    """Write what is left now, where a reader that is gone is no error of ours."""
    if sys.stdout is not None:
        sys.stdout.flush()


def _close_quietly() -> None:
    """Let Python's own flush at exit go nowhere: the reader of our output is gone."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            try:
                stream.flush()
            except OSError:
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


if __name__ == "__main__":
    main()
