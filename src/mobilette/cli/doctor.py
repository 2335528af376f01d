"""``mobilette doctor``: what is there to work with."""

from __future__ import annotations

from mobilette.cli.options import Json


def doctor(as_json: Json = False) -> None:
    """Show versions, cores, threads, memory, devices and extras."""
    from mobilette.cli.output import console, print_json
    from mobilette.training.environment import examine

    found = examine()
    if as_json:
        print_json(found)
        return
    out = console()
    for key, value in found.items():
        text = value if not isinstance(value, dict) else ""
        out.print(f"{key:<10} {text}", markup=False)
        for name, detail in value.items() if isinstance(value, dict) else ():
            out.print(f"  {name:<16} {detail}", markup=False)
