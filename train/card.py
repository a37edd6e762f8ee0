"""The model card: what a model was trained on, how it scored, and what it is not for."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.files import read_json
from common.task import title
from train.loaded_run import Trained, suffix, to_predict
from train.results import metrics_of
from train.run_folder import read_run_file
from train.score_table import heading_of

SPLITS = ("test", "val")
"""Whose scores a card has."""

SHOWN = ("dice", "hd95_mm", "lesion_dice")
"""Metrics of `card.md`; `card.json` has all."""

LIMITS = (
    "For research only: this is no medical device, and no decision about a patient may rest on it.",
    "It expects images of one session that are registered to each other, with the skull removed "
    "and 0 outside the brain.",
    "Its scores hold for cases as those of its split. Another scanner, protocol, disease or age "
    "can lower them without a sign of it.",
    "It segments what is in every image: a healthy brain gets a mask too, if the network errs.",
)


def model_card(run_dir: Path, trained: Trained) -> dict[str, Any]:
    """What is known of a run's model, without names of cases and paths."""
    config, manifest, task = trained.config, trained.manifest, trained.manifest.task
    run = read_run_file(run_dir)
    sizes = {name: len(cases) for name, cases in run.cases.items()}
    predicting, changes = to_predict(trained, run_dir)
    names = {split: f"evaluation-{split}{suffix(trained.which, changes)}.json" for split in SPLITS}
    scores = [_scores(run_dir / name, trained, split) for split, name in names.items()]
    return {
        "network": config.model.kind,
        "parameters": sum(value.numel() for value in trained.weights.values()),
        "task": task.name,
        "modalities": list(config.modalities_of(task)),
        "regions": {region: list(members) for region, members in task.regions.items()},
        "labels": task.labels,
        "cohort": manifest.name,
        "cases": sizes,
        "spacing_mm": manifest.spacing_mm,
        "window_voxels": list(manifest.crop),
        "epochs": trained.epochs,
        "checkpoint": trained.which,
        "weights": config.weights_used,
        "postprocessing": str(predicting.inference.postprocess),
        "scores": [each for each in scores if each],
        "limits": list(LIMITS),
    }


def _scores(path: Path, trained: Trained, split: str) -> dict[str, Any] | None:
    """Means and intervals of a split, where it was evaluated with these weights as they are."""
    try:
        found = read_json(path)
        if (found["epochs"], found["checkpoint"]) != (trained.epochs, trained.which):
            return None
        return {
            "split": split,
            "cases": len(found["cases"]),
            "used": found["used"],
            "rules": found["rules"],
            "level": found["bootstrap"]["level"],
            "regions": {
                region: {
                    name: {key: value[key] for key in ("mean", "low", "high")}
                    for name, value in found["regions"][region]["spreads"].items()
                }
                for region in trained.manifest.task.regions
            },
        }
    except (OSError, InputError, KeyError, TypeError):  # not there, or of another version
        return None


def as_text(card: Mapping[str, Any]) -> str:
    """The card as Markdown."""
    cases = ", ".join(f"{count} {name}" for name, count in card["cases"].items())
    images = ", ".join(map(title, card["modalities"]))
    regions = "; ".join(
        f"{region} ({title(region)}): {' + '.join(_labels(card, members))}"
        for region, members in card["regions"].items()
    )
    facts = {
        "Network": f"{card['network']}, {card['parameters'] / 1e6:.1f} M parameters",
        "Task": card["task"],
        "Images": images,
        "Regions": regions,
        "Cohort": f"{card['cohort']}: {cases}",
        "Grid": f"{card['spacing_mm']:g} mm, LPS; windows of "
        f"{'×'.join(map(str, card['window_voxels']))} voxels",
        "Training": f"{card['epochs']} epochs, the {card['checkpoint']} checkpoint",
        "Weights": card["weights"],
        "Post-processing": card["postprocessing"],
    }
    lines = [f"# {card['task']} model", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in facts.items()]
    lines += ["", "## Scores", "", *_score_lines(card["scores"])]
    lines += ["", "## Limits", "", *(f"* {limit}" for limit in card["limits"])]
    return "\n".join(lines) + "\n"


def _labels(card: Mapping[str, Any], members: Sequence[int]) -> list[str]:
    return [name for name, value in card["labels"].items() if value in members]


def _score_lines(scores: Sequence[Mapping[str, Any]]) -> list[str]:
    if not scores:
        return ["Not evaluated."]
    lines = ["Over whole volumes, in the grid of each case's files.", ""]
    interval = f"{scores[0]['level']:.0%} interval by patient"
    lines += [
        f"| split | cases | region | metric | mean | {interval} |",
        "|---|---|---|---|---|---|",
    ]
    for split in scores:
        titles = {metric.name: heading_of(metric) for metric in metrics_of(split["rules"])}
        for region, metrics in split["regions"].items():
            for name in SHOWN:
                value = metrics[name]
                ends = [f"{value[end]:.3f}" for end in ("low", "high") if value[end] is not None]
                lines.append(
                    f"| {split['split']} | {split['cases']} | {region.upper()} | {titles[name]} | "
                    f"{value['mean']:.3f} | {' to '.join(ends) or '–'} |"
                )
    lines += ["", f"Lesions are counted by the rules {scores[0]['rules']}."]
    used = [f"* {split['split']}: {note}" for split in scores for note in split["used"]]
    return [*lines, "", *used] if used else lines
