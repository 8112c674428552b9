"""The documents: every relative link leads somewhere, and pages that repeat the code are in step with it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"!?\[[^\]]*\]\(([^()\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
OUTSIDE = ("http://", "https://", "mailto:")


def listed(pattern: str) -> list[Path]:
    done = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", pattern],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return sorted(ROOT / name for name in set(done.stdout.split("\0")) - {""} if (ROOT / name).is_file())


def anchors(page: Path) -> set[str]:
    """The anchors of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", listed("*.md"), ids=lambda page: str(page.relative_to(ROOT)))
def test_page_relative_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if link.startswith(OUTSIDE):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_every_page_of_docs_is_linked_from_an_index_that_the_first_one_links() -> None:
    """A folder may have an index of its own."""
    linked = {ROOT / "docs" / "index.md"}
    for index in (ROOT / "docs" / "index.md", *sorted((ROOT / "docs").glob("*/index.md"))):
        if index in linked:
            linked |= {
                (index.parent / link.partition("#")[0]).resolve() for link in LINK.findall(index.read_text("utf-8"))
            }
    pages = {page for page in listed("docs/*.md") if page.parent.name != "adr"}
    assert sorted(str(page.relative_to(ROOT)) for page in pages - linked) == []


@pytest.mark.parametrize("script", ["cli_reference.py", "recipe_book.py"])
def test_reference_pages_are_in_step_with_the_code(script: str) -> None:
    command = [sys.executable, f"tooling/{script}", "--check"]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), f"run {command[1]}\n{done.stdout}{done.stderr}"
