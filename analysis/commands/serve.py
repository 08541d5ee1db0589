"""`sparsing serve`: the law service over HTTP, from the stores of studies alone."""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sparsing.study.commands.options import store_option
from sparsing.study.errors import DefinitionError, NotFoundError, SparsingError

if TYPE_CHECKING:
    from sparsing.study.store.study_store import StudyStore

TOKEN = "SPARSING_TOKEN"
SHORTEST_TOKEN = 16


@click.command()
@click.argument("studies", metavar="STUDY...", nargs=-1)
@click.option("--all", "whole", is_flag=True, help="All studies of the store, also those to come.")
@store_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option("--port", default=8765, show_default=True, help="0 chooses a free one.")
@click.option(
    "--token-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help=f"File with the token that requests must have; else the environment's {TOKEN}.",
)
@click.option("--no-refit", is_flag=True, help="Only read; who writes the fits is another.")
@click.option("--json", "as_json", is_flag=True, help="Say where it serves as a JSON document.")
def serve(
    studies: tuple[str, ...],
    whole: bool,
    root: str,
    host: str,
    port: int,
    token_file: Path | None,
    no_refit: bool,
    as_json: bool,
) -> None:
    """Serve each STUDY over HTTP, and refit its laws while it grows, until Ctrl-C.

    A live page, JSON, Arrow tables, and /metrics for Prometheus; /openapi.json describes them.
    Reads the store alone: works while the study runs, anywhere, and when nothing runs. The page of
    a study is /studies/STUDY, of one of its runs /studies/STUDY#RUN.

    New measurements are fitted within seconds, and the fits appended to the store. Beside a
    `sparsing run` of the same study, whose own law service does that too, they take turns; no
    curve is fitted twice. With --no-refit nothing is written: the fits are those that `sparsing
    run`, or another `sparsing serve`, makes.

    With --all it serves every study of the store, as they come and go, and waits where there is
    none yet.

    Prometheus finds the service through <store>/.targets/*.json, where it says its address.

    Only this machine is answered, unless --host says otherwise; then requests need a token, as
    `Authorization: Bearer TOKEN`; a browser asks for it once, in a form, and has a cookie for 30
    days, or until the service is started with another token. There is no encryption: across an open
    network put a proxy with TLS in front.

    \b
    Examples:
      sparsing serve quickstart
      sparsing serve quickstart demo --port 0 --no-refit
      sparsing serve --all --store /shared/sparsing
      openssl rand -hex 32 > token
      sparsing serve quickstart --host 0.0.0.0 --token-file token
      curl -H "Authorization: Bearer $(cat token)" http://HOST:8765/api/studies
    """
    from sparsing.analysis.refitting.follow import FollowedStudy
    from sparsing.analysis.service.app import Served, application_of
    from sparsing.analysis.service.targets import announced
    from sparsing.analysis.service.web.server import Server
    from sparsing.analysis.service.whole_store import WholeStore

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    token = _token(token_file)
    _check_host(host, token)
    if whole == bool(studies):
        raise DefinitionError("name the studies to serve, or give --all")
    stores = _open(root, studies)
    stopping = threading.Event()
    with ExitStack() as running:
        for number in (signal.SIGINT, signal.SIGTERM):
            before = signal.signal(number, lambda *_: stopping.set())
            running.callback(signal.signal, number, before)
        followed = [FollowedStudy(store, refits=not no_refit) for store in stores]
        served = Served.of(followed)
        server = running.enter_context(Server(application_of(served, token), host, port))
        running.enter_context(announced(stores, host, server.port))
        for study in followed:
            running.enter_context(study)
        store = running.enter_context(WholeStore(root, served, not no_refit, host))
        ids = [each.study_id for each in stores]
        if as_json:
            click.echo(json.dumps({"url": server.url, "studies": ids, "refits": not no_refit}))
        else:
            what = f"all studies of {root}" if whole else ", ".join(ids)
            click.echo(f"{server.url} serves {what}; Ctrl-C ends it")
        while not stopping.wait(1):
            if not server.is_alive():
                raise SparsingError(f"the server at {server.url} has ended by itself")
            if whole:
                store.look(server.port)


def _open(root: str, studies: tuple[str, ...]) -> list[StudyStore]:
    """The stores of the studies, each once."""
    from sparsing.study.store.study_store import StudyStore

    stores: dict[str, StudyStore] = {}
    for selector in studies:
        store = StudyStore.open(root, selector)
        known = stores.setdefault(store.study_id, store)
        if known.place != store.place:
            raise DefinitionError(
                f"{known.place} and {store.place} are copies of one study; serve one of them"
            )
    return list(stores.values())


def _token(file: Path | None) -> str | None:
    """The token of the file, or of the environment; None where neither gives one."""
    if file is None:
        token, source = os.environ.get(TOKEN), f"${TOKEN}"
    else:
        try:
            token, source = file.read_text("ascii").strip(), f"--token-file {file}"
        except FileNotFoundError as error:
            raise NotFoundError(f"there is no file {file}; --token-file wants one") from error
        except (OSError, UnicodeDecodeError) as error:
            raise DefinitionError(f"--token-file {file} cannot be read: {error}") from error
    if token is None:
        return None
    if len(token) < SHORTEST_TOKEN or not all("!" <= letter <= "~" for letter in token):
        raise DefinitionError(
            f"{source}: a token has at least {SHORTEST_TOKEN} ASCII characters and no space; "
            "`openssl rand -hex 32` makes a good one"
        )
    return token


def _check_host(host: str, token: str | None) -> None:
    from sparsing.analysis.service.web.guard import is_loopback

    if token is None and not is_loopback(host):
        raise DefinitionError(
            f"--host {host}: others could then reach the service; give it a token with "
            f"--token-file FILE or {TOKEN} (`openssl rand -hex 32` makes one), or serve on "
            "127.0.0.1"
        )
