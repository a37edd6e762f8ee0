"""Stores in object storage through the command line: what is wrong is one line, and no secret."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from common.errors import StoreError
from common.lock import Lock, LockFile, Owner, this_machine
from common.store import Store

Cohort = Callable[..., Path]
Run = Callable[..., CompletedProcess[str]]

KEY, SECRET = "AKIAREMOTE", "s3cretword"
URL = "s3://bucket/folder/brats.zarr"


def call(url: str, method: str, body: bytes = b"") -> None:
    plain = {"Content-Type": "text/plain"}
    request = urllib.request.Request(url, body, plain, method=method)  # noqa: S310 - our own server
    with urllib.request.urlopen(request):  # noqa: S310
        pass


@pytest.fixture
def remote(endpoint: str, process: Run, tmp_path: Path) -> Iterator[Run]:
    """Runs `fmnet-preprocess` where S3 is a service that holds one bucket."""
    call(f"{endpoint}/bucket", "PUT")
    home = tmp_path / "home"  # without ~/.aws
    home.mkdir()
    settings = {
        "HOME": str(home),
        "COLUMNS": "200",
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_DEFAULT_REGION": "us-east-1",
    }

    def run(*arguments: object, key: str = KEY, **more: str) -> CompletedProcess[str]:
        known = {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": SECRET} if key else {}
        ours = {n: v for n, v in os.environ.items() if not n.startswith("AWS_")}
        return process(*arguments, env=ours | settings | known | more)

    yield run
    call(f"{endpoint}/moto-api/reset-auth", "POST", b"inf")  # so that any key will do again
    call(f"{endpoint}/moto-api/reset", "POST")


def assert_one_line(done: CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 2, done.stdout
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    for word in words:
        assert word in lines[0]


@pytest.mark.slow
def test_no_secret_is_in_the_store_or_said(
    cohort: Cohort, remote: Run, endpoint: str, tmp_path: Path
) -> None:
    data = cohort(3)
    ran = remote("run", data, "--store", URL, "--workers", 1)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    verified = remote("verify", URL)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert re.search(r"intact +3 case", verified.stdout)
    for said in (ran, verified):
        assert SECRET not in said.stdout + said.stderr
    import s3fs

    filesystem = s3fs.S3FileSystem(key=KEY, secret=SECRET, endpoint_url=endpoint)
    files = filesystem.find("bucket")
    assert f"{URL.removeprefix('s3://')}.lock" not in files
    for file in files:
        content = filesystem.cat_file(file)
        assert SECRET.encode() not in content
        assert KEY.encode() not in content


@pytest.mark.slow
def test_an_unknown_bucket_is_said_and_not_made(
    cohort: Cohort, remote: Run, tmp_path: Path
) -> None:
    for arguments in (("run", cohort(3), "--store"), ("status",)):
        refused = remote(*arguments, "s3://bukcet/brats.zarr")
        assert_one_line(refused, "s3://bukcet/brats.zarr", "there is no bucket bukcet")
    empty = remote("status", URL)
    assert_one_line(empty, f"{URL}: no store is there; make one with")


@pytest.mark.slow
def test_wrong_credentials_and_none_are_one_line(
    cohort: Cohort, remote: Run, endpoint: str
) -> None:
    data = cohort(3)
    for arguments in (("run", data, "--store", URL), ("status", URL)):
        without = remote(*arguments, key="")
        assert_one_line(without, f"{URL}: cannot be", "Unable to locate credentials", "~/.aws")
    call(f"{endpoint}/moto-api/reset-auth", "POST", b"0")  # from now on it looks at keys
    for arguments in (("run", data, "--store", URL), ("status", URL)):
        wrong = remote(*arguments)
        assert_one_line(wrong, f"{URL}: cannot be", "AWS_ACCESS_KEY_ID")
        assert SECRET not in wrong.stderr
    nobody = remote("status", URL, AWS_ENDPOINT_URL="http://127.0.0.1:9")
    assert_one_line(nobody, f"{URL}: cannot be read", "Could not connect", "AWS_ENDPOINT_URL")


@pytest.mark.slow
def test_one_run_at_a_time_takes_the_lock_and_takes_it_over(
    remote: Run, cohort: Cohort, endpoint: str
) -> None:
    import s3fs

    filesystem = s3fs.S3FileSystem(key=KEY, secret=SECRET, endpoint_url=endpoint)
    data, path = cohort(3), f"{URL.removeprefix('s3://')}.lock"
    left = {
        "token": "another",
        "user": "ada",
        "host": "node7",
        "machine": this_machine(),
        "process": os.getpid(),
        "since": time.time(),
        "heartbeat": time.time(),
    }
    filesystem.pipe_file(path, json.dumps(left).encode())
    second = remote("run", data, "--store", URL)
    assert_one_line(second, f"{URL}: ada on node7, process {os.getpid()} has been writing it")
    file = LockFile(filesystem, path)
    with pytest.raises(FileExistsError):
        file.create(Owner(**left | {"token": "third"}))
    assert file.owner() == Owner(**left)
    file.replace(Owner(**left | {"process": ended_process()}))
    next_one = remote("run", data, "--store", URL, "--workers", 1)
    assert next_one.returncode == 0, next_one.stdout + next_one.stderr
    assert "taking over the lock that ada on node7" in next_one.stdout
    assert not [name for name in filesystem.find("bucket") if ".lock" in name]


def ended_process() -> int:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait(timeout=60)
    return done.pid


@pytest.mark.parametrize(
    "url",
    [
        f"s3://{KEY}:{SECRET}@bucket/brats.zarr",
        f"s3://{KEY}:a/{SECRET}@bucket/brats.zarr",
        f"s3://bucket/brats.zarr?secret={SECRET}",
        f"s3://{SECRET}@bucket/brats.zarr",
        f"https://ada:{SECRET}@host/brats.zarr",
        f"https://host/brats.zarr?X-Amz-Signature={SECRET}",
    ],
)
def test_a_secret_in_the_address_is_refused_and_not_repeated(url: str) -> None:
    for use in (Store.open, Lock):
        with pytest.raises(StoreError) as refused:
            use(url)
        assert re.match(
            r"\w+://…: an address with a user, a password or options", str(refused.value)
        )
        assert SECRET not in str(refused.value)
        assert KEY not in str(refused.value)


def test_a_secret_in_a_manifest_is_refused_and_not_repeated(cohort: Cohort, command: Run) -> None:
    data = cohort(3)
    for name in ("check", "run"):
        refused = command(name, data, "--set", f"store=s3://{SECRET}@bucket/brats.zarr")
        assert refused.returncode == 2
        assert "s3://…: an address with a user" in refused.stderr
        assert SECRET not in refused.stdout + refused.stderr
