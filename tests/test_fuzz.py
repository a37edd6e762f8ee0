"""Seeded damage to everything that commands read: each outcome is right, or a line that names it.

All of it in bounded time and memory (`forked.Outcome.fault`).
"""

import gzip
import os
import random
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from forked import Commands
from runs import begun

from common.names import name_fault, show
from common.store import Store
from train.run import execute

pytestmark = pytest.mark.slow

SEED = 20261130
Damage = Callable[[random.Random, Path], object]


def flipped(dice: random.Random, path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
    path.write_bytes(content)


def cut(dice: random.Random, path: Path) -> None:
    os.truncate(path, dice.randrange(path.stat().st_size))


def gone(_: random.Random, path: Path) -> None:
    path.unlink()


def instead(make: Callable[[Path], object]) -> Damage:
    def damage(_: random.Random, path: Path) -> None:
        path.unlink()
        make(path)

    return damage


def another(dice: random.Random, path: Path) -> None:
    """The content of another file of the same name."""
    store = next(above for above in path.parents if above.suffix == ".zarr")
    others = [p for p in files_of(store) if p.name == path.name and p != path]
    shutil.copyfile(dice.choice(others or [path]), path)


STRUCTURAL: list[Damage] = [
    cut,
    gone,
    instead(Path.mkdir),
    instead(Path.touch),
    instead(os.mkfifo),
    instead(lambda path: path.symlink_to("/dev/zero")),
    another,
]


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def sampled(
    dice: random.Random, files: list[Path], text: int, binary: int, damages: list[Damage]
) -> Iterator[tuple[Path, Damage]]:
    """Files, the small texts among them more often, each with a damage in turn."""
    texts = [f for f in files if f.suffix in {".json", ".yaml", ".jsonl"}]
    others = [f for f in files if f not in texts]
    for file in dice.choices(texts, k=text) + dice.choices(others, k=binary):
        yield file, dice.choice(damages)


@pytest.fixture(scope="module")
def preprocess() -> Iterator[Commands]:
    with Commands("preprocess") as commands:
        yield commands


@pytest.fixture(scope="module")
def train() -> Iterator[Commands]:
    with Commands("train") as commands:
        yield commands


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory, preprocess: Commands) -> Path:
    data = tmp_path_factory.mktemp("fuzz") / "data"
    done = preprocess("phantom", data, "--cases", 8, "--seed", 1, "--size", "32,32,32")
    assert done.code == 0, done.text
    (data / "data_manifest.yaml").write_text("crop: [16, 16, 16]\nmargin: 0\n")
    return data


@pytest.fixture(scope="module")
def stored(cohort: Path, preprocess: Commands) -> Path:
    path = cohort.with_name("whole.zarr")
    done = preprocess("run", cohort, "--store", path)
    assert done.code == 0, done.text
    return path


def content(path: Path, case_ids: Iterable[str] | None = None) -> dict[str, tuple[object, ...]]:
    """What a store means: the records and voxels of these cases, by default of all."""
    store, found = Store.open(str(path)), dict[str, tuple[object, ...]]()
    for case_id in store.contents().records if case_ids is None else case_ids:
        crop, volume = store.read_crop(case_id), store.read_volume(case_id)
        arrays = (*crop, *volume, store.read_reference(case_id))
        voxels = tuple(array.tobytes() for array in arrays if array is not None)
        found[case_id] = (store.record(case_id), voxels)
    return found


@pytest.mark.parametrize("damages", [[flipped], STRUCTURAL], ids=["flips", "structure"])
def test_a_damaged_case_is_named_by_verify_alone(
    damages: list[Damage], stored: Path, preprocess: Commands, tmp_path: Path
) -> None:
    dice, whole, faults = random.Random(SEED), content(stored), []
    for number in range(6):
        path = tmp_path / f"{number}.zarr"
        shutil.copytree(stored, path)
        done = dict[str, str]()
        for case_id in whole:
            files = files_of(stored / "cases" / case_id)
            ((file, damage),) = sampled(dice, files, number % 2, 1 - number % 2, damages)
            damage(dice, path / file.relative_to(stored))
            done[case_id] = f"{damage.__name__} {file.relative_to(stored)}"
        verified = preprocess("verify", path)
        named = [case_id for case_id in done if case_id in verified.text]
        if fault := verified.fault(*done) or preprocess("status", path).fault(*done):
            faults.append(f"{done}: {fault}")
        kept = content(path, [case_id for case_id in done if case_id not in named])
        faults += [f"not named: {done[c]}\n{verified.text}" for c in kept if kept[c] != whole[c]]
    assert not faults, "\n\n".join(faults)


@pytest.mark.parametrize("damages", [[flipped], STRUCTURAL], ids=["flips", "structure"])
def test_damage_to_what_all_cases_share_is_named(
    damages: list[Damage], stored: Path, preprocess: Commands, tmp_path: Path
) -> None:
    dice, whole, faults = random.Random(SEED), content(stored), []
    shared = [file for file in files_of(stored) if "cases" not in file.parts]
    for number, (file, damage) in enumerate(sampled(dice, shared, 12, 4, damages)):
        path, name = tmp_path / f"{number}.zarr", file.relative_to(stored)
        shutil.copytree(stored, path)
        damage(dice, path / name)
        verified = preprocess("verify", path)
        fault = verified.fault(str(path), *whole) or preprocess("status", path).fault(str(path))
        if not fault and verified.code == 0 and content(path) != whole:
            fault = "verify finds nothing, and the store holds something else"
        if fault:
            faults.append(f"{damage.__name__} {name}: {fault}")
    assert not faults, "\n\n".join(faults)


def test_mutated_headers_are_read_right_or_named(
    cohort: Path, preprocess: Commands, tmp_path: Path
) -> None:
    dice, faults = random.Random(SEED), []
    first = sorted(p for p in cohort.iterdir() if p.is_dir())[0]
    for _ in range(25):
        data = tmp_path / "data"
        shutil.copytree(first, data / first.name)
        file = dice.choice(files_of(data))
        plain = bytearray(gzip.decompress(file.read_bytes()))
        for _ in range(dice.randint(1, 4)):
            plain[dice.randrange(352)] = dice.choice([0, 1, 127, 128, 255, dice.randrange(256)])
        file.unlink()
        file.with_suffix("").write_bytes(plain)
        fault = preprocess("check", data).fault(first.name)
        if fault:
            faults.append(f"{file.name} {bytes(plain[:352])!r}: {fault}")
        shutil.rmtree(data)
    assert not faults, "\n\n".join(faults)


HOSTILE = [
    *(
        "a\\b",
        "a\nb",
        "\x1b[31mred",
        "\x9b2J",
        "\u202eevil",
        "$\\frac{",
        "[red]x[bold]",
        "dir::x",
        "~root",
        " x ",
    ),
    *(
        "x" * 230,
        "é" * 100,
        "-rf",
        "*",
        "%s%n",
        "\udcff\udcfe",
        "CON",
        "a'b\"c",
        "{0.__class__}",
    ),
]


def test_hostile_names_are_stored_or_named(
    cohort: Path, preprocess: Commands, tmp_path: Path
) -> None:
    data, path = tmp_path / "data", tmp_path / "some.zarr"
    case = min(p for p in cohort.iterdir() if p.is_dir())
    for name in HOSTILE:
        (data / name).mkdir(parents=True)
        for file in case.iterdir():
            shutil.copyfile(file, data / name / file.name.replace(case.name, name))
    for command in (("check", data), ("run", data, "--store", path), ("verify", path)):
        done = preprocess(*command)
        assert not (fault := done.fault("a case id that is")), f"{command[0]}: {fault}"
        if command[0] != "verify":
            lines = done.text.splitlines()
            unsafe = [name for name in HOSTILE if name_fault(name)]
            shown = [
                show(name.encode(errors="surrogateescape").decode(errors="backslashreplace"))
                for name in unsafe
            ]
            unnamed = [name for name in shown if not any(name in line for line in lines)]
            assert not unnamed, (command[0], unnamed, done.text)
    stored = {path.name for path in (path / "cases").iterdir() if path.is_dir()}
    assert stored == {name for name in HOSTILE if not name_fault(name)}


def test_a_damaged_run_is_named(stored: Path, train: Commands, tmp_path: Path) -> None:
    dice, faults, run = random.Random(SEED), [], tmp_path / "run"
    split = "splits={kind: fractions, train: 0.6, val: 0.2, test: 0.2}"
    execute(begun(Store.open(str(stored)), run, "loader=torch", split))
    names = [f.relative_to(run) for f in files_of(run) if "tfevents" not in f.name]
    for index, (name, damage) in enumerate(
        sampled(dice, names, 10, 6, [flipped, *STRUCTURAL[:-1]])
    ):
        copy = tmp_path / "copy"
        shutil.copytree(run, copy)
        damage(dice, copy / name)
        commands = [
            ("evaluate", copy, "--split", "test"),
            ("run", "--store", stored, "--out", copy, "--resume"),
        ]
        if fault := train(*commands[index % 2]).fault(name.name, str(copy)):
            faults.append(f"{commands[index % 2][0]} {damage.__name__} {name}: {fault}")
        shutil.rmtree(copy)
    assert not faults, "\n\n".join(faults)
