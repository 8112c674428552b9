"""A variant for people: a row to decide by, a row with everything, and a page on which each number says its origin."""

from typing import TYPE_CHECKING, Final

from server.cli.output import (
    say,
    show_table,
    text_of_bytes,
    text_of_figure,
    text_of_number,
    text_of_step,
    text_of_time,
)

if TYPE_CHECKING:
    from server.schemas.catalogue import Variant, VariantDelta
    from server.schemas.common import Figure

# together under 100 columns with the names that come with Shoal
LIST_COLUMNS: Final = ("", "profile", "recipe", "runtime", "verdict", "p95 ms", "metric", "drop", "wire")
WIDE_COLUMNS: Final = ("p50 ms", "load ms", "ram", "file", "agrees", "int8 ops", "partitions", "MACs", "variant", "why")

COUNTED: Final = "counted"  # the origin of what is not measured: read from the file itself


def list_row(variant: "Variant") -> tuple[str, ...]:
    """What people decide by."""
    return (
        "*" if variant.chosen else "",
        variant.profile,
        variant.recipe,
        f"{variant.runtime}/{variant.delegate}",
        variant.verdict,
        text_of_figure(variant.latency_p95_ms),
        text_of_figure(variant.metric),
        text_of_number(variant.metric_drop.value if variant.metric_drop else None, 2),  # its origin is the metric's
        text_of_bytes(variant.wire_bytes),
    )


def wide_row(variant: "Variant") -> tuple[str, ...]:
    """All the rest."""
    return (
        text_of_figure(variant.latency_p50_ms),
        text_of_figure(variant.load_ms),
        _bytes_of(variant.peak_rss_bytes),
        text_of_bytes(variant.raw_bytes),
        text_of_figure(variant.agreement),
        _quantized(variant),
        _count(variant.delegate_partitions),
        _count(variant.macs),
        variant.variant_id,
        variant.reason,
    )


def show_variant(variant: "Variant", *, metric: str, choice: str = "", layers: bool = False) -> None:
    """The page; `choice`: why the profile gets what it gets, `layers`: with what each step did to each."""
    say(f"{variant.model}@{variant.version} for {variant.profile}: {variant.variant_id}")
    chosen = "chosen, " if variant.chosen else "not chosen, "
    say(f"{chosen}{variant.verdict}{': ' if variant.reason else ''}{variant.reason}")
    if choice:
        say(choice)
    say("")
    show_table(("figure", "value", "95 % interval", "origin"), _figures(variant, metric))
    say("")
    for name, value in _names(variant):
        say(f"{name:<9}  {value}")
    if variant.deltas:
        say("")
        show_table(
            ("delta from", "download", "of the whole", "memory"), [_delta(one, variant) for one in variant.deltas]
        )
    if variant.steps:
        say("")
        steps = [
            (text_of_step(one.step, one.parameters), text_of_number(one.seconds, 3), one.summary)
            for one in variant.steps
        ]
        show_table(("step", "s", "what it did"), steps)
    touched = [(one.step, layer, what) for one in variant.steps for layer, what in one.layers.items()]
    if layers:
        say("")
        show_table(("step", "layer", "what it did"), touched, empty="no step says what it did to a layer")


def _delta(delta: "VariantDelta", variant: "Variant") -> tuple[str, ...]:
    base = f"{delta.base_version} {delta.base_variant_id}" if delta.base_version else delta.base_manifest_sha256[:12]
    if delta.wire_bytes is None:
        return base, "not worthwhile", "", ""
    share = f"{delta.wire_bytes / variant.wire_bytes:.1%}" if variant.wire_bytes else ""
    return base, text_of_bytes(delta.wire_bytes), share, text_of_bytes(delta.memory_bytes)


def _figures(variant: "Variant", metric: str) -> list[tuple[str, ...]]:
    measured = (
        ("latency p50", variant.latency_p50_ms, " ms"),
        ("latency p95", variant.latency_p95_ms, " ms"),
        ("load", variant.load_ms, " ms"),
        (f"{metric} on test", variant.metric, ""),
        ("drop against float", variant.metric_drop, ""),
        ("agreement with float", variant.agreement, ""),
    )
    counted = (
        ("file", text_of_bytes(variant.raw_bytes)),
        ("download", text_of_bytes(variant.wire_bytes)),
        ("int8 operators", _quantized(variant)),
        ("delegate partitions", _count(variant.delegate_partitions)),
        ("MACs", _count(variant.macs)),
    )
    rows: list[tuple[str, ...]] = [_figure_row(name, figure, unit) for name, figure, unit in measured if figure]
    if variant.peak_rss_bytes:
        rows.append(("memory", text_of_bytes(variant.peak_rss_bytes.value), "", variant.peak_rss_bytes.origin))
    return rows + [(name, value, "", COUNTED) for name, value in counted if value != "-"]


def _names(variant: "Variant") -> list[tuple[str, str]]:
    names = (
        ("recipe", variant.recipe),
        ("runtime", f"{variant.runtime}, delegate {variant.delegate}"),
        ("host", variant.host_cpu_model or ""),
        ("manifest", f"sha256 {variant.manifest_sha256}" if variant.manifest_sha256 else ""),
        ("object", f"sha256 {variant.object_sha256}" if variant.object_sha256 else ""),
        ("judged", text_of_time(variant.created_at)),
    )
    return [(name, value) for name, value in names if value]


def _figure_row(name: str, figure: "Figure", unit: str) -> tuple[str, ...]:
    has_interval = figure.low is not None and figure.high is not None
    interval = f"{text_of_number(figure.low, 4)} to {text_of_number(figure.high, 4)}" if has_interval else ""
    if interval and figure.origin == "predicted":
        interval += " (spread)"  # of the model that predicts: how often it holds is not known
    return (name, f"{text_of_number(figure.value, 4)}{unit}", interval, _origin(figure) if unit else figure.origin)


def _origin(figure: "Figure") -> str:
    """How a latency was obtained, and what a prediction of it stands on."""
    if figure.origin != "predicted":
        return figure.origin
    count = figure.device_variants
    if count is None:
        return "predicted from published figures"
    return f"predicted from {count} variant{'' if count == 1 else 's'} that devices measured"


def _quantized(variant: "Variant") -> str:
    if variant.operators is None or variant.quantized_operators is None:
        return "-"
    return f"{variant.quantized_operators} of {variant.operators}"


def _count(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def _bytes_of(figure: "Figure | None") -> str:
    return "-" if figure is None else f"{text_of_bytes(figure.value)} {figure.origin[0]}"
