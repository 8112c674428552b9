"""The report of a variant as files: a page for people in HTML and Markdown, pictures, and JSON for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined

from compressors.reporting.pictures import pictures_of
from compressors.reporting.tables import tables_of

if TYPE_CHECKING:
    from pathlib import Path

    from compressors.reporting.evidence import Evidence

JSON, HTML, MARKDOWN = "report.json", "report.html", "report.md"


def write_report(folder: Path, evidence: Evidence) -> list[str]:
    """Write all files of a report into a folder; the HTML page needs none of the others.

    Args:
        folder: is made where it does not exist.
        evidence: what was found about the variant.

    Returns:
        The names of the files.
    """
    pictures = pictures_of(evidence)
    files = {f"{name}.svg": svg for name, svg in pictures.items()}
    files[JSON] = evidence.model_dump_json(indent=2)
    said = {"evidence": evidence, "tables": tables_of(evidence), "pictures": pictures}
    environment = Environment(
        loader=PackageLoader("compressors.reporting"),
        autoescape=True,  # Markdown shows entities as HTML does
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = _cell
    files |= {name: environment.get_template(f"{name}.jinja").render(said) for name in (HTML, MARKDOWN)}
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(content, "utf-8")
    return sorted(files)


def _cell(text: str) -> str:
    """Text that stays inside a cell of a Markdown table, whatever a layer or a class is called."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|")
