"""The report of a variant as files: a page for people in HTML and Markdown, pictures, and JSON for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined

from compressors.report.pictures import pictures_of
from compressors.report.tables import tables_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from compressors.evidence import Evidence, ParetoPoint

JSON, HTML, MARKDOWN = "report.json", "report.html", "report.md"


def write_report(folder: Path, evidence: Evidence, points: Sequence[ParetoPoint] = ()) -> Path:
    """Write all files of a report into a folder; the HTML page, which needs none of the others.

    Args:
        folder: is made where it does not exist.
        evidence: what was found about the variant.
        points: the other candidates, for the picture of what can be had.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures = pictures_of(evidence, points)
    for name, svg in pictures.items():
        (folder / f"{name}.svg").write_text(svg)
    (folder / JSON).write_text(evidence.model_dump_json(indent=2))
    said = {"evidence": evidence, "tables": tables_of(evidence), "pictures": pictures}
    environment = Environment(
        loader=PackageLoader("compressors.report"),
        autoescape=True,  # Markdown shows entities as HTML does
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = _cell
    for name in (HTML, MARKDOWN):
        (folder / name).write_text(environment.get_template(f"{name}.jinja").render(said))
    return folder / HTML


def _cell(text: str) -> str:
    """Text that stays inside a cell of a Markdown table, whatever a layer or a class is called."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|")
