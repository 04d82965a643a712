"""The table of rules, nets and boards from what the board tests measured.

pytest tests/export/test_boards.py -m 'slow or not slow' --junitxml=boards.xml && python tools/benchmarks/board_table.py boards.xml
"""

import argparse
import xml.etree.ElementTree as ElementTree
from collections import defaultdict


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("junitxml", help="what pytest --junitxml wrote")
    cases: dict[tuple[str, str], dict[str, dict[str, float]]] = defaultdict(dict)
    for case in ElementTree.parse(parser.parse_args().junitxml).iter("testcase"):
        found = {p.get("name"): float(p.get("value")) for p in case.iter("property")}
        if "ledger_ram" in found:
            method, net, board = case.get("name").partition("[")[2].rstrip("]").split("-", 2)
            cases[method, net][board] = found
    boards = sorted({board for row in cases.values() for board in row})
    print(f"| rule, net | host to PyTorch | {' | '.join(f'{b} to host' for b in boards)} | RAM, bytes | ledger | instructions |")
    print(f"| --- | ---: |{' ---: |' * (len(boards) + 3)}")
    for (method, net), row in sorted(cases.items()):
        drift = [f"{max(row[b]['outputs'], row[b]['weights']):.1e}" if b in row else "" for b in boards]
        first = row[min(row)]
        figures = f"{first['ram']:,.0f} | {first['ledger_ram']:,.0f} | {first['step']:,.0f}"
        print(f"| {method}, {net} | {max(r['pytorch'] for r in row.values()):.1e} | {' | '.join(drift)} | {figures} |")


if __name__ == "__main__":
    main()
