"""The real programs in a private corner, for system tests.

    with stack.Stack() as s:
        s.start_traced()
        s.start_probes()
        r = s.perfetto("-c", "-", "--txt", "-o", s.path("out"), stdin=CONFIG)

Sockets and files live in a temp folder; nothing of the machine's own tracing is touched. Every wait has a
bound and waits for an event: readiness descriptors, exits, or `until`, the one place that polls.
"""

import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import tap

# Generous, because machines are slow and shared; a test that passes never waits for it.
PATIENCE = 30


def until(what, probe, seconds=PATIENCE):
    """Polls until probe() is true and returns its value; fails after `seconds`, naming `what`."""
    end = time.monotonic() + seconds
    while True:
        value = probe()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"waited {seconds} s in vain for {what}")
        time.sleep(0.01)


def children_of(pid):
    """The processes whose parent it is, oldest first; [] when it has gone."""
    out = []
    for name in sorted((n for n in os.listdir("/proc") if n.isdigit()), key=int):
        try:
            with open(f"/proc/{name}/stat", "rb") as f:
                state, parent = f.read().rpartition(b")")[2].split()[:2]
        except OSError:
            continue
        if int(parent) == pid and state != b"Z":
            out.append(int(name))
    return out


def name_of(pid):
    """The name of a process; None when it has gone."""
    try:
        with open(f"/proc/{pid}/comm", encoding="ascii") as f:
            return f.read().strip()
    except OSError:
        return None


def need_other_user(program):
    """Skips where a program cannot be run as another user (uid 65534)."""
    if os.geteuid() != 0:
        tap.skip("needs root to act as another user")
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        reached = subprocess.run([program, "--version"], user=65534, **quiet).returncode == 0
    except OSError:
        reached = False
    if not reached:
        tap.skip("the build folder is closed to others")


def open_terminal():
    """A pseudo terminal (master, slave); skips where there are none."""
    try:
        return os.openpty()
    except OSError as err:
        tap.skip(f"no pseudo terminals here: {err}")


class Stack:
    def __init__(self, bin_dir=None):
        self.bin_dir = bin_dir or tap.BUILDDIR
        self.dir = tempfile.mkdtemp(prefix="perfetto-test.")
        self.children = []
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("PERFETTO_", "TRACED_", "LISTEN_", "NOTIFY_"))}
        self.env["PERFETTO_PRODUCER_SOCK_NAME"] = self.path("producer.sock")
        self.env["PERFETTO_CONSUMER_SOCK_NAME"] = self.path("consumer.sock")

    def path(self, name):
        return os.path.join(self.dir, name)

    def program(self, name):
        path = os.path.join(self.bin_dir, name)
        if not os.access(path, os.X_OK):
            raise AssertionError(f"{path} is not built")
        return path

    def start(self, name, *args, ready_var=None, env=None):
        """Starts a program in the background; with ready_var waits until it says that it is ready."""
        env = dict(self.env, **(env or {}))
        log = tempfile.NamedTemporaryFile(prefix=name + ".", suffix=".log", dir=self.dir, delete=False)
        pass_fds = ()
        if ready_var:
            r, w = os.pipe()
            env[ready_var] = str(w)
            pass_fds = (w,)
        p = subprocess.Popen(
            [self.program(name), *args], env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=pass_fds, cwd=self.dir
        )
        p.log, p.name = log, name
        self.children.append(p)
        if ready_var:
            os.close(w)
            said = os.read(r, 1) if select.select([r], [], [], PATIENCE)[0] else b""
            os.close(r)
            tap.expect(said == b"1", f"{name} did not become ready: said {said!r}\n{self.log_of(p)}")
        return p

    def start_traced(self, *args, **kw):
        return self.start("traced", *args, ready_var="TRACED_NOTIFY_FD", **kw)

    def start_probes(self, *args, **kw):
        return self.start("traced_probes", *args, ready_var="TRACED_PROBES_NOTIFY_FD", **kw)

    def perfetto(self, *args, stdin=b"", timeout=PATIENCE * 2, env=None, name="perfetto"):
        """Runs the command line to its end: .returncode, .stdout and .stderr as text."""
        if isinstance(stdin, str):
            stdin = stdin.encode()
        r = subprocess.run(
            [self.program(name), *args],
            input=stdin,
            env=dict(self.env, **(env or {})),
            cwd=self.dir,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            timeout=timeout,
        )
        r.stdout, r.stderr = r.stdout.decode(errors="replace"), r.stderr.decode(errors="replace")
        return r

    def log_of(self, p):
        p.log.flush()
        with open(p.log.name, "rb") as f:
            return f.read().decode(errors="replace")

    def stop(self, p, sig=signal.SIGTERM):
        """Asks a child to end and returns its status; one that does not within PATIENCE is killed and is a failure."""
        if p.poll() is None:
            p.send_signal(sig)
            try:
                p.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                p.kill()
                p.wait()
                raise AssertionError(f"{p.name} did not end after signal {sig}\n{self.log_of(p)}") from None
        return p.returncode

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        # Probes first: a producer that loses its service would only log about it.
        trouble = []
        for p in reversed(self.children):
            try:
                self.stop(p)
            except AssertionError as err:
                trouble.append(str(err))
        if kind:
            for p in self.children:
                for line in self.log_of(p).split("\n")[-60:]:
                    print(f"# {p.name}: {line}", flush=True)
        for p in self.children:
            p.log.close()
        shutil.rmtree(self.dir, ignore_errors=True)
        if trouble and not kind:
            raise AssertionError("\n".join(trouble))
