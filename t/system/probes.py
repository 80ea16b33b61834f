"""traced_probes with the real service and the running kernel: what is recorded, and that tracefs is left as it
was found, however the recording ends.

Everything that touches ftrace runs in a mount namespace of its own, holding a lock on tracefs itself, since
the kernel has one ftrace for all. Needs root and tracefs; says so and skips otherwise.
"""

import os
import re
import shutil
import signal
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import pb
import stack
import tap
import tracefs

TRACEFS = tracefs.PATH

# TracePacket and below, from protos/trace.
FTRACE_EVENTS, PROCESS_TREE, SYS_STATS, PROCESS_STATS, CPU_INFO, FTRACE_STATS = 1, 2, 7, 9, 67, 34


class Tracefs:
    """The kernel's ftrace for one test: mounted, locked, and compared afterwards with what it was before."""

    def __enter__(self):
        self.held = tracefs.held()
        self.held.__enter__()
        self.before = self.state()
        return self

    def __exit__(self, *_):
        self.held.__exit__(None, None, None)

    def read(self, name):
        with open(os.path.join(TRACEFS, name)) as f:
            return f.read().strip()

    def state(self):
        names = ("tracing_on", "current_tracer", "set_event", "set_event_pid", "events/raw_syscalls/sys_enter/filter")
        return {n: self.read(n) for n in names}

    def expect_restored(self):
        tap.expect_eq(self.state(), self.before, "tracefs is not as it was")

    def expect_recording(self):
        stack.until("events being on", lambda: "sched:sched_switch" in self.read("set_event") and self.read("tracing_on") == "1")


def config(*sources, ms=0, extra=""):
    text = "buffers { size_kb: 32768 }\n" + extra
    for s in sources:
        text += "data_sources { config { " + s + " } }\n"
    return text + (f"duration_ms: {ms}\n" if ms else "")


def ftrace(*events, extra=""):
    names = " ".join(f'ftrace_events: "{e}"' for e in events)
    return f'name: "linux.ftrace" ftrace_config {{ {names} {extra} }}'


def record(s, text, name="out"):
    r = s.perfetto("-c", "-", "--txt", "-o", s.path(name), stdin=text)
    tap.expect(r.returncode == 0, r.stderr)
    with open(s.path(name), "rb") as f:
        return list(pb.packets(f.read()))


def every(packets, number):
    return [v for p in packets for v in pb.every(p, number)]


def varints(data):
    pos, out = 0, []
    while pos < len(data):
        v, pos = pb.varint(data, pos)
        out.append(v)
    return out


def switches(packets):
    """(comm, pid) of what was switched to, from compact_sched."""
    out = set()
    for b in every(packets, FTRACE_EVENTS):
        for c in pb.every(b, 4):
            names = pb.every(c, 5)
            pids, index = varints(pb.message(c, 3)), varints(pb.message(c, 6))
            tap.expect_eq(len(pids), len(index), "columns of unequal length")
            out |= {(names[i].decode(errors="replace"), p) for p, i in zip(pids, index)}
    return out


def events(packets, number):
    return [m for b in every(packets, FTRACE_EVENTS) for e in pb.every(b, 2) for m in pb.every(e, number)]


class Busy:
    """A process with a telling name that burns one CPU, sharing it, so that it is switched to often."""

    CODE = (
        "import os, sys\n"
        "open('/proc/self/comm', 'w').write('probes-busy')\n"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    os.sched_yield()\n"
    )

    def __enter__(self):
        self.p = subprocess.Popen([sys.executable, "-c", self.CODE], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
        self.p.stdout.readline()
        return self.p

    def __exit__(self, *_):
        self.p.kill()
        self.p.wait()
        self.p.stdout.close()


@tap.case("a busy loop pinned to a CPU is found in the scheduling, by name and pid, and named in the process tree")
def _():
    with Tracefs() as t, stack.Stack() as s, Busy() as busy:
        s.start_traced()
        s.start_probes()
        p = record(s, config(ftrace("sched/sched_switch"), 'name: "linux.process_stats"', ms=2000))
        tap.expect(("probes-busy", busy.pid) in switches(p), f"{busy.pid} not among {len(switches(p))} (comm, pid)")
        tree = {pb.first(q, 1): pb.every(q, 3) for m in every(p, PROCESS_TREE) for q in pb.every(m, 1)}
        tap.expect(busy.pid in tree, "ftrace's pids did not reach process_stats")
        tap.expect(sys.executable.encode() in tree[busy.pid][0], tree[busy.pid])
        stats = every(p, FTRACE_STATS)
        tap.expect_eq([pb.first(x, 1) for x in stats[-2:]], [1, 2], "phases of the statistics")
        tap.expect(not any(pb.every(x, 9) for x in stats), "parse errors (R160)")
        t.expect_restored()


@tap.case("processes, system counters and CPUs")
def _():
    with stack.Stack() as s:
        s.start_traced()
        s.start_probes()
        p = record(
            s,
            config(
                'name: "linux.process_stats" process_stats_config { scan_all_processes_on_start: true proc_stats_poll_ms: 100 }',
                'name: "linux.sys_stats" sys_stats_config { meminfo_period_ms: 100 stat_period_ms: 100 vmstat_period_ms: 100 }',
                'name: "linux.system_info"',
                ms=500,
            ),
        )
        pids = {pb.first(q, 1) for m in every(p, PROCESS_TREE) for q in pb.every(m, 1)}
        tap.expect(os.getpid() in pids, "the test itself is no process")
        mem = {pb.first(q, 1): pb.first(q, 3) for m in every(p, PROCESS_STATS) for q in pb.every(m, 1)}
        tap.expect(mem.get(os.getpid(), 0) > 1000, f"rss_kb {mem.get(os.getpid())}")
        stats = every(p, SYS_STATS)
        tap.expect(len(stats) >= 3, f"{len(stats)} packets of sys_stats in 500 ms")
        for m in stats:
            keys = [pb.first(v, 1) for v in pb.every(m, 1)]
            tap.expect(len(keys) >= 10 and keys[0] == 1, f"meminfo keys {keys}")
            tap.expect(len(pb.every(m, 2)) >= 10 and len(pb.every(m, 3)) >= 1, "vmstat or CPU times missing")
        tap.expect_eq(len(pb.every(every(p, CPU_INFO)[0], 1)), os.cpu_count())


@tap.case("two sessions at once: each gets its own events, and the second to end restores tracefs")
def _():
    with Tracefs() as t, stack.Stack() as s:
        s.start_traced()
        s.start_probes()
        a = subprocess.Popen(
            [s.program("perfetto"), "-c", "-", "--txt", "-o", s.path("a")], env=s.env, cwd=s.dir, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        a.stdin.write(config(ftrace("sched/sched_switch")).encode())
        a.stdin.close()
        try:
            t.expect_recording()
            verbose = "compact_sched { enabled: false }"
            b = record(s, config(ftrace("sched/sched_process_fork", "task/task_newtask", extra=verbose), ms=600), "b")
            t.expect_recording()
        finally:
            a.send_signal(signal.SIGINT)
            a.wait(stack.PATIENCE)
        with open(s.path("a"), "rb") as f:
            a = list(pb.packets(f.read()))
        tap.expect(switches(a) and not events(a, 235), "the first session's events")
        tap.expect(not switches(b) and not events(b, 4), "the second session got the first one's events")
        t.expect_restored()


def start_recording(s, t):
    p = subprocess.Popen(
        [s.program("perfetto"), "-c", "-", "--txt", "-o", s.path("long")], env=s.env, cwd=s.dir, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    p.stdin.write(config(ftrace("sched/sched_switch", extra='syscall_events: "sys_read"')).encode())
    p.stdin.close()
    t.expect_recording()
    return p


@tap.case("SIGTERM in the middle of a recording leaves tracefs as it was")
def _():
    with Tracefs() as t, stack.Stack() as s:
        s.start_traced()
        probes = s.start_probes()
        client = start_recording(s, t)
        tap.expect_eq(s.stop(probes), 0)
        t.expect_restored()
        client.kill()
        client.wait()


@tap.case("a service that dies takes the recording with it, not tracefs; the next one is registered with")
def _():
    with Tracefs() as t, stack.Stack() as s:
        traced = s.start_traced()
        s.start_probes()
        client = start_recording(s, t)
        traced.kill()
        traced.wait()
        client.wait(stack.PATIENCE)
        stack.until("tracefs being restored", lambda: t.state() == t.before)
        s.start_traced()
        stack.until("registering again", lambda: "linux.ftrace" in s.perfetto("--query").stdout)
        tap.expect(switches(record(s, config(ftrace("sched/sched_switch"), ms=500))), "nothing recorded after the restart")
        t.expect_restored()


@tap.case("a killed daemon's leftovers are cleaned up by --cleanup-after-crash")
def _():
    with Tracefs() as t, stack.Stack() as s:
        s.start_traced()
        probes = s.start_probes()
        client = start_recording(s, t)
        probes.kill()
        probes.wait()
        client.kill()
        client.wait()
        tap.expect(t.read("set_event"), "a kill cannot be noticed in time")
        r = s.perfetto("--cleanup-after-crash", name="traced_probes")
        tap.expect_eq(r.returncode, 0, r.stderr)
        tap.expect_eq(t.read("set_event"), "")
        tap.expect_eq(t.read("tracing_on"), "0")
        with open(TRACEFS + "/tracing_on", "w") as f:
            f.write(t.before["tracing_on"])
        with open(TRACEFS + "/events/raw_syscalls/sys_enter/filter", "w") as f:
            f.write("0")
        with open(TRACEFS + "/events/raw_syscalls/sys_exit/filter", "w") as f:
            f.write("0")
        t.expect_restored()


@tap.case("without tracefs a session goes on and the log says what to do, in one line")
def _():
    tracefs.private_mounts()
    if tracefs.libc.mount(b"none", b"/sys/kernel", b"tmpfs", 0, None):
        tap.skip("nothing can be mounted here")
    try:
        with stack.Stack() as s:
            s.start_traced()
            probes = s.start_probes()
            p = record(s, config(ftrace("sched/sched_switch"), 'name: "linux.sys_stats" sys_stats_config { stat_period_ms: 50 }', ms=300))
            tap.expect(every(p, SYS_STATS), "the other source was not recorded")
            tap.expect(not every(p, FTRACE_EVENTS), "ftrace without tracefs")
            lines = [x for x in s.log_of(probes).split("\n") if "tracefs" in x]
            tap.expect_eq(len(lines), 1, s.log_of(probes))
            tap.expect("mount -t tracefs nodev /sys/kernel/tracing" in lines[0], lines[0])
            tap.expect_eq(s.stop(probes), 0)
    finally:
        tracefs.libc.umount2(b"/sys/kernel", tracefs.MNT_DETACH)


@tap.case("without rights the other sources work and the log says what is missing")
def _():
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        tap.skip("needs root and setpriv to become somebody without rights")
    prefix = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--no-new-privs"]
    if subprocess.run([*prefix, "test", "-x", os.path.join(tap.BUILDDIR, "traced_probes")]).returncode:
        tap.skip("the build folder is closed to others")
    with Tracefs() as t, stack.Stack() as s:
        os.chmod(s.dir, 0o777)
        s.start_traced()
        os.chmod(s.env["PERFETTO_PRODUCER_SOCK_NAME"], 0o777)
        log = s.path("nobody.log")
        with open(log, "wb") as f:
            probes = subprocess.Popen([*prefix, s.program("traced_probes")], env=s.env, stderr=f, stdin=subprocess.DEVNULL)
        try:
            stack.until("registering", lambda: "linux.ftrace" in s.perfetto("--query").stdout)
            p = record(s, config(ftrace("sched/sched_switch"), 'name: "linux.sys_stats" sys_stats_config { stat_period_ms: 50 }', ms=300))
        finally:
            probes.terminate()
            probes.wait(stack.PATIENCE)
        tap.expect(every(p, SYS_STATS), "the other source was not recorded")
        with open(log) as f:
            text = f.read()
        tap.expect_eq(len(re.findall("no permission for the kernel's tracing files", text)), 1, text)
        t.expect_restored()


tap.run()
