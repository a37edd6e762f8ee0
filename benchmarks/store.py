"""The measurements behind docs/decisions 1, 2, 3, 7 and 8, on a cohort of one's own."""

import gzip
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Any

import deflate
import numpy as np
import zarr
from isal import isal_zlib
from numpy.typing import NDArray

from common.case import prepare
from common.discovery import discover
from common.manifest import Manifest, load_manifest
from common.store import Store, StoreWriter
from common.store.format import NODE_FILE, ZARRS_PIPELINE, described, volume_metadata
from common.store.paths import StoreFiles
from common.store.shard import write_shard
from common.volume import bounding_box

Way = Callable[[Any, NDArray[Any]], object]

KILLS = 60

OURS = "common.store.shard"

WRITER = f"""
import sys, zarr, zarrs
from common.store import Store
from common.store.paths import StoreFiles
from common.store.shard import write_shard
path, target, way = sys.argv[1:]
store = Store.open(path)
image = store.read_crop_image(next(iter(store.contents().records)))
if way != "{OURS}":
    zarr.config.set({{"codec_pipeline.path": way}})
array = zarr.open_group(target, mode="r+")["crops/image"]
files = StoreFiles(target)
print("ready", flush=True)
while True:
    for row in range(array.shape[0]):
        if way == "{OURS}":
            write_shard(files, array.path, array.metadata, row, image)
        else:
            array[row] = image
"""


def milliseconds(work: Callable[[], object], repeats: int = 3) -> float:
    """CPU time of one call, the least of some."""
    times = []
    for _ in range(repeats):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return 1e3 * min(times)


def crop(path: Path) -> None:
    store = Store.open(path)
    sizes, tumours, lost, dice = [], [], [], []
    for case_id, record in store.contents().records.items():
        if record.tumour_voxels is None:
            continue
        margin = 2 * store.manifest.margin
        sizes.append([side - margin for side in record.box.shape])
        _, label = store.read_volume(case_id)
        if label is not None and (tumour := bounding_box(label)):
            tumours.append(tumour.shape)
        counts = record.tumour_voxels
        lost.append((counts.lost("crop"), counts.lost("centred_crop")))
        # The best Dice over the whole volume of a prediction that sees the centred crop alone.
        kept, native = map(store.task.region_voxels, (counts.centred_crop, counts.native))
        dice.append([2 * kept[r] / (kept[r] + native[r]) for r in native if native[r]])
    print(f"{len(sizes)} labelled cases, crop {store.crop}")
    print(f"brain box: median {np.median(sizes, 0).astype(int)}, at most {np.max(sizes, 0)}")
    print(f"tumour box: median {np.median(tumours, 0).astype(int)}, at most {np.max(tumours, 0)}")
    for name, shares in zip(("on the tumour", "centred"), zip(*lost, strict=True), strict=True):
        some = sum(share > 0 for share in shares)
        print(f"lost, {name}: mean {fmean(shares):.2%}, most {max(shares):.1%}, in {some} cases")
    print(f"best Dice WT, TC, ET from the centred crop: {np.mean(dice, 0).round(4)}")
    print(f"at worst {np.min(dice, 0).round(3)}")


def dtype(data: Path) -> None:
    cases = discover(data, load_manifest()).cases
    stores, errors = dict[str, Store](), []
    with tempfile.TemporaryDirectory() as folder:
        for name in ("float16", "float32"):
            manifest = load_manifest(None, [f"dtype={name}"])
            writer = StoreWriter.create(Path(folder, name), manifest)
            for case, row in zip(cases, writer.allocate(len(cases)), strict=True):
                writer.write(prepare(case, manifest), row)
            stores[name] = Store.open(Path(folder, name))
            files = [path for path in Path(folder, name).rglob("*") if path.is_file()]
            disk_mb = sum(path.stat().st_size for path in files) / len(cases) / 1e6
            read = stores[name].read_crop_image
            read_ms = fmean(milliseconds(partial(read, c)) for c in stores[name].contents().records)
            print(f"{name}: {disk_mb:.1f} MB a case, {read_ms:.1f} ms CPU to read a crop")
        for case_id in stores["float16"].contents().records:
            half, single = (store.read_volume(case_id)[0] for store in stores.values())
            inside = single != 0
            errors.append((np.abs(half[inside] - single[inside]).max(), np.abs(single).max()))
    largest, value = (max(column) for column in zip(*errors, strict=True))
    print(f"{len(cases)} cases; largest error {largest:.1e}, at values up to {value:.1f}")


def pipelines(path: Path) -> None:
    for name, address in (("zarrs", str(path)), ("zarr-python", f"file://{path.resolve()}")):
        store = Store.open(address)
        for read in (store.read_crop_image, store.read_volume):
            times = [milliseconds(partial(read, case_id)) for case_id in store.contents().records]
            print(f"{name}, {read.__name__}: {median(times):.1f} ms CPU a case")


def writing(path: Path) -> None:
    store, times = Store.open(path), defaultdict[str, list[float]](list)
    ways: dict[str, Way] = {
        "zarr-python": _write_whole,
        "zarr-python, empty chunks not looked for": _write_all_chunks,
        OURS: _write_shard,
    }
    for case_id in store.contents().records:
        arrays: list[Any] = [*store.read_crop(case_id), *store.read_volume(case_id)]
        for name, way in ways.items():
            times[name].append(milliseconds(partial(_write, store.manifest, arrays, way)))
    _print_medians(times)


def _write(manifest: Manifest, arrays: list[NDArray[Any]], way: Way) -> None:
    """A store of one case: crop image and label, volume image and label."""
    with tempfile.TemporaryDirectory() as folder:
        StoreWriter.create(folder, manifest).allocate(1)
        root, files = zarr.open_group(folder, mode="r+"), StoreFiles(folder)
        way(root["crops/image"], arrays[0][None])
        way(root["crops/label"], arrays[1][None])
        for name, volume in (("image", arrays[2]), ("label", arrays[3])):
            content = described(volume_metadata(name, volume))
            files.write(f"cases/one/{name}/{NODE_FILE}", [content])
            way(root[f"cases/one/{name}"], volume)


def _write_shard(array: Any, values: NDArray[Any]) -> None:  # noqa: ANN401 - zarr's
    files = StoreFiles(str(array.store_path.store.root))
    write_shard(files, array.path, array.metadata, 0, values)


def _write_whole(array: Any, values: NDArray[Any]) -> None:  # noqa: ANN401
    array[...] = values


def _write_all_chunks(array: Any, values: NDArray[Any]) -> None:  # noqa: ANN401
    with zarr.config.set({"array.write_empty_chunks": True}):
        zarr.open_array(array.store_path, mode="r+")[...] = values


def gunzip(data: Path) -> None:
    times = defaultdict[str, list[float]](list)
    ways: dict[str, Callable[[bytes], object]] = {
        "libdeflate": deflate.gzip_decompress,
        "ISA-L": lambda content: isal_zlib.decompressobj(31).decompress(content),
        "zlib": gzip.decompress,
    }
    for case in discover(data, load_manifest()).cases:
        paths = [*case.images.values(), *([case.label] if case.label else [])]
        files = [path.read_bytes() for path in paths]
        for name, way in ways.items():
            times[name].append(milliseconds(lambda: [way(file) for file in files]))  # noqa: B023
    _print_medians(times)


def _print_medians(times: dict[str, list[float]]) -> None:
    for name, milliseconds_a_case in times.items():
        print(f"{name}: {median(milliseconds_a_case):.0f} ms CPU a case")


def kills(path: Path) -> None:
    generator = np.random.default_rng(0)
    for name in (OURS, "zarr.core.codec_pipeline.BatchedCodecPipeline", ZARRS_PIPELINE):
        torn = 0
        for _ in range(KILLS):
            with tempfile.TemporaryDirectory() as folder:
                target = Path(folder, "s.zarr")
                writer = StoreWriter.create(target, Store.open(path).manifest)
                writer.allocate(8)
                torn += _killed(path, target, name, generator.uniform(0.1, 0.6))
        print(f"{name}: {torn} torn shards after {KILLS} kills")


def _killed(path: Path, target: Path, way: str, seconds: float) -> int:
    """Shards after a kill that exist but do not hold what was written."""
    command = [sys.executable, "-c", WRITER, str(path), str(target), way]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        if process.stdout:
            process.stdout.readline()
        time.sleep(seconds)
        os.kill(process.pid, signal.SIGKILL)
    array: Any = zarr.open_group(str(target), mode="r")["crops/image"]
    store = Store.open(path)
    image = store.read_crop_image(next(iter(store.contents().records)))
    torn = 0
    for row in range(array.shape[0]):
        if Path(target, f"crops/image/c/{row}/0/0/0/0").exists():
            try:
                torn += not np.array_equal(array[row], image)
            except (ValueError, RuntimeError, OSError):
                torn += 1
    return torn


MEASUREMENTS: dict[str, Callable[[Path], None]] = {
    "crop": crop,
    "dtype": dtype,
    "pipelines": pipelines,
    "writing": writing,
    "gunzip": gunzip,
    "kills": kills,
}
