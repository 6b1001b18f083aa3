"""Public dies and boards against the area and power models, with the leave-one-out error of each: `python
benchmarks/known_chips.py`.

Area: a die left out of the fit. Power: all boards of the die left out. `board` marks boards held below what their die would
draw; for them the clock that the model sustains at the rated power stands beside their base and rated clocks.
"""

from explore import area_errors, board_facts, die_facts, die_of, power_errors, sustained_clock_hz


def main() -> None:
    print(f"{'die':10}{'public mm2':>11}{'model':>8}{'error':>8}{'left out':>10}")
    for row in area_errors():
        held_out = "" if die_facts(row.name)["fit"] else "  held out"
        print(f"{row.name:10}{row.published:11.0f}{row.predicted:8.0f}{_errors(row)}{held_out}")
    print(
        f"\n{'board':16}{'public W':>9}{'model':>8}{'error':>8}{'left out':>10}  {'set by':9}clock: sustained, base, rated (GHz)"
    )
    for row in power_errors():
        facts, die = board_facts(row.name), die_of(row.name)
        sustained = float(sustained_clock_hz(die, row.published)) / 1e9
        base = f"{facts['base_clock_ghz']:.2f}" if "base_clock_ghz" in facts else "   -"
        clocks = f"{sustained:.2f}  {base}  {float(die.clock_hz) / 1e9:.2f}"
        print(f"{row.name:16}{row.published:9.0f}{row.predicted:8.0f}{_errors(row)}  {facts['power_limit']:9}{clocks}")


def _errors(row) -> str:
    return f"{row.predicted / row.published - 1.0:+8.1%}{row.left_out / row.published - 1.0:+10.1%}"


if __name__ == "__main__":
    main()
