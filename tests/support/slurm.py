"""A real Slurm on this machine: munge, a controller and one node, of a folder of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CONFIGURATION = """
ClusterName=trial
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={first}
SlurmdPort={second}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
KillWait=30
MinJobAge=3600
OverTimeLimit=5
SchedulerParameters=requeue_delay=1
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str | None:
    """Why there can be no Slurm here; None where there can."""
    if os.geteuid():
        return "slurmd needs root"
    missing = [name for name in ("slurmctld", "slurmd", "munged") if not shutil.which(name)]
    return f"no {', '.join(missing)}: apt-get install slurm-wlm" if missing else None


@contextmanager
def slurm(folder: Path) -> Iterator[dict[str, str]]:
    """Slurm at work; gives the environment in which its commands find it."""
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    first, second = _free_port(), _free_port()
    config = folder / "slurm.conf"
    config.write_text(
        CONFIGURATION.format(
            host=socket.gethostname().partition(".")[0],
            folder=folder,
            first=first,
            second=second,
            cpus=os.cpu_count(),
        )
    )
    environment = os.environ | {"SLURM_CONF": str(config)}
    words = [
        [
            *("munged", "--foreground", "--force", f"--key-file={key}"),
            *(f"--socket={folder}/munge.socket", f"--pid-file={folder}/munge.pid"),
            *(f"--log-file={folder}/munge.log", f"--seed-file={folder}/munge.seed"),
        ],
        ["slurmctld", "-D", "-f", str(config)],
        ["slurmd", "-D", "-f", str(config)],
    ]
    started = []
    try:
        for each in words:
            log = (folder / f"{each[0]}.out").open("w")
            started.append(subprocess.Popen(each, env=environment, stdout=log, stderr=log))
            time.sleep(1)
        deadline = time.monotonic() + 60
        while (
            "idle"
            not in subprocess.run(
                ["sinfo", "-h", "-o", "%t"], env=environment, capture_output=True, text=True
            ).stdout
        ):
            assert time.monotonic() < deadline, [
                (folder / f"{each[0]}.out").read_text() for each in words
            ]
            time.sleep(0.5)
        yield environment
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait(60)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
