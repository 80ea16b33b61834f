"""./bootstrap record and what it promises: a trace of this machine, with the kernel's scheduling in it.

The whole command runs in a mount namespace of its own, where tracefs is not mounted, so that mounting it is
tried too and the machine's own mounts stay as they are.
"""

import os
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import pb
import tap
import tracefs

PATIENCE = 120
TRACEFS = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")

# TracePacket's fields, from protos/trace/trace_packet.proto.
FTRACE_EVENTS, PROCESS_TREE, SYSTEM_INFO, SYS_STATS, TRACE_STATS = 1, 2, 45, 7, 35


def record(prefix, *args):
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PERFETTO_", "TRACED_"))}
    # make check runs this, so the build is there; a make inside make would only get in its way.
    env.update(BUILD=tap.BUILDDIR, NO_BUILD="1")
    return subprocess.run(
        [*prefix, os.path.join(tap.SRCDIR, "bootstrap"), "record", *args],
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
    )


def kinds(path):
    with open(path, "rb") as f:
        return {n for packet in pb.packets(f.read()) for n, _ in pb.fields(packet)}


def in_private_mounts(script):
    """A command prefix: root in a mount namespace of its own, after running `script` there."""
    if os.geteuid() != 0:
        tap.skip("needs root to make a mount namespace")
    prefix = ["unshare", "-m", "sh", "-c", script + '; exec "$@"', "sh"]
    if not shutil.which("unshare") or subprocess.run([*prefix, "true"], stderr=subprocess.DEVNULL).returncode:
        tap.skip("mount namespaces are not allowed here")
    return prefix


@tap.case("record mounts tracefs, records scheduling, processes and statistics, and sums them up")
def _():
    prefix = in_private_mounts(f"umount -l {' '.join(TRACEFS)} 2>/dev/null")
    with tracefs.held(), tempfile.TemporaryDirectory() as tmp:
        out = os.path.join(tmp, "trace.pftrace")
        r = record(prefix, "1", out)
        tap.expect(r.returncode == 0, r.stdout)
        tap.expect("mounted tracefs" in r.stdout, r.stdout)
        for said in ("sched_switch", "sys_stats", "losses:\n  none", "ui.perfetto.dev"):
            tap.expect(said in r.stdout, f"not said: {said!r}\n{r.stdout}")
        tap.expect("cannot connect" not in r.stdout, r.stdout)
        missing = {FTRACE_EVENTS, PROCESS_TREE, SYSTEM_INFO, SYS_STATS, TRACE_STATS} - kinds(out)
        tap.expect(not missing, f"no packets of field {sorted(missing)}\n{r.stdout}")


def expect_no_ftrace(r, out):
    tap.expect(r.returncode == 0, r.stdout)
    tap.expect("scheduling events will be missing" in r.stdout, r.stdout)
    have = kinds(out)
    tap.expect({SYSTEM_INFO, SYS_STATS} <= have, f"fields {sorted(have)}\n{r.stdout}")
    tap.expect(FTRACE_EVENTS not in have, "ftrace packets without tracefs")


@tap.case("record without tracefs says what is missing and records the rest")
def _():
    prefix = in_private_mounts("mount -t tmpfs none /sys/kernel")
    with tempfile.TemporaryDirectory() as tmp:
        out = os.path.join(tmp, "trace.pftrace")
        expect_no_ftrace(record(prefix, "1", out), out)


@tap.case("record without rights says what is missing and records the rest")
def _():
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        tap.skip("needs root and setpriv to become somebody without rights")
    prefix = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--no-new-privs"]
    if subprocess.run([*prefix, "test", "-x", os.path.join(tap.BUILDDIR, "perfetto")]).returncode:
        tap.skip("the build folder is closed to others")
    with tempfile.TemporaryDirectory() as tmp:
        os.chmod(tmp, 0o777)
        out = os.path.join(tmp, "trace.pftrace")
        expect_no_ftrace(record(prefix, "1", out), out)


tap.run()
