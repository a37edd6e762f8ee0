"""`--cluster tcp://host:port`: a scheduler and workers that somebody else started, elsewhere.

Each is a process of its own with a network of its own, as on machines of their own, where network
namespaces can be made; else they share this machine's loopback. The first test says which it was.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

import common
from common.record import CaseRecord
from common.store import Store

pytestmark = pytest.mark.slow

Maker = Callable[..., Any]

NAMES = ("client", "scheduler", "one", "two")
SUBNET = "198.18.0"
"""Of the addresses that are kept for tests of networks (RFC 2544)."""


class Host(NamedTuple):
    """Where processes run.

    Attributes:
        address: theirs.
        inside: what comes before a command, for it to run there.
    """

    address: str
    inside: tuple[str, ...] = ()


@contextmanager
def separate() -> Iterator[dict[str, Host]]:
    """Hosts of a network each, which meet on a switch that the client's has.

    Raises:
        OSError, CalledProcessError: this machine makes no network namespaces.
    """
    with ExitStack() as begun:
        holders = {name: _namespace(begun) for name in NAMES}
        hosts = {
            name: Host(f"{SUBNET}.{number}", ("nsenter", f"--net=/proc/{holders[name]}/ns/net"))
            for number, name in enumerate(NAMES, 1)
        }
        switch = hosts["client"]
        _ip(switch, "link set lo up", "link add switch type bridge", "link set switch up")
        _ip(switch, f"addr add {switch.address}/24 dev switch")
        for name in NAMES[1:]:
            _ip(switch, f"link add {name} type veth peer name eth0 netns {holders[name]}")
            _ip(switch, f"link set {name} master switch up")
            own = hosts[name]
            _ip(own, "link set lo up", f"addr add {own.address}/24 dev eth0", "link set eth0 up")
        yield hosts


def _namespace(begun: ExitStack) -> int:
    """The process that holds a new network namespace; it is gone with the process."""
    command = ["unshare", "--net", "sh", "-c", "echo made; exec sleep infinity"]
    holder = begun.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    begun.callback(holder.kill)
    assert holder.stdout is not None
    if not holder.stdout.readline():  # else what follows would change this machine's own network
        raise OSError("unshare --net is not permitted")
    return holder.pid


def _ip(host: Host, *commands: str) -> None:
    command, text = [*host.inside, "ip", "-batch", "-"], "\n".join(commands)
    subprocess.run(command, input=text, check=True, capture_output=True, text=True, timeout=60)


@pytest.fixture(scope="module")
def hosts(request: pytest.FixtureRequest) -> Iterator[dict[str, Host]]:
    with ExitStack() as made:
        try:
            found, how = made.enter_context(separate()), "network namespaces"
        except (OSError, subprocess.CalledProcessError) as error:
            found, how = dict.fromkeys(NAMES, Host("127.0.0.1")), f"the loopback ({error})"
        capture = request.config.pluginmanager.getplugin("capturemanager")
        with capture.global_and_fixture_disabled():
            print(f"scheduler and workers run in {how}")
        yield found


class Cluster:
    """A scheduler and workers.

    Attributes:
        address: the scheduler's.
    """

    def __init__(self, hosts: dict[str, Host], folder: Path, **environment: str) -> None:
        self._hosts, self._folder = hosts, folder
        self._processes: dict[str, psutil.Popen] = {}
        folder.mkdir()
        file = folder / "scheduler.json"
        own = ("--host", hosts["scheduler"].address, "--port", "0", "--no-dashboard")
        self._start("scheduler", *own, "--scheduler-file", str(file), **environment)
        deadline = time.monotonic() + 60
        while not (file.is_file() and file.read_text().endswith("}")):
            assert time.monotonic() < deadline, self.log
            time.sleep(0.1)
        self.address = json.loads(file.read_text())["address"]

    def add(self, name: str, **environment: str) -> None:
        """Start a worker of this name on its host."""
        one = ("--nworkers", "1", "--nthreads", "1", "--no-dashboard")
        place = ("--host", self._hosts[name].address, "--local-directory", str(self._folder))
        self._start(name, self.address, "--name", name, *one, *place, **environment)

    def kill(self, *names: str) -> None:
        """By SIGKILL, the processes and all that they started; none is left."""
        processes = [self._processes.pop(name) for name in names or list(self._processes)]
        family = [one for process in processes for one in process.children(recursive=True)]
        for process in processes:
            os.killpg(process.pid, signal.SIGKILL)
        _, alive = psutil.wait_procs([*processes, *family], timeout=20)
        assert not alive

    @property
    def log(self) -> str:
        """The end of what the processes wrote."""
        return (self._folder / "log").read_text()[-8000:]

    def _start(
        self, name: str, *options: str, python: str = sys.executable, **environment: str
    ) -> None:
        what = "scheduler" if name == "scheduler" else "worker"
        command = [*self._hosts[name].inside, python, "-m", "dask", what, *options]
        with (self._folder / "log").open("ab") as log:
            self._processes[name] = psutil.Popen(
                command,
                env=os.environ | environment,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                start_new_session=True,
            )


@pytest.fixture
def dask(hosts: dict[str, Host], tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    """Starts a scheduler and workers of these names; none goes on after the test."""
    clusters: list[Cluster] = []

    def start(*workers: str, **environment: str) -> Cluster:
        clusters.append(Cluster(hosts, tmp_path / f"dask-{len(clusters)}", **environment))
        for name in workers:
            clusters[-1].add(name)
        return clusters[-1]

    yield start
    for one in clusters:
        one.kill()
        print(one.log)  # pytest shows it where the test failed


@pytest.fixture
def preprocess(hosts: dict[str, Host], run: Maker) -> Maker:
    """Starts a run on a cluster, on the client's host."""
    return lambda cluster: run(cluster.address, inside=hosts["client"].inside)


def records(folder: Path) -> dict[str, CaseRecord]:
    return Store.open(folder / "s.zarr").contents().records


def error_of(folder: Path) -> str:
    """All that a run said on stderr: one line."""
    (line,) = (folder / "stderr").read_text().splitlines()
    assert line.startswith("error: ")
    return line


def test_two_workers_elsewhere_share_the_work(
    cohort: Maker, gate: Maker, dask: Maker, preprocess: Maker, *, command: Maker, tmp_path: Path
) -> None:
    cohort(6)
    gates = [gate(case) for case in range(2)]
    running = preprocess(dask("one", "two"))
    for one in gates:
        one.wait()  # each worker holds one
    for one in gates:
        one.open()
    assert running.wait() == 0, running.said
    assert "2 worker process(es)" in running.said
    verified = command("verify", tmp_path / "s.zarr")
    assert verified.returncode == 0, verified.stdout
    assert re.search(r"intact +6 case", verified.stdout)


def test_a_lost_scheduler_ends_the_run_and_the_next_does_the_rest(
    cohort: Maker,
    gate: Maker,
    dask: Maker,
    preprocess: Maker,
    *,
    run: Maker,
    until: Maker,
    tmp_path: Path,
) -> None:
    cohort(5)
    held = gate(4)
    cluster = dask("one")
    lost = preprocess(cluster)
    held.wait()
    until(lambda: lost.verified() == 4, "four cases")
    before = records(tmp_path)
    cluster.kill("scheduler")
    assert lost.wait(60) == 2
    line = error_of(tmp_path)
    assert line.startswith("error: the Dask scheduler is gone")
    assert "run the same command again" in line
    held.restore()
    assert lost.verified() == 4
    again = run("local")
    assert again.wait() == 0, again.said
    assert "1 case(s) to do, 4 done before" in again.said
    assert again.verified() == 5
    assert before.items() <= records(tmp_path).items()


def test_a_worker_still_at_a_killed_run_s_case_does_it_anew_for_the_next(
    cohort: Maker, gate: Maker, dask: Maker, preprocess: Maker, *, until: Maker, tmp_path: Path
) -> None:
    cohort(4)
    held = gate(3)
    cluster = dask("one")
    killed = preprocess(cluster)
    held.wait()
    until(lambda: killed.verified() == 3, "three cases")
    killed.process.kill()
    killed.process.wait(60)
    again = preprocess(cluster)
    crops = tmp_path / "s.zarr" / "crops" / "image" / "zarr.json"
    until(lambda: json.loads(crops.read_text())["shape"][0] == 5, "a new row for the case")
    time.sleep(1)  # for its task to reach the worker
    assert again.process.poll() is None
    held.open()
    assert again.wait() == 0, again.said
    assert "taking over the lock" in again.said
    assert "1 case(s) to do, 3 done before" in again.said
    assert again.verified() == 4
    assert records(tmp_path)["BraTS2021_00003"].row == 4


def test_a_killed_worker_s_case_is_done_by_another(
    cohort: Maker, gate: Maker, dask: Maker, preprocess: Maker
) -> None:
    cohort(4)
    held = gate(3)
    cluster = dask("one")
    running = preprocess(cluster)
    held.wait()
    cluster.kill("one")
    cluster.add("two")
    held.expect_another()
    held.wait()
    held.open()
    assert running.wait() == 0, running.said
    assert running.verified() == 4


def test_a_run_without_workers_says_so_and_goes_on_when_one_comes(
    cohort: Maker, dask: Maker, preprocess: Maker
) -> None:
    cohort(3)
    cluster = dask()
    waiting = preprocess(cluster)
    waiting.until_it_says(f"waiting for workers at {cluster.address}: start some with `dask worker")
    cluster.add("one")
    assert waiting.wait() == 0, waiting.said
    assert waiting.verified() == 3


def test_what_listens_and_is_no_scheduler_is_said(cohort: Maker, run: Maker) -> None:
    cohort(3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        refused = run(f"tcp://127.0.0.1:{silent.getsockname()[1]}")
        assert refused.wait(60) == 2
    assert "no Dask scheduler answers there" in refused.said


def without_package(folder: Path) -> dict[str, str]:
    """An environment that has all that is installed here but this package."""
    installed = Path(sysconfig.get_path("purelib"))
    folder.mkdir()
    for entry in installed.iterdir():
        if "fm_net" not in entry.name:
            (folder / entry.name).symlink_to(entry)
    bare = str(Path(sys.executable).resolve())  # not the virtual environment's, which has it
    return {"python": bare, "PYTHONPATH": str(folder), "PYTHONNOUSERSITE": "1"}


def other_version(folder: Path) -> dict[str, str]:
    """An environment in which this package is of another version."""
    shutil.copytree(Path(common.__file__).parent, folder / "common")
    (folder / "common" / "__init__.py").write_text('__version__ = "0.0.1"\n')
    return {"PYTHONPATH": str(folder)}


@pytest.mark.parametrize(
    ("comes", "worker", "words"),
    [
        ("before", without_package, "No module named 'preprocess'"),
        ("before", other_version, "found version 0.0.1"),
        ("after", without_package, "No module named 'preprocess'"),
        ("after", other_version, "version 0.0.1"),
    ],
)
def test_a_worker_without_this_package_or_with_another_version_ends_the_run(
    comes: str,
    worker: Maker,
    words: str,
    *,
    cohort: Maker,
    dask: Maker,
    preprocess: Maker,
    until: Maker,
    tmp_path: Path,
) -> None:
    cohort(3)
    cluster = dask()
    if comes == "before":
        cluster.add("one", **worker(tmp_path / "worker"))
        until(lambda: "Register worker addr" in cluster.log, "the worker is there")
    refused = preprocess(cluster)
    if comes == "after":
        refused.until_it_says("waiting for workers")
        cluster.add("one", **worker(tmp_path / "worker"))
    assert refused.wait(60) == 2, refused.said
    line = error_of(tmp_path)
    assert words in line
    assert "this package" in line


@pytest.mark.parametrize("worker", [without_package, other_version])
def test_one_that_joins_a_worker_at_work_ends_the_run_too_and_the_next_does_all(
    worker: Maker,
    *,
    cohort: Maker,
    gate: Maker,
    dask: Maker,
    preprocess: Maker,
    run: Maker,
    tmp_path: Path,
) -> None:
    cohort(4)
    held = gate(0)
    cluster = dask("one")
    refused = preprocess(cluster)
    held.wait()
    cluster.add("two", **worker(tmp_path / "worker"))
    assert refused.wait(60) == 2, refused.said
    line = error_of(tmp_path)
    assert "of this package" in line
    cluster.kill()
    held.restore()
    again = run("local")
    assert again.wait() == 0, again.said
    assert again.verified() == 4


def test_a_scheduler_needs_dask_alone(
    cohort: Maker, dask: Maker, preprocess: Maker, tmp_path: Path
) -> None:
    cohort(3)
    running = preprocess(dask("one", **without_package(tmp_path / "scheduler")))
    assert running.wait() == 0, running.said
    assert running.verified() == 3


def test_the_job_that_the_page_shows_brings_a_cluster(
    cohort: Maker, slurm: Any, run: Maker, tmp_path: Path
) -> None:
    page = Path(__file__).parents[3] / "docs" / "clusters.md"
    (script,) = re.findall(r"```bash\n(#!.*?)```", page.read_text("utf-8"), re.DOTALL)
    file, log = tmp_path / "cluster.sh", tmp_path / "cluster.log"
    file.write_text(script)
    cohort(3)
    path = f"{Path(sys.executable).parent}{os.pathsep}{slurm.environment['PATH']}"
    smaller = ("--ntasks=2", "--mem-per-cpu=1G", f"--output={log}", f"--export=ALL,PATH={path}")
    job = slurm.call("sbatch", "--parsable", *smaller, str(file)).strip()
    try:
        running = run(f"tcp://{socket.gethostname()}:8786")
        assert running.wait() == 0, running.said + log.read_text()
    finally:
        slurm.call("scancel", job)
        slurm.until_empty()
    assert running.verified() == 3
