"""The tarball builds, and `make install DESTDIR=` puts every program, page, header and unit in its place."""

import os
import re
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import tap

# The harness's own make must not hand its jobs and flags to ours.
ENV = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "srcdir", "builddir", "DESTDIR")}


def run(cmd, cwd):
    r = subprocess.run(cmd, cwd=cwd, env=ENV, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    tap.expect(r.returncode == 0, f"{' '.join(cmd)}: status {r.returncode}\n" + "\n".join(r.stdout.split("\n")[-25:]))
    return r.stdout


def make_variable(name):
    with open(os.path.join(tap.BUILDDIR, "Makefile"), encoding="utf-8") as f:
        text = f.read().replace("\\\n", " ")
    m = re.search(rf"^{name} = (.*)$", text, re.M)
    return m.group(1).replace("$(EXEEXT)", "").split() if m else []


def found(top, folder, pattern):
    base = os.path.join(top, folder)
    return sorted(os.path.relpath(os.path.join(d, f), base) for d, _, names in os.walk(base) for f in names if re.search(pattern, f))


def check_installed(dest):
    missing = []
    for program in make_variable("bin_PROGRAMS"):
        if not os.access(os.path.join(dest, "usr/bin", program), os.X_OK):
            missing.append(f"bin/{program}")
    for page in found(tap.SRCDIR, "man", r"\.[1-9]$"):
        if not os.path.exists(os.path.join(dest, "usr/share/man", "man" + page[-1], page)):
            missing.append(f"man/{page}")
    for header in found(tap.SRCDIR, "include", r"\.h$"):
        if not os.path.exists(os.path.join(dest, "usr/include", header)):
            missing.append(f"include/{header}")
    for unit in found(tap.SRCDIR, "systemd", r"\.(service|socket)(\.in)?$"):
        if not os.path.exists(os.path.join(dest, "usr/lib/systemd/system", unit.removesuffix(".in"))):
            missing.append(f"systemd/{unit}")
    tap.expect(not missing, f"not installed: {', '.join(missing)}")


@tap.case("the tarball unpacks, builds, and installs everything")
def _():
    if not os.path.exists(os.path.join(tap.SRCDIR, ".git")):
        tap.skip("this is a tarball already")
    if "-fsanitize" in " ".join(make_variable("SANITIZE_CFLAGS")):
        tap.skip("the build without sanitizers does this")
    with tempfile.TemporaryDirectory() as tmp:
        made = f"dist-test.{os.getpid()}"
        src = os.path.join(tmp, "perfetto-c")
        try:
            run(["make", "-s", "distdir", "distdir=" + made], tap.BUILDDIR)
            shutil.move(os.path.join(tap.BUILDDIR, made), src)
        finally:
            shutil.rmtree(os.path.join(tap.BUILDDIR, made), ignore_errors=True)
        build = os.path.join(tmp, "build")
        dest = os.path.join(tmp, "dest")
        os.mkdir(build)
        upb = make_variable("UPB_DIR")[0]
        run([os.path.join(src, "configure"), "-q", "--prefix=/usr", "--with-upb=" + upb, "CFLAGS=-O0"], build)
        run(["make", "-s", f"-j{os.cpu_count()}", "all"], build)
        run(["make", "-s", "install", "DESTDIR=" + dest], build)
        check_installed(dest)


tap.run()
