"""What workers are started with, however they are started."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import dask
import pytest
from distributed import Client, Security

from common.manifest import ClusterSection
from common.pool import WORKER_ENVIRONMENT
from preprocess.cluster import QUIET, as_variables, connect

DOCUMENT = Path(__file__).parents[2] / "docs" / "clusters.md"
PROGRAM = """
import json, sys, dask
import distributed
print(json.dumps([dask.config.get(name) for name in json.load(sys.stdin)]))
"""


def found_in_worker() -> tuple[dict[str, object], dict[str, str | None]]:
    settings = {name: dask.config.get(name) for name in QUIET}
    return settings, {name: os.environ.get(name) for name in WORKER_ENVIRONMENT}


def test_a_local_worker_is_left_alone_and_keeps_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in WORKER_ENVIRONMENT:  # a user's own would win, and so what another cluster left here
        monkeypatch.delenv(name, raising=False)
    with connect("local", 1, ClusterSection()) as client:
        (found,) = client.run(found_in_worker).values()
    assert found == (QUIET, WORKER_ENVIRONMENT)


def test_a_local_cluster_answers_nobody_else() -> None:
    with connect("local", 1, ClusterSection()) as client:
        scheduler = client.cluster.scheduler
        assert scheduler.http_server.address == "127.0.0.1"
        page = f"http://127.0.0.1:{scheduler.http_server.port}/info/main/workers.html"
        with pytest.raises(HTTPError, match="404"):
            urlopen(page)
        address = scheduler.address
        assert address.startswith("tls://127.0.0.1")
        for stranger in (address, address.replace("tls", "tcp", 1)):
            security = Security.temporary() if stranger == address else None
            with pytest.raises((OSError, TypeError)):
                Client(stranger, security=security, timeout="2s")


def test_as_variables_dask_takes_the_same_settings() -> None:
    told = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps(list(QUIET)),
        env=os.environ | as_variables(QUIET),
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(told.stdout) == list(QUIET.values())


def test_the_page_on_clusters_names_the_same() -> None:
    exported = re.findall(
        r"([A-Z_]+)=(\S+)", "\n".join(re.findall(r"^export .*", DOCUMENT.read_text("utf-8"), re.M))
    )
    assert len(exported) > 4
    ours = WORKER_ENVIRONMENT | as_variables(QUIET)
    assert exported == [(name, ours[name]) for name, _ in exported]
