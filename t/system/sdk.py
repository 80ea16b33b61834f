"""libperfetto_c as it is installed: a program built against it, a service of our own, and the traces that come out."""

import os
import re
import signal
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import pb
import stack
import tap

SOURCE = "test.source"
TIMEOUT, BUSY, NOTCONN, ALREADY, INVAL = -110, -16, -107, -114, -22
# The harness's own make must not hand its jobs and flags to ours.
ENV = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "srcdir", "builddir", "DESTDIR")}


def make_variable(name):
    with open(os.path.join(tap.BUILDDIR, "Makefile"), encoding="utf-8") as f:
        m = re.search(rf"^{name} = (.*)$", f.read(), re.M)
    return m.group(1).split() if m else []


def run(*cmd, env=None):
    r = subprocess.run(cmd, env=env or ENV, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    tap.expect(r.returncode == 0, f"{' '.join(cmd)}: status {r.returncode}\n{r.stdout[-3000:]}")
    return r.stdout


# Goes with this program.
TMP = tempfile.TemporaryDirectory(prefix="perfetto-sdk.")


class Installed:
    """`make install DESTDIR=...`, once for all cases."""

    def __init__(self):
        self.dest = os.path.join(TMP.name, "dest")
        self.built = {}
        run("make", "-C", tap.BUILDDIR, "install", f"DESTDIR={self.dest}")
        self.pc = next((d for d, _, names in os.walk(self.dest) if "perfetto_c.pc" in names), None)
        tap.expect(self.pc, "perfetto_c.pc is not installed")
        self.lib = os.path.dirname(self.pc)

    def pkg_config(self, *words):
        env = dict(ENV, PKG_CONFIG_PATH=self.pc, PKG_CONFIG_SYSROOT_DIR=self.dest)
        return run("pkg-config", *words, "perfetto_c", env=env).split()

    def program(self, source, static=False):
        """Builds a C file and returns the program's path."""
        if (source, static) not in self.built:
            out = os.path.join(TMP.name, os.path.basename(source)[:-2] + ("_static" if static else ""))
            flags = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-g"] + make_variable("SANITIZE_CFLAGS")
            libs = self.pkg_config("--libs")
            if static:
                libs = [os.path.join(self.lib, "libperfetto_c.a")] + [w for w in self.pkg_config("--static", "--libs") if w != "-lperfetto_c"]
            run(*make_variable("CC"), *flags, *self.pkg_config("--cflags"), os.path.join(tap.SRCDIR, source), "-o", out, *libs)
            self.built[source, static] = out
        return self.built[source, static]


_installed = None


def installed():
    global _installed
    if not _installed:
        _installed = Installed()
    return _installed


class Corner(stack.Stack):
    def prog(self, static=False):
        """The program, with its commands: s.prog()("write", "text", 1) is the number that it answers."""
        path = installed().program("t/system/sdk_prog.c", static)
        env = dict(self.env, LD_LIBRARY_PATH=installed().lib)
        with open(self.path("prog.err"), "ab") as err:
            p = subprocess.Popen([path], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=err, text=True)
        p.log, p.name = open(self.path("prog.err"), "rb"), "sdk_prog"
        self.children.append(p)

        def say(command, *words):
            words = list(words)
            if not words or not isinstance(words[0], str):
                words.insert(0, "-")
            p.stdin.write(" ".join([command, *map(str, words)]) + "\n")
            p.stdin.flush()
            answer = p.stdout.readline()
            tap.expect(answer, f"the program died at {command}: {self.log_of(p)}")
            return int(answer)

        say.process = p
        return say

    def ready(self, **kw):
        say = self.prog(**kw)
        tap.expect_eq(say("init", "sdk-test"), 0, "init")
        tap.expect_eq(say("register", SOURCE), 0, "register")
        return say

    def record(self, name):
        with open(self.path(name + ".cfg"), "w") as f:
            f.write(f'buffers {{ size_kb: 8192 }}\ndata_sources {{ config {{ name: "{SOURCE}" }} }}\n')
        return self.start("perfetto", "-c", name + ".cfg", "--txt", "-o", name)

    def end(self, recording, name):
        """Ends a recording; its packets of ours, as (text, number, sequence, packet)."""
        tap.expect_eq(self.stop(recording, signal.SIGINT), 0, self.log_of(recording))
        return self.ours(name)

    def ours(self, name):
        with open(self.path(name), "rb") as f:
            packets = list(pb.packets(f.read()))
        out = []
        for p in packets:
            event = pb.first(p, 900)
            if event:
                out.append((pb.first(event, 1).decode(), pb.first(event, 2), pb.first(p, 10), p))
        return out

    def bye(self, say, command="exit"):
        say.process.stdin.write(command + "\n")
        say.process.stdin.flush()
        tap.expect_eq(say.process.wait(stack.PATIENCE), 0, "status; " + self.log_of(say.process))


def texts(packets):
    return [text for text, _, _, _ in packets]


@tap.case("the libraries export the public functions and nothing else")
def _():
    at = installed()
    real = os.path.join(at.lib, "libperfetto_c.so")
    declared = set()
    public = os.path.join(tap.SRCDIR, "include", "perfetto", "public")
    for name in os.listdir(public):
        with open(os.path.join(public, name)) as f:
            declared |= set(re.findall(r"PERFETTO_EXPORT [^;(]*?(perfetto_\w+)\(", f.read()))
    tap.expect(len(declared) > 15, f"only {sorted(declared)}")
    if not make_variable("SANITIZE_CFLAGS"):
        for flags, path in (("-D", real), ("-g", os.path.join(at.lib, "libperfetto_c.a"))):
            have = re.findall(r" [TDBRVW] (\S+)$", run("nm", flags, "--defined-only", path), re.M)
            tap.expect_eq(sorted(have), sorted(declared), path)
    tap.expect("[libperfetto_c.so.0]" in run("readelf", "-d", real), "soname")


@tap.case("each public header compiles alone, as C and as C++, without a warning")
def _():
    cflags = installed().pkg_config("--cflags")
    for name in sorted(os.listdir(os.path.join(tap.SRCDIR, "include", "perfetto", "public"))):
        for lang, std in (("c", "c11"), ("c++", "c++11")):
            r = subprocess.run(
                ["gcc", "-x", lang, f"-std={std}", "-Wall", "-Wextra", "-pedantic", "-Werror", *cflags, "-fsyntax-only", "-"],
                input=f"#include <perfetto/public/{name}>\nint main() {{ return 0; }}\n",
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            tap.expect_eq(r.returncode, 0, f"{name} as {lang}:\n{r.stdout}")


@tap.case("packets of several threads arrive whole and in order, though the threads have ended")
def _():
    for static in (False, True):
        with Corner() as s:
            s.start_traced()
            say = s.ready(static=static)
            r = s.record("out")
            tap.expect_eq(say("active", 20000), 0, "active")
            say("threads", 4, 400, 9000)
            got = s.end(r, "out")
            for t in range(4):
                mine = [g for g in got if g[0] == f"thread {t}"]
                tap.expect_eq([n for _, n, _, _ in mine], list(range(400)), f"numbers of thread {t}")
                tap.expect_eq(len({seq for _, _, seq, _ in mine}), 1, f"sequences of thread {t}")
                for _, n, _, p in mine:
                    event = pb.message(p, 900)
                    tap.expect_eq(len(pb.message(pb.message(event, 5), 1)), 9000 if n % 16 == 15 else 0, "payload")
                    tap.expect_eq([pb.first(event, f) for f in (100, 101, 102)], [9, 6, 7], "numbers")
                    tap.expect_eq(pb.first(event, 103), 0x3F000000, "float")
                    tap.expect_eq(pb.first(event, 104), 0x3FD0000000000000, "double")
                tap.expect_eq([pb.first(p, 13) for _, _, _, p in mine], [1] + [None] * 399, "sequence_flags")
            tap.expect_eq(len({seq for _, _, seq, _ in got}), 5, "sequences of all, with the one of on_stop")
            s.bye(say)


PROGRAM = bytes.fromhex("12180a05120308840 73a0f0a0908021203088407 18013a021a00".replace(" ", ""))


@tap.case("a program registered with a source merges what a small ring overwrites")
def _():
    with Corner() as s:
        s.start_traced()
        say = s.prog()
        tap.expect_eq(say("init", "sdk-test"), 0, "init")
        tap.expect_eq(say("register_program", SOURCE), 0, "register")
        with open(s.path("vm.cfg"), "w") as f:
            f.write("buffers { size_kb: 64 experimental_mode: TRACE_BUFFER_V2 }\n")
            f.write(f'data_sources {{ config {{ name: "{SOURCE}" protovm_config {{ memory_limit_kb: 100 }} }} }}\n')
        r = s.start("perfetto", "-c", "vm.cfg", "--txt", "-o", "out")
        tap.expect_eq(say("active", 20000), 0, "active")
        say("threads", 1, 400, 9000)
        kept = [n for _, n, _, _ in s.end(r, "out")]
        tap.expect(kept and kept[0] > 100, f"{len(kept)} packets are left")
        tap.expect_eq(kept, list(range(kept[0], 400)), "what is left")
        with open(s.path("out"), "rb") as f:
            vms = [pb.message(p, 125) for p in pb.packets(f.read()) if pb.first(p, 125)]
        tap.expect_eq(len(vms), 1, "packets of ProtoVMs")
        vm = pb.message(vms[0], 1)
        tap.expect_eq(pb.first(vm, 1), PROGRAM, "program")
        tap.expect_eq(pb.first(vm, 3), 100, "memory_limit_kb")
        event = pb.message(pb.message(vm, 2), 900)
        tap.expect_eq(pb.first(event, 2), kept[0] - 1, "the state is that of the last packet that is lost")
        tap.expect_eq(pb.first(event, 1), b"thread 0", "text in the state")
        s.bye(say)


@tap.case("two sessions at a time: each gets what is written while it records; a stopped source starts again")
def _():
    with Corner() as s:
        s.start_traced()
        say = s.ready()
        tap.expect_eq(say("write", "before"), 0, "instances")
        a = s.record("a")
        tap.expect_eq(say("active", 20000), 0, "active")
        tap.expect_eq(say("write", "one"), 1, "instances")
        b = s.record("b")
        stack.until("two instances", lambda: say("write", "both") == 2)
        got = texts(s.end(a, "a"))
        tap.expect(set(got) == {"one", "both", "stopping"} and got[-1] == "stopping", f"a has {got}")
        stack.until("one instance", lambda: say("write", "left") == 1)
        got = texts(s.end(b, "b"))
        tap.expect(got[0] == "both" and set(got) == {"both", "left", "stopping"}, f"b has {got}")
        stack.until("the source to be inactive", lambda: not say("is_active"))
        tap.expect_eq(say("write", "between"), 0, "instances")
        c = s.record("c")
        tap.expect_eq(say("active", 20000), 0, "active")
        tap.expect_eq(say("write", "again"), 1, "instances")
        tap.expect_eq(texts(s.end(c, "c")), ["again", "stopping"], "c")
        tap.expect_eq([say("calls", n) for n in range(3)], [3, 3, 3], "on_setup, on_start, on_stop")
        tap.expect(say("calls", 3) >= 3, "on_flush")
        s.bye(say)


@tap.case("no service, then one, then it dies, then another")
def _():
    with Corner() as s:
        say = s.ready()
        tap.expect_eq(say("connected", 50), TIMEOUT, "connected")
        tap.expect_eq(say("flush", 1000), NOTCONN, "flush")
        tap.expect_eq(say("write", "void"), 0, "instances")
        for life in ("first", "second"):
            traced = s.start_traced()
            tap.expect_eq(say("connected", 20000), 0, "connected")
            r = s.record(life)
            tap.expect_eq(say("active", 20000), 0, "active")
            tap.expect_eq(say("write", life), 1, "instances")
            tap.expect_eq(say("flush", 20000), 0, "flush")
            if life == "second":
                tap.expect_eq(texts(s.end(r, life)), ["second", "stopping"], "packets")
                break
            traced.kill()
            traced.wait()
            r.wait(stack.PATIENCE)
            stack.until("the source to be inactive", lambda: not say("is_active"))
            tap.expect_eq(say("write", "void"), 0, "instances")
        s.bye(say)


@tap.case("what is written right before exit() is there")
def _():
    with Corner() as s:
        s.start_traced()
        say = s.ready()
        r = s.record("out")
        tap.expect_eq(say("active", 20000), 0, "active")
        # Large ones: what the service finds in the shared memory of a dead producer would not make them whole.
        s.bye(say, "last")
        got = [(text, n) for text, n, _, _ in s.end(r, "out")]
        tap.expect_eq(got, [("last", n) for n in range(32)], "packets")


@tap.case("threads that end give back their writers and their chunks")
def _():
    with Corner() as s:
        s.start_traced()
        say = s.ready()
        r = s.record("out")
        tap.expect_eq(say("active", 20000), 0, "active")
        for _ in range(60):  # 600 in all, and the shared memory has 512 chunks
            say("threads", 10, 1)
        got = s.end(r, "out")
        tap.expect_eq(len(got), 601, "packets, with the one of on_stop")
        tap.expect_eq(len({seq for _, _, seq, _ in got}), 601, "sequences")
        s.bye(say)


@tap.case("a packet that is open when its session ends harms nobody")
def _():
    with Corner() as s:
        s.start_traced()
        say = s.ready()
        r = s.record("a")
        tap.expect_eq(say("active", 20000), 0, "active")
        tap.expect_eq(say("write", "one"), 1, "instances")
        tap.expect_eq(say("hold"), 1, "held")
        tap.expect_eq(say("write", "inner"), 0, "packets inside a packet")
        tap.expect_eq(texts(s.end(r, "a")), ["one", "stopping"], "a")
        tap.expect_eq(say("shutdown"), BUSY, "shutdown")
        tap.expect_eq(say("init", "again"), BUSY, "init")
        tap.expect_eq(say("release"), 0, "release")
        tap.expect_eq(say("shutdown"), 0, "shutdown")
        s.bye(say)


@tap.case("shutdown sends what is written; init makes everything work again")
def _():
    with Corner() as s:
        s.start_traced()
        say = s.ready()
        tap.expect_eq(say("init", "twice"), ALREADY, "init")
        tap.expect_eq(say("register", SOURCE), ALREADY, "register")
        tap.expect_eq(say("register", SOURCE + ".2", 1), 0, "register")
        for life in ("first", "second"):
            r = s.record(life)
            tap.expect_eq(say("active", 20000), 0, "active")
            tap.expect_eq(say("write", life), 1, "instances")
            tap.expect_eq(say("shutdown"), 0, "shutdown")
            tap.expect_eq(say("write", "void"), 0, "instances")
            tap.expect_eq(texts(s.end(r, life)), [life, "stopping"], "packets")
            tap.expect_eq(say("flush", 1000), NOTCONN, "flush")
            tap.expect_eq(say("init", "again"), 0, "init")
            tap.expect_eq(say("active", 1000), INVAL, "active before it is registered again")
            tap.expect_eq(say("register", SOURCE), 0, "register")
        s.bye(say)


@tap.case("a child of fork does not trace, and its parent goes on")
def _():
    with Corner() as s:
        s.start_traced()
        say = s.ready()
        r = s.record("out")
        tap.expect_eq(say("active", 20000), 0, "active")
        tap.expect_eq(say("write", "one"), 1, "instances")
        tap.expect_eq(say("fork"), 0, "status of the child")
        tap.expect_eq(say("write", "two"), 1, "instances")
        tap.expect_eq(texts(s.end(r, "out")), ["one", "two", "stopping"], "packets")
        s.bye(say)


@tap.case("a program records itself, with a service of its own")
def _():
    path = installed().program("t/system/sdk_self.c")
    with stack.Stack() as s:
        os.mkdir(s.path("tmp"))
        env = dict(s.env, LD_LIBRARY_PATH=installed().lib, TMPDIR=s.path("tmp"))
        p = subprocess.run(
            [path, s.bin_dir, s.path("out")], env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300
        )
        tap.expect_eq(p.returncode, 0, f"status; it said {p.stdout}")
        with open(s.path("out"), "rb") as f:
            events = [pb.first(x, 900) for x in pb.packets(f.read())]
        tap.expect_eq([pb.first(e, 3) for e in events if e], [2, 3], "numbers")
        tap.expect_eq(os.listdir(s.path("tmp")), [], "what the service left behind")


@tap.case("the example of README builds, and its packets arrive")
def _():
    with Corner() as s:
        s.start_traced()
        path = installed().program("examples/data_source.c")
        r = s.record("none")
        p = subprocess.Popen([path], env=dict(s.env, LD_LIBRARY_PATH=installed().lib), stdout=subprocess.PIPE, text=True)
        try:
            with open(s.path("cfg"), "w") as f:
                f.write('buffers { size_kb: 1024 }\ndata_sources { config { name: "com.example.frames" } }\nduration_ms: 1000\n')
            got = s.perfetto("-c", "cfg", "--txt", "-o", "frames")
            tap.expect_eq(got.returncode, 0, got.stderr)
            frames = texts(s.ours("frames"))
            tap.expect(len(frames) > 5 and frames[0].startswith("frame "), f"packets are {frames}")
        finally:
            p.kill()
            p.wait()
            p.stdout.close()
        s.end(r, "none")


tap.run()
