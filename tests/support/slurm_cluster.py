"""A real SLURM of two nodes on this machine, as fixtures."""

import getpass
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from waiting import wait_until

NODES = ("n1", "n2")
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
MpiDefault=none
ReturnToService=2
KillWait=5
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory=4000
NodeName=n2 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 RealMemory=4000
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


class Slurm:
    """A running SLURM.

    Attributes:
        environment: what its programs, and programs that use them, need.
    """

    def __init__(self, folder: Path) -> None:
        system = f"{os.environ['PATH']}{os.pathsep}/usr/sbin{os.pathsep}/sbin"
        self._folder, self._log = folder, folder / "daemons.log"
        self.environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": system}

    @property
    def daemons(self) -> list[list[str]]:
        names = ("key-file", "socket", "pid-file", "log-file", "seed-file")
        files = [f"--{name}={self._folder}/munge.{name}" for name in names]
        munge = ["munged", "--foreground", "--force", *files]  # whoever may write to its folder
        return [munge, ["slurmctld", "-D"], *(["slurmd", "-D", "-N", name] for name in NODES)]

    def configure(self) -> None:
        """Write what the daemons read, with ports that are free now and a key of its own."""
        with ExitStack() as held:
            sockets = [held.enter_context(socket.create_server(("", 0))) for _ in range(3)]
            ports = [listening.getsockname()[1] for listening in sockets]
        host, user = socket.gethostname().split(".")[0], getpass.getuser()
        text = CONFIGURATION.format(host=host, ports=ports, user=user, folder=self._folder)
        (self._folder / "slurm.conf").write_text(text)
        # None is used, but a node asks what there is; version 2 would have it ask systemd.
        (self._folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        (self._folder / "state").mkdir()
        key = self._folder / "munge.key-file"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(1024))

    def start(self, command: list[str]) -> subprocess.Popen[bytes]:
        """Start a daemon; munged's socket is there then."""
        with self._log.open("ab") as log:
            daemon = subprocess.Popen(
                command, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        if command[0] == "munged":
            wait_until((self._folder / "munge.socket").exists, "munged")
        return daemon

    @property
    def log(self) -> str:
        """The end of what the daemons wrote."""
        return self._log.read_text()[-8000:]

    def call(self, *command: str) -> str:
        return subprocess.run(
            command, env=self.environment, check=True, capture_output=True, text=True, timeout=60
        ).stdout

    def queue(self, columns: str = "%A", *options: str) -> list[str]:
        return self.call("squeue", "--noheader", f"--format={columns}", *options).splitlines()

    def until_empty(self) -> None:
        wait_until(lambda: not self.queue(), "an empty queue")

    def is_idle(self) -> bool:
        """Whether both nodes are up and have nothing to do."""
        try:
            return self.call("sinfo", "--noheader", "--Node", "--format=%T").split() == ["idle"] * 2
        except subprocess.CalledProcessError:  # the controller is not up yet
            return False

    def processes(self) -> list[int]:
        """Every process that was started with this SLURM's configuration."""
        mark, found = f"SLURM_CONF={self._folder}/slurm.conf".encode(), []
        for entry in Path("/proc").glob("[0-9]*/environ"):
            try:
                if mark in entry.read_bytes().split(b"\0"):
                    found.append(int(entry.parent.name))
            except OSError:  # it is gone, or another user's
                continue
        return found


@pytest.fixture(scope="module")
def running_slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """A SLURM of two nodes; afterwards, no process is left of it."""
    slurm = Slurm(tmp_path_factory.mktemp("slurm"))
    for program, *_ in slurm.daemons:
        if not shutil.which(program, path=slurm.environment["PATH"]):
            pytest.skip(f"no {program}: apt-get install slurm-wlm munge")
    slurm.configure()
    try:
        with ExitStack() as started:
            for command in slurm.daemons:
                daemon = slurm.start(command)
                started.callback(daemon.wait, timeout=60)
                started.callback(daemon.terminate)
            wait_until(slurm.is_idle, "two idle nodes")
            yield slurm
            slurm.call("scancel", "--me")
            slurm.until_empty()
    except AssertionError as error:
        error.add_note(slurm.log)
        raise
    wait_until(lambda: not slurm.processes(), "no process left")


@pytest.fixture
def slurm(running_slurm: Slurm) -> Iterator[Slurm]:
    """SLURM with two idle nodes; the test leaves no job and no process of one behind."""
    wait_until(running_slurm.is_idle, "two idle nodes")
    before = set(running_slurm.processes())
    yield running_slurm
    assert running_slurm.queue() == [], "jobs were left in the queue"
    wait_until(lambda: not set(running_slurm.processes()) - before, "no process of a job left")
