"""Hosts are cut off and come back: the study goes on by itself, and its tables are the same."""

from __future__ import annotations

import random
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from host_study import HostStudy
from hosts import Host, Network, why_not
from ray_hosts import RayHosts

ALLOWED_SECONDS = 180.0
"""From the end of a fault until training is further than it was. A node that was lost is found out
after 40 s and comes back after some more; the rest is two busy processors that start processes."""
RANDOM_FAULTS, SEED = 20, 5
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(7200),
    pytest.mark.skipif(bool(why := why_not()), reason=f"no hosts of their own here: {why}"),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayHosts]:
    folder = Path(tempfile.mkdtemp(prefix="s", dir="/var/tmp"))  # short, for Ray's sockets
    with Network(folder) as network:
        made = RayHosts(network, folder)
        made.start()
        yield made
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def undisturbed(cluster: RayHosts) -> HostStudy:
    study = HostStudy(cluster, "undisturbed")
    done = study.submit()
    assert done.returncode == 0, done.stderr
    study.until_done()
    return study


@pytest.fixture
def study(cluster: RayHosts, undisturbed: HostStudy, request: pytest.FixtureRequest) -> HostStudy:
    name = "-".join(re.findall(r"[a-z0-9]+", request.node.name.removeprefix("test")))
    made = HostStudy(cluster, name)
    done = made.submit()
    assert done.returncode == 0, done.stderr
    made.until_training()
    return made


def is_whole(cluster: RayHosts) -> bool:
    """Whether all hosts are there again."""
    return cluster.alive() == len(cluster.workers) + 1


def recover(study: HostStudy, undisturbed: HostStudy, before: int, name: str) -> None:
    """The study goes on by itself after a fault, ends, and its tables are the same."""
    lost = study.until(lambda: study.rows() > before or study.states()["done"], "training goes on")
    print(f"{name}: {lost:.0f} s from the fault's end until it was further", flush=True)
    assert lost <= ALLOWED_SECONDS
    study.until_done()
    study.assert_as(undisturbed)
    assert "hung" not in study.failures()
    study.cluster.until(lambda: is_whole(study.cluster), "all hosts have joined again")


def a_shard(study: HostStudy) -> Host:
    """A shard's host that is not the controller's."""
    others = [host for host in study.shard_hosts() if host is not study.controller_host()]
    return (others or study.shard_hosts())[0]


VICTIMS: dict[str, Callable[[HostStudy], Host]] = {
    "shard": a_shard,
    "controller": HostStudy.controller_host,
    "head": lambda study: study.cluster.head,
    "laptop": lambda study: study.cluster.laptop,
}


@pytest.mark.parametrize("seconds", [10, 60, 300])
@pytest.mark.parametrize("victim", list(VICTIMS))
def test_cut_off(study: HostStudy, undisturbed: HostStudy, victim: str, seconds: int) -> None:
    host = VICTIMS[victim](study)
    host.cut()
    time.sleep(seconds)
    before = study.rows()
    host.heal()
    recover(study, undisturbed, before, f"{victim} cut off for {seconds} s")


@pytest.mark.parametrize("victim", ["shard", "controller"])
def test_heard_by_nobody(study: HostStudy, undisturbed: HostStudy, victim: str) -> None:
    """A one-way cut: the host hears the others, and they do not hear it."""
    host = VICTIMS[victim](study)
    host.mute()
    time.sleep(60)
    before = study.rows()
    host.heal()
    recover(study, undisturbed, before, f"{victim} heard by nobody for 60 s")


def test_a_slow_link(study: HostStudy, undisturbed: HostStudy) -> None:
    host = a_shard(study)
    host.slow(kilobits=2000)
    time.sleep(60)
    before = study.rows()
    host.heal()
    recover(study, undisturbed, before, "a link of 2 Mbit/s for 60 s")


def test_cut_off_for_ever(study: HostStudy, undisturbed: HostStudy) -> None:
    """The others go on without it, and what it had started for the study ends itself."""
    host = a_shard(study)
    orphans = host.processes("ray::Shard")
    host.cut()
    before = study.rows()
    try:
        lost = study.until(lambda: study.rows() > before, "training goes on elsewhere")
        assert lost <= ALLOWED_SECONDS
        gone = study.until(lambda: not any(p.is_running() for p in orphans), "orphans have ended")
        print(f"cut off for ever: training after {lost:.0f} s, orphans gone {gone:.0f} s later")
        assert gone <= 30
        study.until_done()
        study.assert_as(undisturbed)
    finally:
        host.heal()
    study.cluster.until(lambda: is_whole(study.cluster), "the host has joined again")


def test_a_host_whose_power_fails(study: HostStudy, undisturbed: HostStudy) -> None:
    """It starts again and joins, by what starts on it."""
    host, cluster = a_shard(study), study.cluster
    host.kill()
    before = study.rows()
    time.sleep(20)
    cluster.network.start_again(host.name)
    cluster.start_ray(host)
    recover(study, undisturbed, before, "power of a host failed")


def test_random_partitions(study: HostStudy, undisturbed: HostStudy) -> None:
    """Any host, for 2 to 60 s, one way or both, at any moment; the seed replays them."""
    chance = random.Random(SEED)
    hosts = [*study.cluster.workers, study.cluster.head]
    for number in range(RANDOM_FAULTS):
        host, seconds = chance.choice(hosts), chance.choice([2, 5, 10, 30, 60])
        one_way = chance.random() < 0.3
        if study.states()["done"]:
            break
        print(f"fault {number}: {host.name}, {seconds} s, {'one way' if one_way else 'both'}")
        (host.mute if one_way else host.cut)()
        time.sleep(seconds)
        host.heal()
        time.sleep(chance.uniform(0, 60))
    recover(study, undisturbed, study.rows() - 1, f"{RANDOM_FAULTS} random partitions")
