"""./bootstrap soak: the service lives for a long time among peers that come, go, die and misbehave.

usage: soak.py SECONDS (BUILDDIR in the environment as for every test)

Recordings follow each other in several lanes; some are killed with their client, the probes are killed and
started again, and garbage comes in on the producer socket. All the while the service must answer, each
recording that was left alone must give a trace that parses and has no losses of its own making, and memory
and descriptors must come back to what they were after the warm-up.
"""

import os
import random
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

SECONDS = float(sys.argv[1]) if len(sys.argv) > 1 else 300.0
LANES = 3
MEMORY_SLACK_KB = 2048

CONFIG = """
duration_ms: %d
buffers { size_kb: 1024 fill_policy: %s }
data_sources { config { name: "linux.sys_stats" sys_stats_config { stat_period_ms: 50 meminfo_period_ms: 50 } } }
data_sources { config { name: "linux.process_stats" process_stats_config { proc_stats_poll_ms: 100 } } }
"""


class Counts:
    def __init__(self):
        self.lock = threading.Lock()
        self.values = {}
        self.trouble = []

    def add(self, name, n=1):
        with self.lock:
            self.values[name] = self.values.get(name, 0) + n

    def complain(self, what):
        with self.lock:
            self.trouble.append(what)


def status_kb(pid, key):
    with open(f"/proc/{pid}/status", encoding="ascii") as f:
        return int(next(line for line in f if line.startswith(key + ":")).split()[1])


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def lane(work, s, n, end, counts):
    """A lane's thread: whatever goes wrong in it is trouble."""
    try:
        work(s, n, end, counts)
    except Exception as err:
        counts.complain(f"{work.__name__}, lane {n}: {type(err).__name__}: {err}")


def recordings(s, lane, end, counts):
    rng = random.Random(lane)
    n = 0
    while time.monotonic() < end and not counts.trouble:
        n += 1
        out = s.path(f"lane{lane}.{n}.pftrace")
        config = CONFIG % (rng.randint(100, 1500), rng.choice(("RING_BUFFER", "DISCARD")))
        if rng.random() < 0.3:
            with open(s.path(f"lane{lane}.cfg"), "w", encoding="ascii") as f:
                f.write(config)
            p = s.start("perfetto", "-c", f.name, "--txt", "-o", out)
            try:
                p.wait(rng.random())
            except subprocess.TimeoutExpired:
                p.kill()
                p.wait()
            counts.add("clients killed")
            s.children.remove(p)
            p.log.close()
            os.unlink(p.log.name)
        else:
            r = s.perfetto("-c", "-", "--txt", "-o", out, stdin=config)
            if r.returncode != 0:
                counts.complain(f"lane {lane}: perfetto ended with {r.returncode}: {r.stderr}")
                return
            with open(out, "rb") as f:
                counts.add("packets", sum(1 for _ in pb.packets(f.read())))
            counts.add("recordings")
        if os.path.exists(out):
            os.unlink(out)


def garbage(s, lane, end, counts):
    rng = random.Random(lane)
    while time.monotonic() < end and not counts.trouble:
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(5)
            try:
                peer.connect(s.path("producer.sock"))
                peer.sendall(rng.randbytes(rng.randint(1, 4096)))
                peer.recv(64)
            except (ConnectionError, TimeoutError):
                pass
        counts.add("garbage connections")


def main():
    counts = Counts()
    with stack.Stack() as s:
        traced = s.start_traced()
        probes = s.start_probes()
        begin = time.monotonic()
        end = begin + SECONDS
        works = [recordings] * LANES + [garbage]
        lanes = [threading.Thread(target=lane, args=(work, s, n, end, counts)) for n, work in enumerate(works)]
        for t in lanes:
            t.start()
        warm = None
        while time.monotonic() < end and not counts.trouble:
            lanes[0].join(min(5.0, max(0.1, end - time.monotonic())))
            if traced.poll() is not None:
                counts.complain(f"traced ended with {traced.returncode}\n{s.log_of(traced)}")
                break
            rss = status_kb(traced.pid, "VmRSS")
            if warm is None and time.monotonic() - begin > SECONDS / 4:
                warm = rss
            print(f"{time.monotonic() - begin:6.0f} s: {rss} KB, {descriptors(traced.pid)} descriptors, {counts.values}", flush=True)
            probes.send_signal(signal.SIGKILL)
            probes.wait()
            s.children.remove(probes)
            probes.log.close()
            counts.add("probes killed")
            probes = s.start_probes()
        for t in lanes:
            t.join()
        if not counts.trouble:
            try:
                # One producer (the probes) with its memory, and what the service itself holds.
                stack.until("descriptors to come back", lambda: descriptors(traced.pid) <= 24)
                rss = status_kb(traced.pid, "VmRSS")
                tap.expect(warm is None or rss <= warm + MEMORY_SLACK_KB, f"memory grew from {warm} to {rss} KB")
            except AssertionError as err:
                counts.complain(str(err))
    for what in counts.trouble:
        print(f"FAIL {what}")
    print(f"soaked for {time.monotonic() - begin:.0f} s: {counts.values}")
    return 1 if counts.trouble else 0


if __name__ == "__main__":
    sys.exit(main())
