"""House style that a machine can count: sizes, twins, essays, names, layout, and words left behind.

The numbers are those of HACKING.md, "House style".
"""

import ast
import os
import re
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import tap

MAX_C, MAX_H, MAX_FUNCTION, P90_FUNCTION = 800, 250, 100, 50


FOLDERS = ("src", "include", "protos", "t", "man", "systemd", ".ci")
TOP_FILES = ("bootstrap", "configure.ac", "Makefile.am", "README.md", "HACKING.md", "NEWS", "SECURITY.md", "LICENSE")
MADE = (".o", ".a", ".log", ".trs", ".upb.c", ".upb.h", ".Po", ".pyc", ".stamp", ".bin", "protos/fieldnum.h", ".dirstamp")


def tracked():
    """Every file of the tree: what git knows in a checkout, what is not made by a build in a tarball."""
    r = subprocess.run(
        ["git", "-C", tap.SRCDIR, "ls-files", "-co", "--exclude-standard", "-z"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    if os.path.exists(os.path.join(tap.SRCDIR, ".git")) and r.returncode == 0:
        names = r.stdout.decode().split("\0")
    else:
        names = list(TOP_FILES)
        for top in FOLDERS:
            for d, _, files in os.walk(os.path.join(tap.SRCDIR, top)):
                names += [os.path.relpath(os.path.join(d, f), tap.SRCDIR) for f in files]
        names = [n for n in names if not n.endswith(MADE) and "/." not in n.replace(".ci/", "")]
    return sorted(n for n in names if n and os.path.isfile(os.path.join(tap.SRCDIR, n)))


FILES = tracked()
OURS = [f for f in FILES if f.endswith((".c", ".h")) and f.startswith(("src/", "include/", "t/", "protos/"))]
SRC_C = [f for f in OURS if f.startswith("src/") and f.endswith(".c")]


def read(path):
    with open(os.path.join(tap.SRCDIR, path), encoding="utf-8", errors="replace") as f:
        return f.read()


def none_of(bad, limit=30):
    tap.expect(not bad, "\n".join(bad[:limit]))


def has_main(source):
    return re.search(r"^(?:int )?main\(", source, re.M) is not None


def functions(source):
    """(name, lines) of each function: a brace in column 0 opens it, one in column 0 ends it."""
    lines, out, start = source.split("\n"), [], None
    for n, line in enumerate(lines):
        if line == "{":
            head = n
            while head > 0 and lines[head - 1].strip() and not lines[head - 1].startswith(("}", "/*", " */", "#")):
                head -= 1
            words = re.findall(r"([A-Za-z_]\w*)\s*\(", " ".join(lines[head:n]))
            start = (words[0] if words else "?", n + 1)
        elif line == "}" and start:
            out.append((start[0], n + 1 - start[1] - 1))
            start = None
    return out


# Files that are over, with their size: they may shrink, not grow, and no file is added.
OVER = {"src/reactor/bytes.h": 292}


@tap.case(f"no .c file over {MAX_C} lines, no header over {MAX_H}")
def _():
    bad = []
    for f in OURS:
        n = read(f).count("\n")
        limit = OVER.get(f, MAX_H if f.endswith(".h") else MAX_C)
        if n > limit:
            bad.append(f"{f}: {n} lines, at most {limit}")
    none_of(bad)


@tap.case(f"no function over {MAX_FUNCTION} lines; nine of ten within {P90_FUNCTION}")
def _():
    sizes, bad = [], []
    for f in SRC_C:
        for name, size in functions(read(f)):
            sizes.append(size)
            if size > MAX_FUNCTION:
                bad.append(f"{f}: {name} has {size} lines")
    none_of(bad)
    sizes.sort()
    if sizes:
        p90 = sizes[int(len(sizes) * 0.9)]
        tap.expect(p90 <= P90_FUNCTION, f"p90 is {p90} lines")


@tap.case("every .c but mains has a header of the same name, and includes it")
def _():
    bad = []
    for f in SRC_C:
        source = read(f)
        twin = f[:-2] + ".h"
        if has_main(source):
            continue
        if twin in FILES:
            if f'"{twin[len("src/"):]}"' not in source:
                bad.append(f"{f} does not include its header")
        elif not part_of_module(f):
            bad.append(f"{f} has no {twin}")
    none_of(bad)


def part_of_module(path):
    """session_clone.c may share session.h (or session_int.h) with the other parts of its module."""
    folder, stem = os.path.split(path[:-2])
    parts = stem.split("_")
    return any(f"{folder}/{'_'.join(parts[:n])}{tail}.h" in FILES for n in range(1, len(parts)) for tail in ("", "_int"))


@tap.case("every .c opens with its essay")
def _():
    bad = []
    for f in SRC_C:
        essay = re.match(r"(?:/\* SPDX[^\n]*\n)?\s*/\*(.*?)\*/", read(f), re.S)
        if not essay or len(essay.group(1).split()) < 12:
            bad.append(f"{f}: begin with a comment of a few lines: what it is for, who owns what, its invariant")
    none_of(bad)


@tap.case("file stems are unique under src")
def _():
    seen, bad = {}, []
    for f in (f for f in OURS if f.startswith("src/") and not has_main(read(f))):
        where = seen.setdefault(os.path.basename(f), f)
        if where != f:
            bad.append(f"{f} and {where}")
    none_of(bad)


# Files whose exported names carry a short form of the stem.
SHORT = {"datasource": {"ds"}, "messages": {"msg"}}


@tap.case("exported functions carry the stem of their file, or its first word")
def _():
    bad = []
    for f in (f for f in OURS if f.startswith("src/") and f.endswith(".h")):
        stem = os.path.basename(f)[:-2].removesuffix("_int")
        ok = {"_".join(stem.split("_")[:n]) for n in range(1, len(stem.split("_")) + 1)}
        ok |= SHORT.get(stem, set())
        source = re.sub(r"/\*.*?\*/", "", read(f), flags=re.S)
        for name in re.findall(r"^(?!static|typedef|#|extern \"C\")[A-Za-z_][\w \*]*?[ \*]([a-z_]\w*)\(", source, re.M):
            if name in ("__attribute__", "_Static_assert", "static_assert"):
                continue
            if not any(name == p or name.startswith(p + "_") for p in ok):
                bad.append(f"{f}: {name} does not begin with {stem}_")
    none_of(bad)


@tap.case("no typedef hides a pointer")
def _():
    bad = []
    for f in OURS:
        for hit in re.findall(r"^typedef[^;(]*\*\s*\w+;", read(f), re.M):
            bad.append(f"{f}: {hit}")
    none_of(bad)


# A forked child can only _exit.
FORKS = {"src/ipc/activate_start.c", "src/svc/filejob.c"}


@tap.case("no abort, assert or exit in what reads peers' bytes")
def _():
    bad = []
    for f in SRC_C:
        if not f.startswith(("src/ipc/", "src/smb/", "src/svc/")) or has_main(read(f)) or f in FORKS:
            continue
        source = re.sub(r"/\*.*?\*/", "", read(f), flags=re.S)
        for hit in re.findall(r"(?<![\w>.])(?:assert|abort|_?exit)\s*\(", source):
            bad.append(f"{f}: {hit})")
    none_of(bad)


@tap.case("time and randomness come through reactor/chrono")
def _():
    bad = []
    for f in SRC_C:
        if f.startswith("src/reactor/chrono"):
            continue
        source = re.sub(r"/\*.*?\*/", "", read(f), flags=re.S)
        for hit in re.findall(r"(?<![\w>.])(?:clock_gettime|gettimeofday|time|s?rand|random|getrandom)\s*\(", source):
            bad.append(f"{f}: {hit})")
    none_of(bad)


@tap.case("tests wait for events, not for time")
def _():
    bad = []
    for f in FILES:
        if not f.startswith("t/") or f.startswith(("t/support/", "t/meta/house")):
            continue
        if f.endswith((".c", ".py", ".sh")):
            for n, line in enumerate(read(f).split("\n"), 1):
                if re.search(r"(?<!\w)(?:usleep|nanosleep|sleep)\s*\(", line) or re.match(r"\s*sleep [\d.]", line):
                    bad.append(f"{f}:{n}: {line.strip()}")
    none_of(bad)


# Spelled so that this file does not contain what it looks for.
LEFT_BEHIND = [r"\b(TO" r"DO|FIX" r"ME|XX" r"X)\b", r"(?<![\w.])/(wo" r"rk|home/\w+|ro" r"ot)/", r"\.\./sha" r"red/"]


@tap.case("nothing unfinished and no machine's own paths are left behind")
def _():
    bad = []
    for f in FILES:
        # The CI script alone may look beside the checkout, for the conformance suites.
        if f in ("LICENSE", ".ci/run") or f.startswith("t/data/") or "/corpus/" in f or f.startswith("protos/"):
            continue
        for n, line in enumerate(read(f).split("\n"), 1):
            if any(re.search(p, line) for p in LEFT_BEHIND):
                bad.append(f"{f}:{n}: {line.strip()[:120]}")
    none_of(bad)


@tap.case("layout is clang-format's")
def _():
    tool = os.environ.get("CLANG_FORMAT")
    if not tool:
        tap.skip("no clang-format; on Debian: apt-get install clang-format")
    version = subprocess.run([tool, "--version"], stdout=subprocess.PIPE, text=True).stdout
    if not re.search(r"version 14\.", version):
        tap.skip(f"layout is settled with clang-format 14, this is {version.strip()}")
    paths = [os.path.join(tap.SRCDIR, f) for f in OURS]
    if not paths:
        return
    r = subprocess.run([tool, "--dry-run", "--Werror"] + paths, stderr=subprocess.PIPE, text=True)
    bad = sorted({os.path.relpath(line.split(":")[0], tap.SRCDIR) for line in r.stderr.split("\n") if ": error:" in line})
    none_of([f"{f}: run clang-format -i on it" for f in bad])
    tap.expect(r.returncode == 0, r.stderr[:500])


@tap.case("scripts parse")
def _():
    bad = []
    for f in FILES:
        path = os.path.join(tap.SRCDIR, f)
        head = read(f)[:60] if not f.startswith("t/data/") else ""
        if f.endswith(".py"):
            try:
                ast.parse(read(f), f)
            except SyntaxError as err:
                bad.append(f"{f}: {err}")
        elif f.endswith(".sh") or re.match(r"#!.*\b(ba)?sh\b", head):
            shell = "bash" if "bash" in head.split("\n")[0] else "sh"
            r = subprocess.run([shell, "-n", path], stderr=subprocess.PIPE, text=True)
            if r.returncode:
                bad.append(f"{f}: {r.stderr.strip()}")
    none_of(bad)


@tap.case("manual pages pass mandoc's lint")
def _():
    pages = [os.path.join(tap.SRCDIR, f) for f in FILES if re.match(r"man/.*\.[1-9]$", f)]
    tool = os.environ.get("MANDOC")
    if not tool:
        tap.skip("no mandoc; on Debian: apt-get install mandoc")
    if not pages:
        return
    r = subprocess.run([tool, "-T", "lint"] + pages, stdout=subprocess.PIPE, text=True)
    # A page that is not installed yet cannot be found; that is no fault of the page.
    bad = [line for line in r.stdout.split("\n") if line and "referenced manual not found" not in line]
    none_of(bad)


@tap.case("the checks object when they should")
def _():
    source = "/* x */\nstatic int f(int a)\n{\n" + "    a++;\n" * 120 + "}\n"
    tap.expect_eq(functions(source), [("f", 120)], "function length")
    tap.expect(re.search(LEFT_BEHIND[1], "see /ro" "ot/x"), "paths")
    tap.expect(re.search(LEFT_BEHIND[0], "// TO" "DO: x"), "words")
    tap.expect(part_of_module("protos/descset_more.c"), "module parts")


tap.run()
