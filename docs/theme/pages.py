"""Pages that MkDocs makes from the code and from files beside docs/, and links to those files."""

import os
import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path, PurePosixPath

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pydantic import BaseModel
from typer.cli import get_docs_for_click

import preprocess.cli
import train.cli
from common.annotated import in_yaml, keys_of
from common.manifest import Manifest
from common.splits import FoldSplits, ListSplits
from train.config import TrainConfig, preset_names
from train.networks import DynUNetConfig, PlainConvUNetConfig
from train.optimizers import AdamWConfig, SGDConfig

ROOT = Path(__file__).parents[2]
SOURCES = {
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}
"""Pages that are files beside docs/."""
PAGES = {source: page for page, source in SOURCES.items()} | {
    "data_manifest.yaml": "manifest.md",
    "docs/decisions": "decisions/0001-crop-and-whole-volumes.md",
    "train/config.py": "presets.md",
    "train/presets": "presets.md",
}
"""Where a link to a file or folder of the repository leads; others become its name."""
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s#]+)(#[^()\s]*)?\)")
MANIFEST = """# The manifest

`data_manifest.yaml` beside the cases describes a cohort. What it leaves out has the default, and
`--set crop=[96,96,96]` changes a value for one command of `fmnet-preprocess`.
"""
SETTINGS = """# Training settings

`fmnet-train run` takes a preset, or a YAML file with these keys; `--set optimizer.lr=1e-3` changes
one. `fmnet-train config fm_net` prints all of them with their values, as a file to start from.
"""
LIST_OF_COMMANDS = re.compile(r"\*\*Commands\*\*:\n\n(?:\* .*\n)+")
"""In the help of all commands, each with half a sentence; their headings are the same list."""
KINDS: dict[str, tuple[BaseModel, ...]] = {
    "model": (DynUNetConfig(), PlainConvUNetConfig()),
    "optimizer": (AdamWConfig(), SGDConfig()),
    "splits": (FoldSplits(kind="folds"), ListSplits(kind="lists")),
}
"""Groups with other keys than by default, by their `kind`."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List every decision."""
    decisions = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    config.nav = [*(config.nav or ()), {"Decisions": [f"decisions/{d.name}" for d in decisions]}]
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages that are made."""
    made = {page: (ROOT / source).read_text("utf-8") for page, source in SOURCES.items()}
    made |= {"commands.md": _commands(), "manifest.md": _manifest(), "presets.md": _presets()}
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links to the repository's files lead to pages, or become names of files."""
    here = page.file.src_uri
    folder = PurePosixPath(SOURCES.get(here, f"docs/{here}")).parent

    def replaced(link: re.Match[str]) -> str:
        image, text, target, anchor = link.groups(default="")
        if ":" in target:
            return link[0]
        path = os.path.normpath(folder / target)
        if not (ROOT / path).exists():
            raise PluginError(f"{here}: a link to {target}, which is not there")
        found = PAGES.get(path)
        if found is None and path.startswith("docs/") and (ROOT / path).is_file():
            found = path.removeprefix("docs/")
        if found is None:
            return text
        return f"{image}[{text}]({os.path.relpath(found, PurePosixPath(here).parent)}{anchor})"

    return LINK.sub(replaced, markdown)


def _commands() -> str:
    lines = ["# The command line", "", "As `--help` prints it.", ""]
    for name, app in (("fmnet-preprocess", preprocess.cli.app), ("fmnet-train", train.cli.app)):
        command = typer.main.get_command(app)
        text = get_docs_for_click(obj=command, ctx=typer.Context(command), name=name)
        text = LIST_OF_COMMANDS.sub("", text.replace("```console\n$ ", "```\n"))
        lines.append(re.sub(r"^#", "##", text, flags=re.M))
    return "\n".join(lines)


def _manifest() -> str:
    return "\n".join([MANIFEST, *_tables(Manifest(), "")])


def _presets() -> str:
    lines = [SETTINGS, *_tables(TrainConfig(), "")]
    for name in preset_names():
        text = resources.files("train.presets").joinpath(f"{name}.yaml").read_text("utf-8")
        lines += [f"## Preset {name}", "", "```yaml", text.rstrip(), "```", ""]
    return "\n".join(lines)


def _tables(settings: BaseModel, prefix: str) -> Iterator[str]:
    """A table of each group's keys."""
    keys = keys_of(type(settings))
    yield "| key | meaning | values | default |\n|---|---|---|---|"
    for name, key in keys.items():
        if not key.is_group:
            allowed = key.allowed.replace(" | ", ", ")
            has_default = key.default is not None or "null" in allowed
            default = f"`{in_yaml(key.default)}`" if has_default else ""
            yield f"| `{prefix}{name}` | {key.meaning} | {allowed} | {default} |"
    yield ""
    for name, key in keys.items():
        if key.is_group:
            yield f"## {prefix}{name}\n\n{key.meaning}\n"
            yield from _tables(getattr(settings, name), f"{prefix}{name}.")
    for name, others in KINDS.items():
        for other in others if name in keys else ():
            kind = other.model_dump()["kind"]
            yield f"## {prefix}{name}.kind={kind}\n"
            yield from _tables(other, f"{prefix}{name}.")
