"""The documentation: its pages, which need no network, and its commands, which run as written."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from browsers import opened_browser, wait
from selenium.webdriver.common.by import By

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
GUIDES = [
    "tutorial",
    "own-data",
    "small-cohorts",
    "slurm",
    "s3",
    "predict",
    "fine-tuning",
    "scoring",
    "export",
]
BLOCK = re.compile(r"^(<!-- not run: .+ -->\n)?^```(\w*)\n(.*?)^```$", re.M | re.S)
LOADED = re.compile(
    r"""<(?:script|img|link|iframe|source)\b[^>]*(?:src|href)=["']?(?:https?:)?//[^>]*"""
)

SCRIPT = """#!{bash}
# A command of the pages, on tiny cases and a tiny network.
tiny=()
case "$1" in
  phantom) tiny=(--size 32,40,36) ;;
  run) tiny=({settings}) ;;
esac
exec {python} -m {module} "$@" "${{tiny[@]}}"
"""
TRAINING = (
    "model.widths=[4,8]",
    "model.heads=1",
    "model.bottleneck=0",
    "epochs=1",
    "validate_every=1",
    "batch_size=4",
    "loader=torch",
    "workers=1",
    "precision=fp32",
    "device=cpu",
    "inference.overlap=0",
)


def blocks(page: str) -> list[str]:
    """The shell blocks of a page, but for those that say why they are not run."""
    text = (DOCS / f"{page}.md").read_text("utf-8")
    found = BLOCK.findall(text)
    return [code for reason, language, code in found if not reason and not language]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


@pytest.mark.slow
def test_pages_load_nothing_from_elsewhere_and_list_every_command_and_key(site: Path) -> None:
    pages = {page.name: page.read_text("utf-8") for page in site.rglob("*.html")}
    assert len(pages) > 30
    for name, text in pages.items():
        loaded = LOADED.findall(text)
        assert not loaded, (name, loaded)
    for word in ("fmnet-preprocess verify", "fmnet-train predict", "--drop-absent"):
        assert word in pages["commands.html"]
    assert "augment.noise.range" in pages["presets.html"]
    assert "cluster.walltime" in pages["manifest.html"]


@pytest.mark.slow
@pytest.mark.parametrize("width", [1400, 400])
def test_the_search_works_in_pages_that_are_opened_as_files(
    site: Path, tmp_path: Path, width: int
) -> None:
    with opened_browser(tmp_path / "profile") as browser:
        browser.set_window_size(width, 1000)
        browser.get((site / "index.html").as_uri())
        if width < 1000:
            browser.find_element(By.CSS_SELECTOR, "label[for=__search].md-header__button").click()
        field = browser.find_element(By.CSS_SELECTOR, "input.md-search__input")
        wait(browser, lambda _: field.is_displayed())
        field.send_keys("modality_dropout")
        found = "a.md-search-result__link[href*='presets.html']"
        wait(browser, lambda b: b.find_elements(By.CSS_SELECTOR, found))


def _take_cases(work: Path) -> None:
    """Some of the tutorial's cases as a reader's own, who has a manifest without splits."""
    (work / "cases").mkdir()
    for case in sorted((work / "phantoms").glob("BraTS-*"))[:8]:
        shutil.copytree(case, work / "cases" / case.name)
    shutil.copytree(case, work / "new-cases" / case.name)
    (work / "cases" / "data_manifest.yaml").write_text("crop: [16, 16, 16]\n")


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_commands_of_the_guides_run_in_order(tmp_path: Path) -> None:
    """From the tutorial's first case on; the other guides find the phantoms as `cases`."""
    programs, work = tmp_path / "bin", tmp_path / "work"
    programs.mkdir()
    work.mkdir()
    settings = " ".join(f"--set '{setting}'" for setting in TRAINING)
    for module, options in (("preprocess", ""), ("train", settings)):
        program = programs / f"fmnet-{module}"
        names = {"bash": shutil.which("bash"), "python": sys.executable, "module": module}
        program.write_text(SCRIPT.format(settings=options, **names))
        program.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }
    for page in GUIDES:
        for block in blocks(page):
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", block],
                cwd=work,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=600,
            )
            assert done.returncode == 0, f"{page}.md:\n{block}\n{done.stdout}\n{done.stderr}"
        if page == "tutorial":
            _take_cases(work)
    assert (work / "runs" / "demo" / "report.html").stat().st_size
    assert list((work / "ensemble").glob("*.nii.gz"))
    assert (work / "comparison" / "compare.csv").stat().st_size
