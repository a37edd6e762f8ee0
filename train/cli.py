"""`fmnet-train`: from a store to a trained model, its scores and its predictions."""

import os
import shlex
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from common import console, hints
from common.alike import finding_lines
from common.console import err, out
from common.manifest import load_manifest, manifest_path
from common.outputs import check_output
from common.store import Store, is_remote, local_copy

if TYPE_CHECKING:
    from common.errors import Finding
    from train.ensemble import Predictor
    from train.session import Session

UNCLEAN = 1  # exit code when the work was done, but not for every case

app = typer.Typer(
    cls=console.Commands,
    help="From a store to a trained model, its scores and its predictions.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, or its model file.")]
StoreOption = Annotated[
    str | None, typer.Option(help="The store's path or URL; default is the manifest's.")
]
RunStoreOption = Annotated[
    str | None, typer.Option(help="The store's path or URL; default is the run's own.")
]
CheckpointOption = Annotated[
    Literal["best", "last"], typer.Option("--checkpoint", help="The weights to use.")
]
InferenceOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="How to predict, as in inference.flips=8."),
]
RulesOption = Annotated[
    str, typer.Option(help="How lesions count: brats2023, brats2024 or brats2026.")
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]


def main() -> None:
    """Entry point of the console script."""
    # OpenMP reads this when torch is imported: waiting threads sleep. Spinning, they took the cores
    # from the loader's workers that they waited for, and a step took seven times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    console.run(app)


@app.command()
def run(
    preset: Annotated[
        str | None,
        typer.Argument(
            metavar="[PRESET]",
            help="fm_net (the default), fm_net_tuned, unet, attention_unet, demo, or a YAML file.",
        ),
    ] = None,
    store: StoreOption = None,
    run_dir: Annotated[
        Path | None, typer.Option("--out", help="The run's folder; default runs/PRESET.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a key of the preset, as in optimizer.lr=1e-3."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume the run in --out from its checkpoint.")
    ] = False,
) -> None:
    """Train a network; Ctrl-C or SIGTERM stops with a checkpoint to --resume from.

    `tensorboard --logdir RUN` shows its curves. The splits are settings: --set fold=2.
    """
    from common.lock import hold
    from train.config import DEFAULT_PRESET
    from train.monitor import next_steps, run_summary
    from train.run import begin, execute, reopen
    from train.trainer import End

    name = preset or DEFAULT_PRESET
    folder = run_dir or Path("runs") / Path(name).stem
    opened = _store(store)
    check_output(folder, "folder")
    with hold(str(folder)):
        if resume:
            session = reopen(preset, overrides or (), opened, folder)
        else:
            session = begin(name, overrides or (), opened, folder)
        _announce(session, folder)
        end = execute(session)
    out.print(run_summary(session, end))
    for line in next_steps(session, end):
        out.print(line, soft_wrap=True)
    if end is End.STOPPED:
        raise typer.Exit(console.INTERRUPTED)


@app.command()
def config(
    source: Annotated[
        str,
        typer.Argument(metavar="[PRESET|RUN]", help="A preset, a YAML file, or a run's folder."),
    ] = "fm_net",
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a key, as in optimizer.lr=1e-3."),
    ] = None,
) -> None:
    """Print every key with its meaning and value, as YAML that `run` takes in a preset's place."""
    from common.annotated import annotated_yaml
    from train.config import load_config
    from train.run_folder import check_run, read_config

    if Path(source).is_dir():
        check_run(Path(source))
        chosen = read_config(Path(source), overrides or ())
    else:
        chosen = load_config(source, overrides or ())
    print(annotated_yaml(chosen), end="")  # noqa: T201 - for `run` to read


@app.command("show-augment")
def show_augment(
    preset: Annotated[
        str, typer.Argument(metavar="[PRESET]", help="A preset, or a YAML file.")
    ] = "fm_net",
    store: StoreOption = None,
    case: Annotated[
        str | None, typer.Option("--case", help="Id of the case; default: the first to train on.")
    ] = None,
    out_file: Annotated[Path, typer.Option("--out", help="The picture.")] = Path("augment.png"),
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a key, as in augment.gamma.range=[0.5,2]."),
    ] = None,
) -> None:
    """Draw what each augmentation does to a case, whatever its probability is."""
    from common.files import write_parts
    from train.config import load_config
    from train.figures.augmentations import augmentation_figure, augmentation_rows
    from train.figures.style import as_png

    config = load_config(preset, overrides or ())
    check_output(out_file, "file")
    opened = _store(store)
    case_id = case or opened.contents().split("train")[0]
    rows = augmentation_rows(opened, case_id, config.augment, config.seed)
    figure = augmentation_figure(rows, f"Augmentations of {case_id}", opened.task)
    write_parts(out_file, [as_png(figure)])
    out.print(f"written: {out_file}", soft_wrap=True)


@app.command()
def evaluate(
    run_dir: Run,
    store: RunStoreOption = None,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    rules: RulesOption = "brats2023",
    masks: Annotated[
        bool, typer.Option("--masks", help="Write the masks too, beside the scores.")
    ] = False,
    which: CheckpointOption = "best",
    device: DeviceOption = "auto",
    overrides: InferenceOption = None,
) -> None:
    """Score a run on the cases of a split; writes scores and a picture into the run's folder."""
    from train.evaluate import case_table, mean_table
    from train.evaluate import evaluate as score_split
    from train.loaded_run import load_run, store_of

    loaded = load_run(run_dir, which, device, overrides or ())
    _tell_model(loaded)
    opened = _store(store or store_of(loaded))
    with _cases("evaluating") as on_case:
        evaluation = score_split(loaded, opened, split, on_case, rules=rules, masks=masks)
    out.print(case_table(evaluation, loaded.task))
    out.print()
    out.print(mean_table(evaluation, loaded.task))
    _warn(evaluation.warnings)
    for problem in evaluation.unwritten:
        err.print(f"✗ {problem}", soft_wrap=True)
    if evaluation.unwritten:
        raise typer.Exit(UNCLEAN)
    files, figure, folder = evaluation.outputs
    out.print(f"scores:  {files.listed}", soft_wrap=True)
    out.print(f"picture: {figure}", soft_wrap=True)
    if folder:
        out.print(f"masks:   {folder}", soft_wrap=True)
    out.print(f"next: {hints.predict(run_dir, which)}", soft_wrap=True)
    if run_dir.is_dir():
        out.print(f"      {hints.run_report(run_dir)}", soft_wrap=True)


@app.command()
def tune(
    run_dir: Run,
    store: RunStoreOption = None,
    metric: Annotated[
        str, typer.Option(help="To pick by, as dice, hd95_mm, lesion_dice.")
    ] = "dice",
    split: Annotated[str, typer.Option(help="val: test cases are for the score alone.")] = "val",
    which: CheckpointOption = "best",
    device: DeviceOption = "auto",
    overrides: InferenceOption = None,
) -> None:
    """Pick thresholds and smallest volumes of each region on the validation cases.

    Written into the run's folder where they are a gain; evaluate and predict then use them.
    """
    from train.loaded_run import load_run, store_of
    from train.tune import check_split, criterion_named
    from train.tune import tune as pick

    check_split(split)
    loaded = load_run(run_dir, which, device, overrides or ())
    _tell_model(loaded)
    criterion = criterion_named(metric, loaded.task)
    opened = _store(store or store_of(loaded))
    with _cases("tuning") as on_case:
        tuning = pick(loaded, opened, criterion, on_case)
    _warn(tuning.warnings)
    out.print(f"{tuning} (of the cases that it was picked on)", soft_wrap=True)
    if tuning.file:
        out.print(f"post-processing: {tuning.config}", soft_wrap=True)
        out.print(f"written: {tuning.file}", soft_wrap=True)
        out.print(f"next: {hints.evaluate(run_dir, which)}", soft_wrap=True)
    else:
        out.print("no gain above chance, so nothing was written", soft_wrap=True)


@app.command()
def predict(
    runs: Annotated[
        str,
        typer.Argument(metavar="RUN[,RUN…]", help="A run, or several that predict together."),
    ],
    data: Annotated[
        str, typer.Argument(metavar="INPUT", help="The folder of a case, a cohort, or a store.")
    ],
    out_path: Annotated[
        Path,
        typer.Option("--out", help="The folder of the masks; or, for one case, a .nii.gz file."),
    ],
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Write the probability of each region, too.")
    ] = False,
    budget: Annotated[
        float | None,
        typer.Option(
            "--budget",
            metavar="SECONDS",
            min=0,
            help="For each case; picks overlap and flips.",
        ),
    ] = None,
    which: CheckpointOption = "best",
    device: DeviceOption = "auto",
    overrides: InferenceOption = None,
) -> None:
    """Write a NIfTI mask for every case, in its own grid, orientation and label convention.

    Labels that lie beside the images are not read. Several runs average their probabilities. Cases
    in --out that the same weights and settings made of the same images are kept.
    """
    from train.ensemble import load_runs
    from train.predict import predict as predict_cases

    predictor = load_runs(runs, which, device, overrides or ())
    _tell_model(predictor)
    with _cases("predicting") as on_case:
        done = predict_cases(
            predictor,
            data,
            out_path,
            on_case,
            probabilities=probabilities,
            budget_seconds=budget,
        )
    _tell_findings([*done.findings, *done.case_warnings])
    for case_id, reason in done.failures.items():
        err.print(f"✗ {case_id}: {reason}", soft_wrap=True)
    _warn([*done.warnings, *filter(None, [done.unnoted])])
    for line in filter(None, [done.layout, *done.legend, *done.picked]):
        out.print(line, soft_wrap=True)
    out.print(done.summary(out_path), soft_wrap=True)
    if done.written:
        mask = shlex.quote(str(next(iter(done.written.values()))))
        viewer = f"itksnap -g IMAGE -s {mask}"
        out.print(f"next: look at it in a viewer, as in: {viewer}", soft_wrap=True)
    if not done.clean or done.unnoted:
        raise typer.Exit(UNCLEAN)


@app.command()
def export(
    run_dir: Run,
    path: Annotated[
        Path, typer.Argument(metavar="FILE", help="The file to write: NAME.fmnet, or NAME.onnx.")
    ],
    file_format: Annotated[
        Literal["fmnet", "onnx"],
        typer.Option("--format", help="fmnet for this program, onnx for others."),
    ] = "fmnet",
    which: CheckpointOption = "best",
) -> None:
    """Write a run's model as one file, which needs no run and names none of its cases."""
    from train.export import export_model
    from train.onnx_file import export_onnx

    if file_format == "fmnet":
        done = export_model(run_dir, path, which)
    else:
        with _progress("exporting", "steps") as on_step:
            done = export_onnx(run_dir, path, which, on_step)
    replaced = ", in place of an earlier one" if done.replaced else ""
    out.print(f"{path}: {path.stat().st_size / 1e6:.1f} MB{replaced}", soft_wrap=True)
    for note in done.notes:
        out.print(note, soft_wrap=True)
    follows = hints.predict(path) if file_format == "fmnet" else "run it as docs/export.md says"
    out.print(f"next: {follows}", soft_wrap=True)


@app.command()
def score(
    reference: Annotated[
        Path, typer.Argument(metavar="REFERENCE", help="A folder of reference masks, or one mask.")
    ],
    prediction: Annotated[
        Path, typer.Argument(metavar="PREDICTION", help="A folder of predicted masks, or one mask.")
    ],
    out_dir: Annotated[
        Path, typer.Option("--out", help="The folder that the scores are written to.")
    ] = Path("scores"),
    rules: RulesOption = "brats2023",
    task: Annotated[
        str | None,
        typer.Option(help="The task of both, as pediatric; default is the manifest's, or glioma."),
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; default: cores.")] = None,
) -> None:
    """Score masks of any tool, with any names, against references; cases are matched by id."""
    from common.pool import available_cores
    from train import score as scoring
    from train.results import ScoreFiles
    from train.score_table import score_table

    check_output(out_dir, "folder", reference, prediction)
    plan = scoring.plan(reference, prediction, rules, task)
    settings = scoring.settings_of(reference, prediction, plan)
    files = ScoreFiles.in_folder(out_dir)
    files.check(settings)
    with _cases("scoring") as on_case:
        outcomes = scoring.score_pairs(plan, workers or available_cores())
        found = scoring.gather(plan, outcomes, on_case)
    regions = scoring.write(found, settings, files)
    _tell_findings(found.findings)
    for case_id, reason in found.failed.items():
        err.print(f"✗ {case_id}: {reason}", soft_wrap=True)
    for line in found.legend():
        out.print(line, soft_wrap=True)
    out.print()
    heading = f"Scores of {len(found.results)} case(s)"
    out.print(score_table(heading, regions, plan.shared.rules, plan.task))
    _warn(found.lines())
    out.print(f"scores: {files.listed}", soft_wrap=True)
    out.print(f"next: {hints.compare(out_dir)}", soft_wrap=True)
    if found.failed or found.missing:
        raise typer.Exit(UNCLEAN)


@app.command()
def folds(
    run_dirs: Annotated[list[Path], typer.Argument(metavar="RUN…", help="The runs of all folds.")],
    out_dir: Annotated[
        Path | None,
        typer.Option("--out", help="The folder of the scores; default: folds, beside the runs."),
    ] = None,
    rules: RulesOption = "brats2023",
    which: CheckpointOption = "best",
    device: DeviceOption = "auto",
    overrides: InferenceOption = None,
) -> None:
    """Score a cross-validation: each case by the run that was not trained on it."""
    from train.folds import cross_validate
    from train.loaded_run import load_run, store_of
    from train.score_table import score_table

    folder = out_dir or run_dirs[0].parent / "folds"
    check_output(folder, "folder")
    runs = [load_run(path, which, device, overrides or ()) for path in run_dirs]
    for loaded in runs:
        _tell_model(loaded)
    opened = _store(store_of(runs[0]))
    with _cases("evaluating") as on_case:
        found = cross_validate(runs, opened, folder, on_case, rules)
    for loaded, evaluation in zip(runs, found.evaluations, strict=True):
        out.print(
            f"{loaded.run_dir}: mean Dice {evaluation.mean.mean_dice:.3f} of "
            f"{len(evaluation.scores)} case(s)",
            soft_wrap=True,
        )
        _warn(evaluation.warnings)
    out.print()
    heading = f"{len(found.results)} case(s) out of fold"
    out.print(score_table(heading, found.regions, found.rules, runs[0].task, found.used))
    out.print(f"scores: {found.files.listed}", soft_wrap=True)
    out.print(f"next: {hints.predict(','.join(map(str, run_dirs)), which)}", soft_wrap=True)


@app.command()
def figures(
    run_dir: Run,
    out_dir: Annotated[
        Path | None, typer.Option("--out", help="The folder; default: figures, in the run's.")
    ] = None,
    store: RunStoreOption = None,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    which: CheckpointOption = "best",
    device: DeviceOption = "auto",
    overrides: InferenceOption = None,
) -> None:
    """Draw a run for print: a case, curves, the network, samples, supervision (PDF and PNG)."""
    from train.loaded_run import load_run, store_of
    from train.run_figures import draw

    loaded = load_run(run_dir, which, device, overrides or ())
    _tell_model(loaded)
    opened = _store(store or store_of(loaded))
    with _cases("evaluating") as on_case:
        drawn = draw(loaded, opened, split, out_dir, on_case)
    _warn(drawn.warnings)
    for line in drawn.left_out:
        out.print(f"left out: {line}", soft_wrap=True)
    files = drawn.files
    out.print(f"figures: {files[0]}, {', '.join(f.name for f in files[1:])}", soft_wrap=True)


@app.command()
def compare(
    scores: Annotated[
        list[Path],
        typer.Argument(
            metavar="SCORES…", help="Folders of scores, runs with an evaluation, or their files."
        ),
    ],
    out_dir: Annotated[
        Path, typer.Option("--out", help="The folder that the comparison is written to.")
    ] = Path("comparison"),
) -> None:
    """Compare scores of the same cases in pairs: each method with the first that is named."""
    from train import compare as comparing
    from train.figures.differences import difference_figure
    from train.figures.style import write_figure

    methods = comparing.open_methods(scores)
    comparing.check_outputs(out_dir, methods)
    comparison = comparing.compare(methods)
    files = comparing.write(comparison, out_dir)
    write_figure(difference_figure(comparison), out_dir / "compare")
    out.print(comparing.table_of(comparison))
    _warn(comparing.warnings(comparison))
    out.print(f"written: {files[0]}, {', '.join(f.name for f in files[1:])}", soft_wrap=True)


@app.command()
def experiment(
    name: Annotated[
        str, typer.Argument(metavar="[NAME]", help="fig4, widths, …; without it, all are listed.")
    ] = "",
    scale: Annotated[
        Literal["smoke", "small", "full"],
        typer.Option(help="smoke: try it. small: for a CPU. full: the paper's, for a GPU."),
    ] = "small",
    store: StoreOption = None,
    out_dir: Annotated[
        Path | None,
        typer.Option("--out", help="The experiment's folder; default experiments/NAME-SCALE."),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="A variant; repeatable. Default: all.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Runs of each variant.")] = None,
    folds: Annotated[
        int | None,
        typer.Option(min=2, help="Score all cases by so many folds, not the test cases."),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a key of every run, as in epochs=3."),
    ] = None,
    slurm: Annotated[
        bool, typer.Option("--slurm", help="Print a script for sbatch; nothing is trained.")
    ] = False,
    task: Annotated[
        int | None, typer.Option(min=0, help="Do the run of this number alone, as --slurm does.")
    ] = None,
) -> None:
    """Do an experiment, most of them the paper's: train, score, compare; a table and a figure.

    Run it again to go on where it was interrupted.
    """
    from train.experiments import command
    from train.experiments.files import check_outputs, gather, write
    from train.experiments.runs import plan, slurm_script
    from train.trainer import End

    if not name:
        out.print(command.list_of_experiments())
        return
    folder = out_dir or Path("experiments") / f"{name}-{scale}"
    path = store or load_manifest(manifest_path(None, Path())).store
    planned = plan(
        name, scale, path, folder, seeds=seeds, folds=folds, overrides=tuple(overrides or ())
    )
    check_outputs(planned)
    runs = planned.runs(only or ())
    if slurm:
        repeated = command.repeated(planned, seeds, only or ())
        out.print(slurm_script(planned, len(runs), repeated), soft_wrap=True, end="")
        return
    opened = _store(store)
    contents, chosen = opened.contents(), command.chosen(runs, task)
    end, problems = command.do_runs(planned, chosen, opened, contents.fingerprint, _cases)
    if task is None:
        results = gather(planned, opened.task, contents, problems)
        files = write(results)
        command.show(results)
        out.print(f"written: {files[0]}, {', '.join(f.name for f in files[1:])}", soft_wrap=True)
        if drawn := command.draw_run(results, opened, _cases):
            out.print(f"figures of a run: {drawn}", soft_wrap=True)
    if end is End.STOPPED:
        raise typer.Exit(console.INTERRUPTED)
    if problems:
        raise typer.Exit(UNCLEAN)


@app.command()
def report(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN…", help="Runs, or files of the evaluations to show of them."),
    ],
    out_file: Annotated[
        Path | None,
        typer.Option("--out", help="The page; default: report.html in the run's folder."),
    ] = None,
    cases: Annotated[
        int, typer.Option(min=0, help="Predict so many of the worst again, to view their slices.")
    ] = 10,
    store: Annotated[
        str | None, typer.Option(help="Where the evaluations' store is now, if it has moved.")
    ] = None,
    device: DeviceOption = "auto",
    serving: Annotated[
        bool, typer.Option("--serve", help="Serve it to browsers of this machine until Ctrl-C.")
    ] = False,
) -> None:
    """Write a page of runs: scores, curves, every case, calibration, misses, settings."""
    from train import report as reporting
    from train.report.facts import read_runs
    from train.report.predictions import Wanted
    from train.report.serve import cases_folder, serve

    found = read_runs(runs)
    page = out_file or reporting.default_path(found)
    check_output(page, "file")
    check_output(cases_folder(page), "folder")
    _warn(reporting.write(found, page, Wanted(cases, device, store), _cases))
    for run in found:
        if not run.evaluation:
            out.print(f"{run.name} has no scores yet: {hints.evaluate(run.folder)}", soft_wrap=True)
    out.print(f"open {page} ({page.stat().st_size / 1e6:.1f} MB)", soft_wrap=True)
    if serving:
        with suppress(KeyboardInterrupt):  # the way to end it
            serve(page, lambda address: out.print(f"or {address}; Ctrl-C ends", soft_wrap=True))


def _store(path: str | None) -> Store:
    """The store to read, copied to this machine if it is remote."""
    chosen = path or load_manifest(manifest_path(None, Path())).store
    if not is_remote(chosen):
        return Store.open(chosen)
    with _cases("copying the store") as on_case:
        return local_copy(chosen, on_case)


@contextmanager
def _progress(doing: str, things: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar over things, moved by (things done, things in all)."""
    with console.progress(things) as bar:
        task = bar.add_task(doing, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _cases(doing: str) -> AbstractContextManager[Callable[[int, int], None]]:
    return _progress(doing, "cases")


def _tell_model(predictor: "Predictor") -> None:
    """Say which weights predict and how probabilities become labels, where it is not the usual."""
    for member in predictor.members:
        if member.config.ema is not None:
            out.print(f"weights of {member.run_dir}: {member.config.weights_used}", soft_wrap=True)
    if str(predictor.postprocess) != "none":
        out.print(f"post-processing: {predictor.postprocess}", soft_wrap=True)


def _tell_findings(findings: Iterable["Finding"]) -> None:
    for line in finding_lines(findings):
        err.print(line, soft_wrap=True)


def _warn(warnings: Iterable[str]) -> None:
    for warning in warnings:
        err.print(f"warning: {warning}", soft_wrap=True)


def _announce(session: "Session", folder: Path) -> None:
    from train.networks import parameter_count
    from train.trainer import ended

    config, store = session.config, session.store
    size = parameter_count(session.model.parameters())
    crop = "×".join(str(side) for side in store.crop)
    out.print(
        f"store {store.path}: {len(session.training)} training and {len(session.validation)} "
        f"validation cases, crops of {crop}",
        soft_wrap=True,
    )
    out.print(
        f"network of {size / 1e6:.1f} M parameters ({config.model.kind}); "
        f"{session.compute.describe()}; {config.loader} loader → {folder}",
        soft_wrap=True,
    )
    for line in session.start.lines if session.start else ():
        out.print(line, soft_wrap=True)
    _warn(session.splits.messages)
    if session.compute.note:
        _warn([session.compute.note])
    if ended(session):
        out.print("nothing is left to train: this run has ended already")
    elif session.at.epoch > 1 or session.at.samples:
        out.print(f"resuming in epoch {session.at.epoch}, after {session.at.samples} samples of it")
