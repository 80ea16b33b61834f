"""The command line client with a real service: what is recorded, what scripts see, and everything that can
go wrong. Each failure must end with a status other than 0, a line that says what to do, and what had arrived
in a valid file.
"""

import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import pb
import stack
import tap

EMPTY = "buffers { size_kb: 64 }\n"


def one_line(r, *words):
    """It failed, and the last line names the words."""
    tap.expect(r.returncode > 0, f"status {r.returncode}; it said {r.stderr}")
    for w in words:
        tap.expect(w in r.stderr, f"'{w}' is not in: {r.stderr}")


def read(path):
    with open(path, "rb") as f:
        return f.read()


def packets(path):
    return list(pb.packets(read(path)))


class Client:
    """perfetto in the background of a test."""

    def __init__(self, s, *args, stdin=b"", **kw):
        self.err = open(s.path(f"stderr.{time.monotonic_ns()}"), "w+b")
        self.p = subprocess.Popen(
            [s.program("perfetto"), *args], env=s.env, cwd=s.dir, stdin=subprocess.PIPE, stderr=self.err, **kw
        )
        self.p.stdin.write(stdin.encode() if isinstance(stdin, str) else stdin)
        self.p.stdin.close()

    def said(self):
        return read(self.err.name).decode()

    def wait(self):
        return self.p.wait(stack.PATIENCE)


def sessions(s):
    r = s.perfetto("--query-raw")
    return [v for v in pb.every(r.stdout.encode("utf-8", "surrogateescape"), 6)] if r.returncode == 0 else []


def started(s, n=1):
    """Waits until n sessions run."""

    def probe():
        r = subprocess.run([s.program("perfetto"), "--query-raw"], env=s.env, stdout=subprocess.PIPE, timeout=60)
        return r.returncode == 0 and pb.first(r.stdout, 4, 0) == n

    stack.until(f"{n} started sessions", probe)


# ---- what works ----


@tap.case("light form to a file: a valid trace with the config in it, nothing on stdout")
def _():
    with stack.Stack() as s:
        s.start_traced()
        r = s.perfetto("-t", "100ms", "-b", "1mb", "-o", s.path("out"))
        tap.expect_eq((r.returncode, r.stdout), (0, ""), r.stderr)
        tap.expect(any(pb.first(p, 33) for p in packets(s.path("out"))), "no config in the trace")
        tap.expect(f"bytes into {s.path('out')}" in r.stderr, r.stderr)


@tap.case("--quiet says nothing")
def _():
    with stack.Stack() as s:
        s.start_traced()
        r = s.perfetto("-q", "-t", "50ms", "-o", s.path("out"))
        tap.expect_eq((r.returncode, r.stdout, r.stderr), (0, "", ""), "status and output")


@tap.case("a pipe gets the trace and nothing else")
def _():
    with stack.Stack() as s:
        s.start_traced()
        out = subprocess.run([s.program("perfetto"), "-t", "50ms", "-o", "-"], env=s.env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60)
        tap.expect_eq(out.returncode, 0, "status")
        tap.expect(len(list(pb.packets(out.stdout))) > 3, "few packets")


@tap.case("Ctrl-C stops gracefully and keeps the data")
def _():
    with stack.Stack() as s:
        s.start_traced()
        c = Client(s, "-t", "1h", "-o", s.path("out"))
        started(s)
        c.p.send_signal(signal.SIGINT)
        tap.expect_eq(c.wait(), 0, "status")
        tap.expect("SIGINT received" in c.said(), c.said())
        tap.expect(any(pb.first(p, 35) for p in packets(s.path("out"))), "no statistics in the trace")


@tap.case("a second signal of the same kind ends a client that is stuck in a full pipe")
def _():
    with stack.Stack() as s:
        s.start_traced()
        r, w = os.pipe()
        os.set_blocking(w, False)
        try:
            while True:
                os.write(w, b"x" * 4096)
        except BlockingIOError:
            os.set_blocking(w, True)
        c = Client(s, "-t", "1ms", "-o", "-", stdout=w)
        stack.until("the client to write", lambda: "write" in read(f"/proc/{c.p.pid}/wchan").decode() or c.p.poll() is not None)
        c.p.send_signal(signal.SIGTERM)
        c.p.send_signal(signal.SIGTERM)
        stack.until("its end", lambda: c.p.poll() is not None or c.p.send_signal(signal.SIGTERM))
        tap.expect_eq(c.wait(), -signal.SIGTERM, "status")
        os.close(r)
        os.close(w)


@tap.case("on a terminal a live line is drawn and wiped, and a full buffer is named at the end")
def _():
    with stack.Stack() as s:
        s.start_traced()
        master, slave = stack.open_terminal()
        p = subprocess.Popen([s.program("perfetto"), "-t", "1500ms", "-o", s.path("out")], env=dict(s.env, TERM="xterm"), stderr=slave)
        os.close(slave)
        said = b""
        while p.poll() is None or select.select([master], [], [], 0)[0]:
            if select.select([master], [], [], 0.05)[0]:
                try:
                    said += os.read(master, 4096)
                except OSError:
                    break
        os.close(master)
        tap.expect_eq(p.wait(), 0, "status")
        tap.expect(b"\r\x1b[Krecording  " in said and b"nothing lost" in said, repr(said))
        tap.expect(b"\x1b[K" in said.rpartition(b"recording")[2], "the line was not wiped: " + repr(said[-300:]))


@tap.case("without a terminal there is no live line")
def _():
    with stack.Stack() as s:
        s.start_traced()
        tap.expect("\r" not in s.perfetto("-t", "1200ms", "-o", s.path("out")).stderr, "a carriage return")


@tap.case("background: the PID alone on stdout, complete after SIGTERM; --notify-fd gets its byte")
def _():
    with stack.Stack() as s:
        s.start_traced()
        r, w = os.pipe()
        p = subprocess.run([s.program("perfetto"), "-c", "-", "--txt", "-D", "-o", "rel", "--notify-fd", str(w)], env=s.env, cwd=s.dir,
                           input=EMPTY.encode(), stdout=subprocess.PIPE, pass_fds=(w,), timeout=60)  # fmt: skip
        os.close(w)
        tap.expect_eq(p.returncode, 0, "status")
        tap.expect(re.fullmatch(rb"\d+\n", p.stdout), repr(p.stdout))
        tap.expect_eq(os.read(r, 8), b"\0", "notification")
        tap.expect_eq(os.read(r, 8), b"", "and no more")
        os.close(r)
        pid = int(p.stdout)
        tap.expect_eq(os.readlink(f"/proc/{pid}/cwd"), "/", "folder")
        os.kill(pid, signal.SIGTERM)
        stack.until("its end", lambda: not os.path.exists(f"/proc/{pid}") or "Z" in read(f"/proc/{pid}/stat").decode().rsplit(")", 1)[1].split()[0])
        tap.expect(len(packets(s.path("rel"))) > 3, "few packets")


@tap.case("a data source of which nothing came is named at the end, and --check objects")
def _():
    with stack.Stack() as s:
        s.start_traced()
        r = s.perfetto("-t", "50ms", "-o", s.path("out"), "sched/sched_switch")
        tap.expect("nothing came from linux.ftrace" in r.stderr and "nothing came from linux.system_info" in r.stderr, r.stderr)
        r = s.perfetto("--inspect", s.path("out"), "--check")
        tap.expect_eq((r.returncode, r.stdout.count("not recorded")), (3, 2), r.stdout)


@tap.case("output_path: the service writes, and the end is told all the same")
def _():
    with stack.Stack() as s:
        s.start_traced()
        config = EMPTY + f'write_into_file: true output_path: "{s.path("out")}" duration_ms: 50 data_sources {{ config {{ name: "linux.ftrace" }} }}'
        r = s.perfetto("-c", "-", "--txt", stdin=config)
        tap.expect_eq(r.returncode, 0, r.stderr)
        tap.expect(f"written into {s.path('out')} by the service" in r.stderr, r.stderr)
        tap.expect("nothing came from linux.ftrace" in r.stderr, r.stderr)


@tap.case("a service that is stopped in mid-trace: the early end is told; a streamed trace is complete")
def _():
    for stream, status in (("", 1), ("write_into_file: true\n", 0)):
        with stack.Stack() as s:
            t = s.start_traced()
            c = Client(s, "-c", "-", "--txt", "-o", s.path("out"), stdin=EMPTY + "duration_ms: 3600000\n" + stream)
            started(s)
            s.stop(t)
            tap.expect_eq(c.wait(), status, c.said())
            tap.expect("the service has ended the session after" in c.said(), c.said())
            tap.expect(status or any(pb.first(p, 35) for p in packets(s.path("out"))), "no statistics in the file")


@tap.case("an empty name of a trigger is a mistake")
def _():
    with stack.Stack() as s:
        s.start_traced()
        one_line(s.perfetto("", name="trigger_perfetto"), "empty")


# ---- reading back ----


@tap.case("--inspect, --text, --json and --check agree on a trace, compressed or not")
def _():
    with stack.Stack() as s:
        s.start_traced()
        for extra in ("", "compression { deflate { } }", "compression { zstd { } }"):
            out = s.path("out")
            r = s.perfetto("-c", "-", "--txt", "-o", out, stdin=EMPTY + "duration_ms: 50\n" + extra)
            tap.expect_eq(r.returncode, 0, r.stderr)
            n = s.perfetto("--inspect", out, "--json").stdout.count("\n")
            text = s.perfetto("--inspect", out, "--text").stdout
            tap.expect_eq(len(re.findall(r"^packet \{$", text, re.M)), n, "packets as text and as JSON")
            tap.expect("size_kb: 64" in text, "the config is not in the text")
            summary = s.perfetto("--inspect", out)
            tap.expect(f"packets:   {n} in" in summary.stdout, summary.stdout)
            check = s.perfetto("--inspect", out, "--check")
            tap.expect_eq(check.returncode, 0, check.stdout)


@tap.case("--inspect takes no time from a packet whose clock went away with a loss")
def _():
    def packet(timestamp, flags, *more):
        return pb.put(1, pb.put(8, timestamp) + pb.put(10, 7) + pb.put(13, flags) + b"".join(more) + pb.put(900, b"\x0a\x01x"))

    delta = pb.put(59, pb.put(58, 64))  # packets of this sequence count from each other
    begin, near, far = 5_000_000_000_000, 5_000_250_000_000, 40
    with stack.Stack() as s:
        with open(s.path("out"), "wb") as f:
            f.write(packet(begin, 0, pb.put(58, 6)) + packet(far, 2, pb.put(42, 1)))  # the defaults were lost
            f.write(packet(far, 1, delta) + packet(far, 2) + packet(near, 2, pb.put(58, 6)))
            f.write(packet(far, 2, pb.put(42, 1)) + packet(near, 1) + packet(near, 2))  # cleared: no defaults any more
        summary = s.perfetto("--inspect", s.path("out"))
        tap.expect("time:      0.250 s" in summary.stdout, summary.stdout + summary.stderr)


@tap.case("--check objects to a cut file, to garbage, and to what is no trace")
def _():
    with stack.Stack() as s:
        s.start_traced()
        s.perfetto("-t", "50ms", "-o", s.path("out"))
        whole = read(s.path("out"))
        short = b"".join(pb.put(1, p) for p in packets(s.path("out"))[:-1])
        for name, data, word in (("short", short, "the end of the trace"), ("cut", whole[:-3], "middle of a packet"), ("junk", whole + b"\xff" * 40, "no trace packet"),
                                 ("text", b"hello world, hello world, hello", "no trace packet"), ("none", b"", "empty")):  # fmt: skip
            with open(s.path(name), "wb") as f:
                f.write(data)
            r = s.perfetto("--inspect", s.path(name), "--check")
            tap.expect_eq(r.returncode, 3, f"{name}: {r.stdout}")
            tap.expect(word in r.stdout, f"{name}: {r.stdout}")
        tap.expect_eq(s.perfetto("--inspect", s.path("text")).returncode, 1, "status for what is no trace")
        one_line(s.perfetto("--inspect", s.path("nothing-there")), "nothing-there")


# ---- what goes wrong ----


@tap.case("no service: the socket and the remedy are named, a 0-byte file stays")
def _():
    with stack.Stack() as s:
        one_line(s.perfetto("-t", "1s", "-o", s.path("out")), s.env["PERFETTO_CONSUMER_SOCK_NAME"])
        tap.expect_eq(os.path.getsize(s.path("out")), 0, "size")
        one_line(s.perfetto("--query"), s.env["PERFETTO_CONSUMER_SOCK_NAME"])
        r = subprocess.run([s.program("trigger_perfetto"), "x"], env=s.env, stderr=subprocess.PIPE, timeout=5)
        tap.expect_eq(r.returncode, 1, "status of trigger_perfetto")
        tap.expect(s.env["PERFETTO_PRODUCER_SOCK_NAME"].encode() in r.stderr, repr(r.stderr))


@tap.case("no permission for the socket")
def _():
    with stack.Stack() as s:
        stack.need_other_user(s.program("perfetto"))
        s.start_traced()
        os.chmod(s.dir, 0o777)
        os.chmod(s.env["PERFETTO_CONSUMER_SOCK_NAME"], 0o600)
        r = subprocess.run([s.program("perfetto"), "-t", "1s", "-o", s.path("out")], user=65534, env=s.env, stderr=subprocess.PIPE, timeout=60)
        tap.expect_eq(r.returncode, 1, "status")
        tap.expect(b"ermission" in r.stderr and s.env["PERFETTO_CONSUMER_SOCK_NAME"].encode() in r.stderr, repr(r.stderr))


@tap.case("the producer's socket instead of the consumer's is named as the mistake")
def _():
    with stack.Stack() as s:
        s.start_traced()
        r = s.perfetto("-t", "1s", "-o", s.path("out"), env={"PERFETTO_CONSUMER_SOCK_NAME": s.env["PERFETTO_PRODUCER_SOCK_NAME"]})
        one_line(r, "producer socket")


@tap.case("a service that dies in mid-trace: status, and the streamed file is kept and valid")
def _():
    with stack.Stack() as s:
        t = s.start_traced()
        c = Client(s, "-c", "-", "--txt", "-o", s.path("out"), stdin=EMPTY + "write_into_file: true\nfile_write_period_ms: 100\n")
        stack.until("data in the file", lambda: os.path.exists(s.path("out")) and os.path.getsize(s.path("out")) > 0)
        t.kill()
        tap.expect_eq(c.wait(), 1, "status")
        tap.expect("Service error: EnableTracing IPC request rejected" in c.said() and "is kept in" in c.said(), c.said())
        tap.expect(packets(s.path("out")), "no packets")


@tap.case("a rejected config: its reason, no file")
def _():
    with stack.Stack() as s:
        s.start_traced()
        one_line(s.perfetto("-c", "-", "--txt", "-o", s.path("out"), stdin="buffers { size_kb: 0 }"), "Service error: ")
        tap.expect(not os.path.exists(s.path("out")), "a file was left behind")


@tap.case("a full disk: the system's reason")
def _():
    with stack.Stack() as s:
        s.start_traced()
        one_line(s.perfetto("-t", "50ms", "-o", "/dev/full"), "No space left on device", "/dev/full")


@tap.case("a small disk keeps the packets that fit, in a valid file")
def _():
    with stack.Stack() as s:
        s.start_traced()
        limited = f'ulimit -f 1; trap "" XFSZ; exec "{s.program("perfetto")}" -c - --txt -o "{s.path("out")}"'
        config = EMPTY + "duration_ms: 50\n" + f'unique_session_name: "{"n" * 3000}"\n'
        r = subprocess.run(["sh", "-c", limited], input=config.encode(), env=s.env, stderr=subprocess.PIPE, timeout=60)
        tap.expect_eq(r.returncode, 1, f"status; it said {r.stderr}")
        tap.expect(b"could not write" in r.stderr, repr(r.stderr))
        tap.expect(0 < os.path.getsize(s.path("out")) <= 1024 and packets(s.path("out")), "the file is not valid")


@tap.case("a reader that goes away ends the client")
def _():
    with stack.Stack() as s:
        s.start_traced()
        r, w = os.pipe()
        c = Client(s, "-t", "1h", "-o", "-", stdout=w)
        os.close(w)
        started(s)
        os.close(r)
        c.p.send_signal(signal.SIGTERM)
        tap.expect(c.wait() in (-signal.SIGPIPE, 1), "status")


@tap.case("an output that exists is not touched with --no-clobber")
def _():
    with stack.Stack() as s:
        with open(s.path("out"), "w") as f:
            f.write("keep")
        one_line(s.perfetto("-t", "1ms", "--no-clobber", "-o", s.path("out")), "already exists")
        tap.expect_eq(read(s.path("out")), b"keep", "content")
        one_line(s.perfetto("-t", "1ms", "-o", s.path("no/such/folder")), "no/such/folder")


@tap.case("invalid keys")
def _():
    with stack.Stack() as s:
        s.start_traced()
        one_line(s.perfetto("--attach="), "key")
        r = s.perfetto("--attach=unknown")
        tap.expect_eq(r.returncode, 2, "status")
        tap.expect("Session re-attach failed" in r.stderr, r.stderr)


@tap.case("a config over the size limit is refused before anything is sent")
def _():
    with stack.Stack() as s:
        s.start_traced()
        one_line(s.perfetto("-c", "-", "--txt", "-o", s.path("out"), stdin=f'unique_session_name: "{"n" * 140000}"'), "too large", "131042")
        tap.expect(not os.path.exists(s.path("out")), "a file was left behind")


@tap.case("a service that hangs up, answers rubbish or falls silent does not hang the client")
def _():
    for answer in (b"", b"\xff" * 64, b"\x04\0\0\0\xff\xff\xff\xff"):
        with stack.Stack() as s:
            server = socket.socket(socket.AF_UNIX)
            server.bind(s.env["PERFETTO_CONSUMER_SOCK_NAME"])
            server.listen(1)

            def serve(server=server, answer=answer):
                conn, _ = server.accept()
                conn.recv(4096)
                conn.sendall(answer)
                conn.close()

            t = threading.Thread(target=serve, daemon=True)
            t.start()
            one_line(s.perfetto("-t", "1s", "-o", s.path("out")), s.env["PERFETTO_CONSUMER_SOCK_NAME"])
            t.join()
            server.close()


tap.run()
