"""From results to the tables in README.md and to pictures.

Must not be in here: measuring.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

__all__ = ["draw", "keep", "kept", "tables", "write_readme"]

HERE: Final = Path(__file__).parent
RESULTS: Final = HERE / "results"
PLOTS: Final = HERE / "plots"


def keep(name: str, result: Mapping[str, Any]) -> None:
    """Write results/<name>.json."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")


def kept() -> dict[str, Any]:
    """All results there are, by name."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))}


# --- tables -------------------------------------------------------------------------------------------


def tables(results: Mapping[str, Any]) -> dict[str, str]:
    """A table in Markdown for every result there is."""
    made: dict[str, str] = {}
    if "embedded" in results:
        made["embedded"] = _compared(results["embedded"])
    if "couchbase" in results:
        made["couchbase"] = _compared(results["couchbase"])
    if "idempotency" in results:
        made["idempotency"] = _compared({"1 process, 1 caller": results["idempotency"]})
    if "counts" in results:
        made["counts"] = _counted(results["counts"])
    for name in ("documents", "sizes", "results", "callers"):
        if name in results:
            made[name] = _grown(results[name])
    if "memory" in results:
        rows = ((f"{int(mark):,}", f"{each['resident_kib'] / 1024:.1f}") for mark, each in results["memory"].items())
        made["memory"] = _table(("operations", "resident memory, MiB"), rows)
    return made


def write_readme(results: Mapping[str, Any]) -> None:
    """Put each table between its markers in README.md."""
    path = HERE / "README.md"
    text = path.read_text()
    for name, table in tables(results).items():
        marked = re.compile(rf"(<!-- table: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        if not marked.search(text):
            raise RuntimeError(f"README.md has no place for the table {name}")
        text = marked.sub(lambda found, table=table: f"{found[1]}{table}{found[2]}", text)  # type: ignore[misc]
    path.write_text(text)


def _compared(modes: Mapping[str, Any]) -> str:
    rows: list[tuple[str, ...]] = []
    for mode, kinds in modes.items():
        for kind, each in kinds.items():
            for name, told in each["contenders"].items():
                ratio = each["casops_to"].get(name)
                rows.append(
                    (
                        mode,
                        "asked again" if kind == "again" else "new",
                        name,
                        _number(told["p50_ms"]),
                        _number(told["p99_ms"]),
                        _number(told["per_second"]["median"]),
                        _spread(ratio["p50"]) if ratio else "",
                        _spread(ratio["throughput"]) if ratio else "",
                    )
                )
    return _table(
        ("who calls", "", "", "p50, ms", "p99, ms", "per second", "casops' p50 : its", "casops' throughput : its"), rows
    )


def _counted(counts: Mapping[str, Any]) -> str:
    rows = [
        (where, case, what, f"{number:,}")
        for where, cases in counts.items()
        for case, values in cases.items()
        for what, number in values.items()
    ]
    return _table(("", "call", "", "count"), rows)


def _grown(points: Mapping[str, Any]) -> str:
    rows = [
        (
            point,
            {"again": "asked again", "new": "new"}.get(kind, kind),
            *(_number(each["contenders"][name]["p50_ms"]) for name in ("casops", "plain")),
            *(_number(each["contenders"][name]["per_second"]["median"]) for name in ("casops", "plain")),
            _spread(each["casops_to"]["plain"]["throughput"]),
        )
        for point, kinds in points.items()
        for kind, each in kinds.items()
    ]
    return _table(
        (
            "",
            "",
            "casops p50, ms",
            "plain p50, ms",
            "casops per second",
            "plain per second",
            "throughput, casops : plain",
        ),
        rows,
    )


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.3f}"


def _spread(value: Mapping[str, float]) -> str:
    return f"**{value['median']:.2f}** ({value['least']:.2f}…{value['most']:.2f})"


# --- pictures -----------------------------------------------------------------------------------------


def draw(results: Mapping[str, Any]) -> None:
    """Pictures in plots/, of the results there are."""
    matplotlib: Any = importlib.import_module("matplotlib")
    matplotlib.use("Agg")  # no screen is needed
    plot: Any = importlib.import_module("matplotlib.pyplot")
    PLOTS.mkdir(exist_ok=True)
    if "embedded" in results:
        _draw_embedded(plot, results["embedded"])
    if "couchbase" in results:
        _draw_couchbase(plot, results["couchbase"])
    growth = [(name, label) for name, label in _AXES.items() if name in results]
    if growth:
        figure, places = plot.subplots(1, len(growth), figsize=(5 * len(growth), 4), squeeze=False)
        for place, (name, label) in zip(places[0], growth, strict=True):
            _draw_growth(place, results[name], label)
        _save(plot, figure, "growth")
    if "memory" in results:
        figure, place = plot.subplots(figsize=(6, 4))
        place.plot(
            [int(mark) for mark in results["memory"]],
            [each["resident_kib"] / 1024 for each in results["memory"].values()],
            marker="o",
        )
        place.set(xlabel="operations", ylabel="resident memory, MiB", xscale="log", ylim=(0, 1.1 * place.get_ylim()[1]))
        _save(plot, figure, "memory")


_AXES: Final = {
    "documents": "documents in one operation",
    "sizes": "characters in the document",
    "results": "results kept",
}


def _draw_embedded(plot: Any, modes: Mapping[str, Any]) -> None:
    figure, places = plot.subplots(2, 2, figsize=(13, 8))
    for row, kind in zip(places, ("new", "again"), strict=True):
        for place, (what, label) in zip(row, (("p50_ms", "p50, ms"), ("per_second", "per second")), strict=True):
            names = list(next(iter(modes.values()))[kind]["contenders"])
            for number, name in enumerate(names):
                told = [each[kind]["contenders"][name][what] for each in modes.values()]
                values = [each if isinstance(each, float) else each["median"] for each in told]
                place.bar([at + number / (len(names) + 1) for at in range(len(modes))], values, 0.18, label=name)
            place.set(yscale="log", ylabel=label, title="new operations" if kind == "new" else "asked again")
            place.set_xticks([at + 0.3 for at in range(len(modes))], [mode.replace(", ", ",\n") for mode in modes])
    places[0][0].legend(fontsize=8, loc="upper left")  # in the others it would stand before bars
    _save(plot, figure, "embedded")


def _draw_couchbase(plot: Any, cases: Mapping[str, Any]) -> None:
    figure, places = plot.subplots(1, 2, figsize=(14, 7), sharey=True)
    names = list(next(iter(cases.values()))["new"]["contenders"])
    for place, (what, label) in zip(places, (("p50_ms", "p50, ms"), ("per_second", "per second")), strict=True):
        for number, name in enumerate(names):
            told = [each["new"]["contenders"].get(name, {}).get(what, 0.0) for each in cases.values()]
            values = [each if isinstance(each, float) else each["median"] for each in told]
            place.barh([at + number / (len(names) + 1) for at in range(len(cases))], values, 0.16, label=name)
        place.set(xscale="log", xlabel=label)
        place.set_yticks([at + 0.3 for at in range(len(cases))], list(cases))
    places[0].invert_yaxis()
    places[0].legend(fontsize=8)
    _save(plot, figure, "couchbase")


def _draw_growth(place: Any, points: Mapping[str, Any], label: str) -> None:
    at = [int(point) for point in points]
    for name in ("casops", "plain"):
        for kind, style in (("new", "-"), ("again", ":")):
            values = [each[kind]["contenders"][name]["p50_ms"] for each in points.values()]
            place.plot(at, values, style, marker="o", label=f"{name}, {'asked again' if kind == 'again' else 'new'}")
    place.set(xlabel=label, ylabel="p50, ms", xscale="log", yscale="log")
    place.legend(fontsize=8, loc="lower right", bbox_to_anchor=(1, 0.1))  # between the two of plain


def _save(plot: Any, figure: Any, name: str) -> None:
    figure.tight_layout()
    figure.savefig(PLOTS / f"{name}.png", dpi=90, metadata={"Software": None})
    plot.close(figure)
