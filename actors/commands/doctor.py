"""`sparsing doctor`: is this machine ready for a study, or all nodes of a cluster?"""

from __future__ import annotations

import json

import click

from sparsing.actors.commands.on_cluster import cluster_options, run_elsewhere
from sparsing.study.commands.options import store_option
from sparsing.study.errors import SparsingError


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.option("--address", help="Also whether a Ray cluster there is safe to use.")
@click.option(
    "--cluster",
    help="Ask all nodes of this cluster instead: http://head:8265, or auto on a node of it.",
)
@store_option
@cluster_options
def doctor(
    as_json: bool, address: str | None, cluster: str | None, root: str, code: str, python: str
) -> None:
    """Check whether a study can run on this machine, and say what to do where not.

    With --cluster each node of the cluster is asked instead, and they are compared: address and
    interface, clock, /dev/shm, the store, versions, GPUs and driver.

    Exit code 0 when it can, 1 when not.

    \b
    Example:
      sparsing doctor
      sparsing doctor --address http://head:8265
      sparsing doctor --cluster http://head:8265 --store /shared/sparsing
    """
    if cluster is None:
        _check_here(as_json, address)
    elif "://" in cluster:
        words = ["doctor", "--cluster", "auto", *(["--json"] if as_json else [])]
        run_elsewhere(words, root, cluster, code, python)
    else:
        _check_cluster(as_json, cluster, root)


def _check_here(as_json: bool, address: str | None) -> None:
    from dataclasses import asdict

    from sparsing.study.display.doctor import checks_table
    from sparsing.study.display.table import show
    from sparsing.study.doctor import checks

    found = checks(address)
    failed = [check for check in found if check.status == "fail"]
    if as_json:
        rows = [asdict(check) for check in found]
        click.echo(json.dumps({"ready": not failed, "checks": rows}, indent=2))
    else:
        show(checks_table(found))
    if failed:
        names = ", ".join(check.name for check in failed)
        raise SparsingError(f"a study cannot run here yet: see {names} above")


def _check_cluster(as_json: bool, address: str, root: str) -> None:
    import ray

    from sparsing.actors.orchestration.cluster.cluster_check import check_cluster
    from sparsing.actors.orchestration.cluster.nodes import connect
    from sparsing.actors.orchestration.cluster.nodes_table import nodes_table
    from sparsing.study.display.table import show

    connect(address)
    try:
        nodes = check_cluster(root)
    finally:
        ray.shutdown()
    ill = [node.address for node in nodes if node.problems]
    if as_json:
        document = {"ready": not ill, "nodes": [node.as_json() for node in nodes]}
        click.echo(json.dumps(document, indent=2))
    else:
        show(nodes_table(nodes))
    if ill:
        raise SparsingError(f"not ready: {', '.join(ill)}; see above")
