"""`python -m benchmarks`, from a checkout: everything that only measures."""

import os
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from common import console
from common.console import out

app = typer.Typer(
    cls=console.Commands,
    help="Measure training, preprocessing and the loaders on this machine.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

CORES = len(os.sched_getaffinity(0))
DEFAULT_CACHE = Path(tempfile.gettempdir(), "peers")

Processes = Annotated[int, typer.Option(min=1, help="Worker processes of each tool.")]
Cache = Annotated[Path, typer.Option(help="Holds the other tools' environments.")]
JsonFile = Annotated[Path, typer.Option("--out", help="The JSON file to write.")]


@app.command()
def training(
    preset: Annotated[
        str, typer.Argument(metavar="[PRESET]", help="Of the section pipeline, or a YAML file.")
    ] = "fm_net",
    store: Annotated[
        str | None, typer.Option(help="Path or URL; without it synthetic cases are generated.")
    ] = None,
    crop: Annotated[int, typer.Option(min=16, help="Side of synthetic crops, in voxels.")] = 128,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a key of the preset, as in workers=4."),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="A section; repeatable. Default: all for the device.")
    ] = None,
    minutes: Annotated[float, typer.Option(min=0, help="Time for all sections.")] = 20.0,
    dry: Annotated[
        bool, typer.Option("--dry-run", help="Try every section on tiny networks.")
    ] = False,
    out_path: Annotated[
        str | None, typer.Option("--out", help="A JSON file for raw timings, or a folder/.")
    ] = None,
) -> None:
    """Measure training: steps, loaders, both together, peers, inference (make bench)."""
    from benchmarks import sections
    from train.precision import choose_compute

    where = choose_compute(device, "auto").device
    chosen = sections.choose(only or (), where, dry=dry)
    with sections.prepared(
        where, store or "", crop, dry=dry, minutes=minutes, out_path=out_path
    ) as (opened, figures):
        out.print(sections.headline(figures.content), soft_wrap=True)

        def bench(until: float) -> sections.Bench:
            return sections.Bench(where, opened, until, dry, preset, tuple(overrides or ()))

        clean = sections.run_sections(chosen, minutes, bench, figures)
    if figures.file:
        out.print(f"figures: {figures.file}", soft_wrap=True)
    if not clean:
        raise typer.Exit(1)


@app.command()
def preprocessing(
    data: Annotated[Path, typer.Argument(help="A folder of BraTS cases.")],
    out_path: JsonFile,
    processes: Processes = CORES,
    copies: Annotated[int, typer.Option(help="Take each case so many times.")] = 1,
    repeats: Annotated[int, typer.Option(help="Turns of each tool.")] = 3,
    cache: Cache = DEFAULT_CACHE,
) -> None:
    """Measure preprocessing by FM-Net, nnU-Net v2 and NVIDIA's nnU-Net."""
    from benchmarks.preprocessing import compare

    compare(data, out_path, processes, copies, repeats, cache.resolve())


@app.command()
def loaders(
    store: Annotated[Path, typer.Argument(help="A store with crops of 128³.")],
    out_path: JsonFile,
    processes: Processes = CORES,
    epoch: Annotated[int, typer.Option(help="Cases; the store's, repeatedly.")] = 24,
    samples: Annotated[int, typer.Option(help="Of later epochs, in each turn.")] = 96,
    turns: Annotated[int, typer.Option(help="Of each loader.")] = 3,
    cache: Cache = DEFAULT_CACHE,
) -> None:
    """Measure FM-Net's loaders and those of others, on a CPU."""
    from benchmarks.loaders import compare

    compare(store, out_path, processes, epoch, samples, turns, cache.resolve())


@app.command()
def scale(
    folder: Annotated[Path, typer.Argument(help="New or empty; takes about 80 kB a case.")],
    cases: Annotated[list[int] | None, typer.Option(help="A cohort's size; repeatable.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Of each run.")] = 2,
    out_path: Annotated[Path | None, typer.Option("--out", help="A JSON file.")] = None,
) -> None:
    """Measure preprocessing as a cohort grows; default 250, 500, 1000 and 2000 cases."""
    from benchmarks.scale import measure_sizes

    measure_sizes(folder, sorted(cases or (250, 500, 1000, 2000)), workers, out_path)


PUBLISHED = "A checkout of the challenge's scoring code of "


@app.command()
def scores(
    published_2023: Annotated[Path, typer.Argument(help=PUBLISHED + "2023.")],
    cache: Cache = DEFAULT_CACHE,
) -> None:
    """Measure scoring beside the challenge's published code."""
    from benchmarks.reference_scores import measure

    measure(published_2023, cache.resolve())


@app.command()
def reference_scores(
    published_2023: Annotated[Path, typer.Argument(help=PUBLISHED + "2023.")],
    published_2024: Annotated[Path, typer.Argument(help=PUBLISHED + "2024.")],
    out_path: JsonFile,
    cache: Cache = DEFAULT_CACHE,
) -> None:
    """Compute others' scores of the seeded cases, for tests/common/reference_scores.json."""
    from benchmarks.reference_scores import make

    make(out_path, published_2023, published_2024, cache.resolve())


@app.command()
def inference(
    case: Annotated[Path, typer.Argument(help="The folder of a case.")],
    out_path: JsonFile,
    run: Annotated[
        Path | None, typer.Option(help="A run; without it FM-Net at full width, not trained.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    minutes: Annotated[float, typer.Option(min=0, help="Ways for which none are left wait.")] = 60,
    dry: Annotated[
        bool, typer.Option("--dry-run", help="Try every way on a tiny network.")
    ] = False,
) -> None:
    """Measure ways to predict one whole case: overlap, views, bf16, MONAI's sliding window."""
    from benchmarks.whole_case import compare

    compare(case, out_path, run, device, minutes, dry=dry)


@app.command()
def missing(
    folder: Annotated[Path, typer.Argument(help="Where phantoms, store and runs are kept.")],
    out_path: JsonFile,
    epochs: Annotated[int, typer.Option(min=1, help="Of each run.")] = 40,
) -> None:
    """Measure Dice with each image missing, with and without modality dropout in training."""
    from benchmarks.missing import compare

    compare(folder, out_path, epochs)


@app.command()
def windows(
    store: Annotated[Path, typer.Argument(help="Its labelled cases are read.")],
    turns: Annotated[int, typer.Option(min=1, help="The best of each figure counts.")] = 3,
) -> None:
    """Measure what random windows cost either loader beside stored crops, on a CPU."""
    from benchmarks.windows import compare

    compare(store, turns)


def main() -> None:
    """Run the command line."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as fmnet-train; before torch is imported
    console.run(app)


if __name__ == "__main__":
    main()
