"""perfetto [options] -o FILE -- COMMAND, and --autostart: the command's status, its environment, signals, and
that nothing is left behind however it ends.
"""

import os
import shutil
import signal
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import pb
import stack
import tap

CONFIG = 'buffers { size_kb: 256 }\ndata_sources { config { name: "track_event" } }\n'


class Corner(stack.Stack):
    """No service; TMPDIR is ours, so that we see what is left in it."""

    def __init__(self):
        super().__init__()
        os.mkdir(self.path("tmp"))
        self.env["TMPDIR"] = self.path("tmp")
        self.env["MARK_OF_THIS_TEST"] = self.dir
        with open(self.path("cfg"), "w") as f:
            f.write(CONFIG)

    def run(self, *words, **kw):
        return self.perfetto("-c", "cfg", "--txt", "-o", "out", *words, **kw)

    def left(self):
        """Processes that carry our mark, and files in TMPDIR."""
        out = os.listdir(self.path("tmp"))
        for pid in os.listdir("/proc"):
            try:
                with open(f"/proc/{pid}/environ", "rb") as f:
                    ours = f"MARK_OF_THIS_TEST={self.dir}".encode() in f.read()
                with open(f"/proc/{pid}/stat") as f:
                    if ours and f.read().rsplit(")", 1)[1].split()[0] != "Z":
                        out.append(pid)
            except OSError:
                pass
        return out

    def nothing_left(self):
        stack.until("processes, sockets and folders to go", lambda: not self.left())

    def trace(self):
        with open(self.path("out"), "rb") as f:
            return list(pb.packets(f.read()))


@tap.case("the command's status is ours, the trace is there, nothing is left")
def _():
    with Corner() as s:
        for status in (0, 7, 125):
            r = s.run("--", "sh", "-c", f"exit {status}")
            tap.expect_eq(r.returncode, status, f"status; it said {r.stderr}")
            tap.expect(any(pb.first(p, 33) for p in s.trace()), "no config in the trace")
            s.nothing_left()
        tap.expect_eq(s.run("--", "sh", "-c", "kill -9 $$").returncode, 128 + 9, "status after a signal")


@tap.case("tracing has started, and the sockets are known, before the command runs")
def _():
    with Corner() as s:
        query = f'"{s.program("perfetto")}" --query; echo "[$PERFETTO_PRODUCER_SOCK_NAME]"; test -S "$PERFETTO_PRODUCER_SOCK_NAME"'
        r = s.run("--", "sh", "-c", query)
        tap.expect_eq(r.returncode, 0, r.stderr)
        tap.expect("(started: 1)" in r.stdout, r.stdout)
        tap.expect(f"[{s.path('tmp')}/perfetto." in r.stdout, r.stdout)


@tap.case("a service that is there is used, and its sockets are exported")
def _():
    with Corner() as s:
        s.start_traced()
        r = s.run("--", "sh", "-c", 'echo "$PERFETTO_PRODUCER_SOCK_NAME $PERFETTO_CONSUMER_SOCK_NAME"')
        tap.expect_eq(r.stdout, f"{s.env['PERFETTO_PRODUCER_SOCK_NAME']} {s.env['PERFETTO_CONSUMER_SOCK_NAME']}\n", "sockets")
        tap.expect("private" not in r.stderr, r.stderr)
        r = s.run("--autostart", "--", "sh", "-c", 'echo "$PERFETTO_PRODUCER_SOCK_NAME"')
        tap.expect(r.stdout.startswith(s.path("tmp")), f"not a private service: {r.stdout}")


@tap.case("a command that cannot be run: 127, 126, and no trace of nothing")
def _():
    with Corner() as s:
        with open(s.path("data"), "w") as f:
            f.write("no program")
        for command, status in (("/nonexistent/x", 127), ("./data", 126)):
            r = s.run("--", command)
            tap.expect_eq(r.returncode, status, f"status; it said {r.stderr}")
            tap.expect(command in r.stderr, r.stderr)
            tap.expect(not os.path.exists(s.path("out")), "a file was left behind")
            s.nothing_left()


@tap.case("our own failures are 125, and the command does not run")
def _():
    with Corner() as s:
        r = s.perfetto("-c", "cfg", "--txt", "-o", "no/folder/out", "--", "touch", "ran")
        tap.expect_eq(r.returncode, 125, r.stderr)
        with open(s.path("bad"), "w") as f:
            f.write("buffers { size_kb: 0 }")
        r = s.perfetto("-c", "bad", "--txt", "-o", "out", "--", "touch", "ran")
        tap.expect_eq(r.returncode, 125, r.stderr)
        tap.expect("Service error" in r.stderr, r.stderr)
        r = s.perfetto("-c", "bad", "-o", "out", "--", "touch", "ran")
        tap.expect_eq(r.returncode, 125, r.stderr)
        tap.expect(not os.path.exists(s.path("ran")), "the command ran")
        tap.expect(not os.path.exists(s.path("out")), "a file was left behind")
        s.nothing_left()


@tap.case("no config: the light form, for as long as the command runs")
def _():
    with Corner() as s:
        r = s.perfetto("-o", "out", "--", "true")
        tap.expect_eq(r.returncode, 0, r.stderr)
        config = next(pb.first(p, 33) for p in s.trace() if pb.first(p, 33))
        names = [pb.first(pb.first(d, 1), 1) for d in pb.every(config, 2)]
        tap.expect_eq(names, [b"linux.process_stats", b"linux.system_info", b"track_event"], "data sources")
        tap.expect(any(pb.first(p, 67) for p in s.trace()), "no CPU information in the trace")
        s.nothing_left()


def started(s, *words):
    p = subprocess.Popen([s.program("perfetto"), "-c", "cfg", "--txt", "-o", "out", *words], env=s.env, cwd=s.dir, stderr=subprocess.DEVNULL)
    return p


@tap.case("signals are passed on to the command, which decides")
def _():
    with Corner() as s:
        script = 'trap "echo got > sig; exit 3" USR1; echo > ready; while :; do sleep 0.05; done'
        p = started(s, "--", "sh", "-c", script)
        stack.until("the command", lambda: os.path.exists(s.path("ready")))
        p.send_signal(signal.SIGUSR1)
        tap.expect_eq(p.wait(stack.PATIENCE), 3, "status")
        tap.expect(os.path.exists(s.path("sig")), "the signal did not arrive")
        tap.expect(s.trace(), "no trace")
        s.nothing_left()


@tap.case("SIGTERM to us ends a command that does not mind it, and the trace is saved")
def _():
    with Corner() as s:
        p = started(s, "--", "sh", "-c", "echo > ready; exec sleep 100")
        stack.until("the command", lambda: os.path.exists(s.path("ready")))
        p.send_signal(signal.SIGTERM)
        tap.expect_eq(p.wait(stack.PATIENCE), 128 + signal.SIGTERM, "status")
        tap.expect(s.trace(), "no trace")
        s.nothing_left()


@tap.case("a session that waits for a start trigger does not hold the command back; the command can trigger it")
def _():
    with Corner() as s:
        with open(s.path("cfg"), "w") as f:
            f.write(CONFIG + 'trigger_config { trigger_mode: START_TRACING trigger_timeout_ms: 60000 triggers { name: "go" stop_delay_ms: 100 } }')
        r = s.run("--", "sh", "-c", f'"{s.program("trigger_perfetto")}" go')
        tap.expect_eq(r.returncode, 0, r.stderr)
        s.nothing_left()


@tap.case("killed: the command, the service, its sockets and its folder go as well")
def _():
    with Corner() as s:
        p = started(s, "--", "sh", "-c", "echo > ready; exec sleep 100")
        stack.until("the command", lambda: os.path.exists(s.path("ready")))
        tap.expect(os.listdir(s.path("tmp")), "there is no private service to begin with")
        p.kill()
        p.wait()
        s.nothing_left()


@tap.case("--autostart without a command records until it is stopped")
def _():
    with Corner() as s:
        p = started(s, "--autostart")

        def recording():
            for d in os.listdir(s.path("tmp")):
                env = dict(s.env, PERFETTO_CONSUMER_SOCK_NAME=s.path(f"tmp/{d}/consumer"))
                r = subprocess.run([s.program("perfetto"), "--query"], env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
                return b"(started: 1)" in r.stdout
            return False

        stack.until("the recording", recording)
        p.send_signal(signal.SIGINT)
        tap.expect_eq(p.wait(stack.PATIENCE), 0, "status")
        tap.expect(s.trace(), "no trace")
        s.nothing_left()


@tap.case("the terminal is the command's while it runs: no live line")
def _():
    with Corner() as s:
        master, slave = stack.open_terminal()
        p = subprocess.Popen([s.program("perfetto"), "-c", "cfg", "--txt", "-o", "out", "--", "sh", "-c", "sleep 1.2; echo done >&2"],
                             env=dict(s.env, TERM="xterm"), cwd=s.dir, stderr=slave)  # fmt: skip
        os.close(slave)
        said = b""
        try:
            while part := os.read(master, 4096):
                said += part
        except OSError:
            pass  # how a terminal ends
        tap.expect_eq(p.wait(stack.PATIENCE), 0, repr(said))
        tap.expect(b"done" in said and b"Wrote" in said and b"recording" not in said, repr(said))
        s.nothing_left()


@tap.case("--quiet holds for the private service as well")
def _():
    with Corner() as s:
        r = s.run("--quiet", "--autostart", "--", "echo", "hello")
        tap.expect_eq((r.returncode, r.stdout, r.stderr), (0, "hello\n", ""), "status and output")


@tap.case("a data source that nobody offers is named while it can still be mended")
def _():
    with Corner() as s:
        with open(s.path("cfg"), "w") as f:
            f.write('buffers { size_kb: 64 } duration_ms: 50 data_sources { config { name: "linux.sys_stat" } } data_sources { config { name: "linux.sys_stats" } }')
        r = s.run("--autostart")
        tap.expect_eq(r.returncode, 0, r.stderr)
        tap.expect("the data source linux.sys_stat now" in r.stderr and "linux.sys_stats now" not in r.stderr, r.stderr)
        tap.expect("no program" not in s.run("--autostart", "--quiet").stderr, "--quiet speaks")
        s.nothing_left()


@tap.case("a private service that cannot start is a failure with a reason")
def _():
    with Corner() as s:
        alone = s.path("alone")
        os.mkdir(alone)
        shutil.copy(s.program("perfetto"), alone)
        r = subprocess.run([os.path.join(alone, "perfetto"), "-c", "cfg", "--txt", "-o", "out", "--", "/bin/true"], cwd=s.dir,
                           env=dict(s.env, PATH="/nonexistent"), stderr=subprocess.PIPE, timeout=60)  # fmt: skip
        tap.expect_eq(r.returncode, 125, repr(r.stderr))
        tap.expect(b"traced" in r.stderr, repr(r.stderr))
        tap.expect(not os.path.exists(s.path("out")), "a file was left behind")
        s.nothing_left()


tap.run()
