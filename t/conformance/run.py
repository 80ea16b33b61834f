#!/usr/bin/env python3
"""Runs the black-box conformance suites against built programs and compares with known_red.txt.

usage: run.py BIN_DIR SUITE_DIR [--update] [--only WORD]

A red case that known_red.txt does not name is a failure. A listed case that is red counts as skipped; one
that has turned green is reported, so that the list shrinks. --update rewrites the list from this run
(never use it to hide a regression: the diff of the list shows). The last line: N passed, N failed, N skipped.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
LIST = os.path.join(HERE, "known_red.txt")
SUITES = ("conformance_smb.py", "conformance_cli.py")
HEADER = """# Conformance cases that are not green yet, one per line: suite, case. t/conformance/run.py reads this file:
# a red case that is not listed fails the run, a listed case that turned green is reported. Lines only leave.
"""


def read_list():
    try:
        with open(LIST, encoding="utf-8") as f:
            lines = [line.split("#")[0].split() for line in f]
    except FileNotFoundError:
        lines = []
    return {tuple(words[:2]) for words in lines if len(words) >= 2}


def run_suite(suite, args, out):
    """{case id: (PASS, SKIP or a kind of failure; detail)}; None when the suite itself broke."""
    cmd = [sys.executable, os.path.join(args.suite_dir, suite), os.path.abspath(args.bin_dir), "--json", out]
    if args.only:
        cmd += ["--only", args.only]
    log = subprocess.run(cmd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True)
    try:
        with open(out, encoding="utf-8") as f:
            rows = json.load(f)
    except (FileNotFoundError, ValueError):
        print(f"{suite} broke with status {log.returncode}:\n" + "\n".join(log.stdout.split("\n")[-20:]))
        return None
    return {r["id"]: (r.get("verdict") or r.get("status"), f"{r.get('title')}: {r.get('detail')}") for r in rows}


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("bin_dir")
    ap.add_argument("suite_dir")
    ap.add_argument("--update", action="store_true")
    ap.add_argument("--only", default="")
    args = ap.parse_args()
    known, red = read_list(), set()
    passed = failed = skipped = 0
    with tempfile.TemporaryDirectory() as tmp:
        for suite in SUITES:
            results = run_suite(suite, args, os.path.join(tmp, suite + ".json"))
            name = suite[len("conformance_") : -len(".py")]
            if results is None:
                failed += 1
                red |= {key for key in known if key[0] == name}
                continue
            for case, (verdict, detail) in sorted(results.items()):
                key = (name, case)
                if verdict == "SKIP":
                    skipped += 1
                    print(f"SKIP {name} {case} {' '.join(detail.split())[:200]}")
                elif verdict == "PASS":
                    passed += 1
                    if key in known:
                        print(f"GREEN {name} {case} is green now: take it off {os.path.relpath(LIST)}")
                elif key in known:
                    skipped += 1
                    red.add(key)
                else:
                    failed += 1
                    red.add(key)
                    print(f"FAIL {name} {case} {' '.join(detail.split())[:600]}")
    if args.update and not args.only:
        with open(LIST, "w", encoding="utf-8") as f:
            f.write(HEADER + "".join(f"{n} {c}\n" for n, c in sorted(red)))
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
