"""python -m ipr.check CONFIG.yaml [--all] [--out DIR] [key=value ...]"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ipr import checks, cli, config, image_checks, visualize
from ipr.cli import UsageError
from ipr.config import RunConfig
from ipr.findings import Finding
from ipr.skeleton import by_name

SHOWN = 24  # people in a contact sheet, a third of them with findings


class CheckFailed(ValueError):
    """The data has errors, which were listed."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = cli.Parser(prog="python -m ipr.check", description="Say what is wrong with the data on disk.")
    parser.add_argument("words", nargs="+", metavar="CONFIG.yaml | key=value", help="as for ipr.train")
    parser.add_argument("--all", action="store_true", help="open every image, not a sample of 500")
    parser.add_argument(
        "--out", type=Path, help="directory of the pictures (default: runs/<config name>-check)"
    )
    options = parser.parse_intermixed_args(arguments)
    files, overrides = cli.split_words(options.words)
    if len(files) != 1:
        raise UsageError(f"one configuration is checked, got {' '.join(files) or 'none'}")
    run = config.load(files[0], overrides)
    out = options.out or Path("runs") / f"{Path(files[0]).stem}-check"
    out.mkdir(parents=True, exist_ok=True)
    datasets = {f"data.train.{i}": dataset for i, dataset in enumerate(run.data.train)}
    found = {
        name: check(run, dataset, name, out, all_images=options.all)
        for name, dataset in (datasets | {"data.valid": run.data.valid}).items()
    }
    errors = {name: sum(finding.level == "error" for finding in its) for name, its in found.items()}
    said = [f"{count} error{'s' * (count > 1)} in {name}" for name, count in errors.items() if count]
    if said:
        raise CheckFailed(", ".join(said))


def check(run: RunConfig, dataset: Any, name: str, out: Path, *, all_images: bool) -> list[Finding]:
    """Print what one table is and what is wrong with it. It is read from its files, not from a cache."""
    print(f"\n{name}: {config.to_dict(dataset)}", flush=True)
    try:
        table = run.data.located(dataset).build()
    except (ValueError, OSError) as error:
        found = [Finding("error", f"no table: {error}", "as the message says", 0, 0)]
        print(found[0])
        return found
    if len(table) == 0:
        found = [Finding("error", "the table has no rows", "check split and root", 0, 0)]
        print(found[0])
        return found
    print(checks.described(table))
    found = [
        *checks.fit_findings(table, by_name(run.skeleton), run.depth.rule),
        *checks.label_findings(table),
    ]
    of_images, looked = image_checks.image_findings(table, all_images=all_images)
    found += of_images
    some = min(len(table), checks.MOST)
    print(f"checked: {len(table)} rows, cameras, boxes and bodies of {some}, {looked} images")
    print("\n".join(map(str, found)) if found else "nothing was found to be wrong")
    suspects = list(dict.fromkeys(row for finding in found for row in finding.first))[: SHOWN // 3]
    others = [row for row in checks.evenly(len(table), SHOWN).tolist() if row not in suspects]
    visualize.contact_sheet(out / f"{name}.png", table, [*suspects, *others][:SHOWN])
    print(f"picture: {out / name}.png", flush=True)
    return found


if __name__ == "__main__":
    sys.exit(cli.run(main))
