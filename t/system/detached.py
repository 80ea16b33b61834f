"""The three worked examples of detached mode, typed as a user types them, and the rules around keys.

Kernel events are recorded where root and tracefs are there, process statistics elsewhere: what is detached
is the same.
"""

import os
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import pb
import stack
import tap
import tracefs


def has_tracefs():
    return os.getuid() == 0 and any(
        os.access(d + "/tracing_on", os.W_OK) for d in ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")
    )


if has_tracefs():
    LOCK = tracefs.lock()  # until this script ends
    SOURCE, FIELD = 'name: "linux.ftrace" ftrace_config { ftrace_events: "sched_switch" drain_period_ms: 50 }', 1
else:
    SOURCE, FIELD = 'name: "linux.process_stats" process_stats_config { proc_stats_poll_ms: 100 }', 9


def service():
    s = stack.Stack()
    s.start_traced()
    s.start_probes()
    return s


def shell(s, script):
    """Runs lines of a shell session with our programs first in PATH; returns status and all output."""
    env = dict(s.env, PATH=s.bin_dir + ":" + s.env["PATH"])
    r = subprocess.run(["sh", "-c", script], env=env, cwd=s.dir, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, timeout=120)  # fmt: skip
    return r.returncode, r.stdout.decode()


def ok(s, script, want=0):
    rc, said = shell(s, script)
    tap.expect_eq(rc, want, f"status of: {script}\n{said}\n")


def trace(s, name="trace.pftrace"):
    with open(s.path(name), "rb") as f:
        return f.read()


def data_packets(s):
    try:
        return sum(1 for p in pb.packets(trace(s)) if pb.first(p, FIELD) is not None)
    except ValueError:
        return 0  # the last packet is being written


@tap.case("a long trace in detached mode")
def _():
    with service() as s:
        ok(s, f"""
cat > cfg <<END
write_into_file: true
file_write_period_ms: 300
buffers {{ size_kb: 16384 }}
data_sources {{ config {{ {SOURCE} }} }}
END
perfetto -c - --txt --detach=session1 -o trace.pftrace < cfg
perfetto --is_detached=session1
""")  # fmt: skip
        ok(s, "perfetto --is_detached=other", 2)
        stack.until("data in the file, with no client", lambda: data_packets(s) > 0)
        size = len(trace(s))
        stack.until("the file to grow", lambda: len(trace(s)) > size)
        ok(s, "perfetto -c - --txt --detach=session1 -o second.pftrace < cfg", 1)
        ok(s, "perfetto --attach=session1 --stop")
        whole = trace(s)
        tap.expect(data_packets(s) > 0, "no data")
        tap.expect(any(pb.first(p, 35) for p in pb.packets(whole)), "the file has no statistics: it is not complete")
        ok(s, "perfetto --is_detached=session1", 2)
        ok(s, "perfetto --inspect trace.pftrace > /dev/null")
        tap.expect(trace(s) == whole, "the file went on growing")


@tap.case("a detached ring buffer, saved on stop")
def _():
    with service() as s:
        ok(s, f"""
cat > cfg <<END
write_into_file: true
file_write_period_ms: 1000000000
buffers {{ size_kb: 256 }}
data_sources {{ config {{ {SOURCE} }} }}
END
perfetto -c - --txt --detach=session2 -o trace.pftrace < cfg
""")  # fmt: skip
        begin = time.monotonic()
        stack.until("data sources to deliver within their period", lambda: time.monotonic() > begin + 0.5)
        tap.expect_eq(len(trace(s)), 0, "bytes in the file before the stop")
        ok(s, "perfetto --attach=session2 --stop")
        tap.expect(data_packets(s) > 0, "no data")
        data = sum(len(p) for p in pb.packets(trace(s)) if pb.first(p, FIELD) is not None)
        tap.expect(data <= 256 * 1024, f"{data} bytes of data out of a buffer of 256 KB")


@tap.case("a time limit, a late re-attach, the end by itself")
def _():
    with service() as s:
        start = time.monotonic()
        ok(s, f"""
cat > cfg <<END
duration_ms: 2000
write_into_file: true
buffers {{ size_kb: 16384 }}
data_sources {{ config {{ {SOURCE} }} }}
END
perfetto -c - --txt --detach=session3 -o trace.pftrace < cfg
""")  # fmt: skip
        stack.until("half of its time to pass", lambda: time.monotonic() > start + 1)
        ok(s, "perfetto --attach=session3")
        tap.expect(time.monotonic() - start > 1.9, "it ended before its time")
        tap.expect(data_packets(s) > 0, "no data")
        ok(s, "perfetto --attach=session3", 2)


@tap.case("the session survives the terminal's hang-up; SIGINT to the attached client stops it gracefully")
def _():
    with service() as s:
        ok(s, f"""
cat > cfg <<END
write_into_file: true
file_write_period_ms: 100000
buffers {{ size_kb: 4096 }}
data_sources {{ config {{ {SOURCE} }} }}
END
setsid sh -c 'perfetto -c cfg --txt --detach=k -o trace.pftrace; kill -HUP 0'
perfetto --is_detached=k || exit 9
perfetto --attach=k 2>said & pid=$!
i=0; until grep -q "attached to k" said || [ $i -gt 10000 ]; do i=$((i+1)); done
kill -INT $pid; wait $pid
""")  # fmt: skip
        tap.expect(any(pb.first(p, 35) for p in pb.packets(trace(s))), "the file is not complete")


@tap.case("I-R76: another user cannot attach, and may use the same key")
def _():
    with service() as s:
        stack.need_other_user(s.program("perfetto"))
        os.chmod(s.dir, 0o777)
        for name in ("producer.sock", "consumer.sock"):
            os.chmod(s.path(name), 0o777)

        def other(*args):
            return subprocess.run([s.program("perfetto"), *args], user=65534, env=s.env, cwd=s.dir, stderr=subprocess.DEVNULL, timeout=60).returncode

        ok(s, "perfetto -t 60s -s 1mb -b 1mb -o trace.pftrace --detach=k")
        tap.expect_eq(other("--attach=k"), 2, "status of another user's attach")
        tap.expect_eq(other("-t", "60s", "-s", "1mb", "-b", "1mb", "-o", "theirs", "--detach=k"), 0, "status of another user's detach")
        tap.expect_eq(other("--attach=k", "--stop"), 0, "status of another user's own session")
        ok(s, "perfetto --attach=k --stop")


@tap.case("a session whose file is full is gone, and a later attach does not wait for it")
def _():
    with service() as s:
        ok(s, f"""
cat > cfg <<END
write_into_file: true
file_write_period_ms: 100
max_file_size_bytes: 3000
buffers {{ size_kb: 4096 }}
data_sources {{ config {{ {SOURCE} }} }}
END
perfetto -c cfg --txt --detach=k -o trace.pftrace 2> said
""")  # fmt: skip
        with open(s.path("said")) as f:
            tap.expect("was written" not in f.read(), "the trace is called written before it is")
        stack.until("its end", lambda: shell(s, "perfetto --is_detached=k")[0] == 2)
        ok(s, "perfetto --attach=k --stop", 2)
        tap.expect(0 < len(trace(s)) < 3000, f"{len(trace(s))} bytes")


tap.run()
