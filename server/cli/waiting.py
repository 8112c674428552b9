"""Work that the registry does while somebody waits: followed to its end, and what came of it told."""

from typing import TYPE_CHECKING

from server.cli.output import fail, job_bar, say, show_table, text_of_bytes, text_of_figure

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from server.client import RegistryClient
    from server.schemas.catalogue import Choice, Job, Variant

    Screen = Callable[[str], AbstractContextManager[Callable[[Job], None]]]

CHOICE_COLUMNS = ("profile", "gets", "runtime", "p95 ms", "metric", "drop", "download")
INTERRUPTED = 130  # as a shell says of a program that Ctrl-C ended


def follow(client: "RegistryClient", job_id: str, label: str, *, failed: str = "", screen: "Screen" = job_bar) -> "Job":
    """Wait for a job, its progress on stderr; when it fails, the program ends with `failed` and the job's sentence."""
    from server.client import RegistryClientError  # noqa: PLC0415  httpx: `--help` must not wait for it

    try:
        with screen(label) as told:
            return client.wait_for_job(job_id, progress=told)
    except RegistryClientError as exc:
        raise RegistryClientError(exc.code, f"{failed}{exc.message}", exc.status) from exc
    except KeyboardInterrupt:
        fail(
            f"{label} goes on in the registry: `edge-registry job show {job_id} --wait` follows it, "
            f"`edge-registry job cancel {job_id}` ends it.",
            exit_code=INTERRUPTED,
        )


def show_choices(client: "RegistryClient", name: str, version: str, *, profile: str | None = None) -> None:
    """What a profile, or each, gets of a version with the figures that people decide on, and why others get nothing."""
    chosen = {variant.profile: variant for variant in client.list_variants(name, version) if variant.chosen}
    found = [one for one in client.list_choices(name, version) if profile in {None, one.profile}]
    rows = [_row(choice, chosen.get(choice.profile)) for choice in found]
    show_table(CHOICE_COLUMNS, rows, empty="no profile has been judged yet: `edge-registry variant build`")
    for sentence in refusals(found):
        say(sentence)


def refusals(choices: "list[Choice]") -> list[str]:
    """Why profiles get nothing, a sentence each."""
    return [choice.refusal.sentence for choice in choices if choice.refusal]


def _row(choice: "Choice", variant: "Variant | None") -> tuple[str, ...]:
    if variant is None:
        return (choice.profile, "no variant", "-", "-", "-", "-", "-")
    return (
        choice.profile,
        f"{variant.recipe} ({variant.verdict})",
        f"{variant.runtime}/{variant.delegate}",
        text_of_figure(variant.latency_p95_ms),
        text_of_figure(variant.metric),
        text_of_figure(variant.metric_drop, 2),
        text_of_bytes(variant.wire_bytes),
    )
