"""Every rule of the service has a test case that names it, or a reason why none can show it.

rules.tsv lists the ids of the service: L transitions, V checks, R rules, Q decisions, T the catalogue of
behaviours; rules_ipc.tsv those of the socket protocol, rules_smb.tsv those of the shared memory. A rule that
was forgotten is a gap in the numbers; a case that was renamed or removed is a line that finds nothing.
"""

import os
import re
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import tap

LISTS = {
    "rules.tsv": {"L": 10, "V": 25, "R": 255, "Q": 21, "T": 155},
    "rules_ipc.tsv": {"R": 131, "T-F": 9, "T-C": 10, "T-H": 8, "T-R": 7, "T-E": 12},
    "rules_smb.tsv": {"R": 112, "T": 41},
}


def rows(text):
    return [line.split("\t") for line in text.splitlines() if line and not line.startswith("#")]


def c_cases(source):
    """(name, text) of each Criterion case; the text begins behind the case before it, with tables and comments."""
    out, begin = [], 0
    for m in re.finditer(r"^Test\(\w+, (\w+)", source, re.M):
        end = source.find("\n}\n", m.end())
        out.append((m.group(1), source[begin:end]))
        begin = end
    return out


def py_cases(source):
    return [(m.group(1), m.group(1)) for m in re.finditer(r'tap\.(?:case|add)\(\s*f?"([^"]*)"', source)]


def names_it(rule, name, text):
    """True when the case says the id, or a range of ids with it inside, in its name or beside it."""
    letter = rule.rstrip("0123456789")
    for first, last in re.findall(rf"{letter}(\d+)[_ ]to[_ ](?:[IS]-)?{letter}(\d+)", name + "\n" + text):
        if rule[1:].isdigit() and int(first) <= int(rule[1:]) <= int(last):
            return True
    if "-" in rule and name.startswith(rule.replace("-", "").lower() + "_"):
        return True
    spoken = name.replace("_", " ") + "\n" + text
    return re.search(rf"(?<![A-Za-z0-9]){rule}(?![A-Za-z0-9])", spoken) is not None


def complaint(rule, path, case, source):
    """What is wrong with a line whose file has this source; None: nothing."""
    cases = (py_cases if path.endswith(".py") else c_cases)(source)
    found = [(n, t) for n, t in cases if (n.startswith(case) if path.endswith(".py") else n == case)]
    if not found:
        return f"{rule}: no case {case} in {path}"
    if not any(names_it(rule, n, t) for n, t in found):
        return f"{rule}: case {case} in {path} does not name it"
    return None


def gaps(ids, last_of):
    """Ids that are missing, double or strange."""
    bad = [f"{i} is there twice" for i in set(ids) if ids.count(i) > 1]
    have = {re.sub(r"[a-z]$", "", i) for i in ids}
    want = {f"{letter}{n}" for letter, last in last_of.items() for n in range(1, last + 1)}
    return sorted(bad + [f"{i} has no line" for i in want - have] + [f"{i} is no rule" for i in have - want])


def table(name):
    with open(os.path.join(tap.SRCDIR, "t", "meta", name), encoding="utf-8") as f:
        return rows(f.read())


TABLES = {name: table(name) for name in LISTS}
TABLE = [r for t in TABLES.values() for r in t]


@tap.case("every rule has one line")
def _():
    tap.expect(all(len(r) == 3 for r in TABLE), "a line is: id, file or -, case or reason")
    for name, t in TABLES.items():
        tap.expect_eq(gaps([r[0] for r in t], LISTS[name]), [], f"gaps of {name}")


@tap.case("every rule has a case that names it")
def _():
    sources, bad = {}, []
    for rule, path, case in TABLE:
        if path == "-":
            continue
        if path not in sources:
            whole = os.path.join(tap.SRCDIR, path)
            sources[path] = open(whole, encoding="utf-8").read() if os.path.exists(whole) else ""
        bad += filter(None, [complaint(rule, path, case, sources[path])])
    tap.expect(not bad, "\n".join(bad))


@tap.case("a rule without a case has a reason, and such rules are few")
def _():
    without = [r for r in TABLE if r[1] == "-"]
    tap.expect(all(len(r[2]) > 10 for r in without), "a rule without a reason")
    tap.expect(len(without) <= len(TABLE) // 15, f"{len(without)} rules have no case")


SAMPLE = "/* of V2 */\nTest(a, R1_T3_to_T5_x)\n{\n    V1;\n}\nTest(a, R2_y)\n{\n}\n"
WRONG = [("R2", "x.c", "R1_T3_to_T5_x"), ("R1", "x.c", "R1"), ("T2", "x.c", "R1_T3_to_T5_x"), ("V1", "x.c", "R2_y")]
RIGHT = [("R1", "x.c", "R1_T3_to_T5_x"), ("T4", "x.c", "R1_T3_to_T5_x"), ("V1", "x.c", "R1_T3_to_T5_x"), ("V2", "x.c", "R1_T3_to_T5_x")]


@tap.case("the checker objects to wrong lines and to no right one")
def _():
    for rule, path, case in WRONG:
        tap.expect(complaint(rule, path, case, SAMPLE), f"no complaint about {rule} {case}")
    for rule, path, case in RIGHT:
        tap.expect_eq(complaint(rule, path, case, SAMPLE), None, f"complaint about {rule} {case}")
    tap.expect(complaint("R9", "x.py", "R9: w", '@tap.case("R8: what")\n'), "a case that is not there")
    tap.expect_eq(complaint("R9", "x.py", "R9: w", '@tap.case("R9: what")\n'), None, "a case of a script")
    ids = [r[0] for r in TABLES["rules.tsv"]]
    tap.expect_eq(gaps([i for i in ids if i != "R77"] + ["R256", "T1"], LISTS["rules.tsv"]), ["R256 is no rule", "R77 has no line", "T1 is there twice"], "gaps")


tap.run()
