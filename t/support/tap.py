"""TAP for Python tests: decorate each case with @case, end the file with run().

    import os, sys
    sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "support"))
    import tap

    @tap.case("a session that ends keeps its data")
    def _():
        tap.expect(size > 0, f"file is empty: {path}")

    tap.run()

A case fails by raising (tap.expect raises), and skips with tap.skip("why").
SRCDIR and BUILDDIR are the two roots, wherever the test is started.
Command line: words select the cases whose name contains one of them.
"""

import os
import sys
import traceback

SRCDIR = os.path.abspath(os.environ.get("srcdir", os.path.join(os.path.dirname(__file__), "..", "..")))
BUILDDIR = os.path.abspath(os.environ.get("builddir", os.path.join(SRCDIR, "build")))

_cases = []


class Skip(Exception):
    pass


def case(name):
    def add(fn):
        _cases.append((name, fn))
        return fn

    return add


def add(name, fn):
    """The same as @case, for cases made in a loop."""
    _cases.append((name, fn))


def skip(why):
    raise Skip(why)


def expect(cond, what="expectation failed"):
    if not cond:
        raise AssertionError(what)


def expect_eq(got, want, what="value"):
    if got != want:
        raise AssertionError(f"{what}: got {got!r}, want {want!r}")


def run():
    words = sys.argv[1:]
    chosen = [c for c in _cases if not words or any(w in c[0] for w in words)]
    print(f"1..{len(chosen)}", flush=True)
    for n, (name, fn) in enumerate(chosen, 1):
        name = name.replace("#", "no. ")
        try:
            fn()
            print(f"ok {n} - {name}", flush=True)
        except Skip as why:
            print(f"ok {n} - {name} # SKIP {why}", flush=True)
        except BaseException as err:
            print(f"not ok {n} - {name}", flush=True)
            for line in traceback.format_exc().rstrip().split("\n"):
                print(f"# {line}", flush=True)
            if isinstance(err, KeyboardInterrupt):
                sys.exit(130)
