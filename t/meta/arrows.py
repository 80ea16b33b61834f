"""The arrows between the folders (HACKING.md, "Arrows"): which headers a file of each folder may include.

ALLOWED is the whole truth: what is absent is forbidden. A pattern ending in / allows a folder. The last
cases feed the checker wrong includes, so that it is known to object.
"""

import fnmatch
import os
import re
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import tap

UPB = ["upb/", "google/protobuf/descriptor.upb.h"]
PROTOS = ["protos/"] + UPB
EVENT = ["event2/", "event.h"]
COMPRESS = ["zlib.h", "zstd.h"]
THIRD_PARTY = UPB + EVENT + COMPRESS + ["criterion/"]

# folder: our headers it may include (written "dir/file.h"), then other people's (written <...> or "...").
ALLOWED = {
    "src/reactor": ["reactor/"] + EVENT,
    "src/smb": ["smb/", "reactor/bytes.h", "reactor/err.h", "reactor/log.h", "reactor/list.h"],
    "src/ipc": ["ipc/", "reactor/"] + PROTOS,
    "src/svc": ["svc/", "ipc/", "smb/", "reactor/"] + PROTOS + COMPRESS,
    "src/client": ["client/", "ipc/", "smb/", "reactor/", "perfetto/public/"] + PROTOS,
    "src/probes": ["probes/", "client/", "smb/pbw.h", "reactor/"] + PROTOS,
    "src/cli": ["cli/", "client/", "reactor/"] + PROTOS + COMPRESS,
    "include": ["perfetto/public/"],
    "protos": ["protos/"] + UPB,
}
# Single files that must do less than their folder.
FORBIDDEN = {
    # Only tools carry the descriptors: they are 400 KB that no daemon needs.
    "src/svc/*": ["protos/descset.h", "upb/def.h", "upb/reflection.h"],
    "src/ipc/*": ["protos/descset.h", "upb/def.h", "upb/reflection.h"],
    "src/client/*": ["protos/descset.h", "upb/def.h", "upb/reflection.h"],
    "src/probes/*": ["protos/descset.h", "upb/def.h", "upb/reflection.h"],
    # The hot paths: no upb where a packet passes.
    "src/svc/tbuf*": ["upb/", "*.upb.h"],
    "src/svc/validate*": ["upb/", "*.upb.h"],
}

INCLUDE = re.compile(r'^\s*#\s*include\s*(["<])([^">]+)[">]', re.M)


def matches(header, pattern):
    return header.startswith(pattern) if pattern.endswith("/") else fnmatch.fnmatchcase(header, pattern)


def any_match(header, patterns):
    return any(matches(header, p) for p in patterns)


def folder_of(path):
    return next((f for f in ALLOWED if path.startswith(f + "/")), None)


def complaints(path, source):
    """What is wrong with the includes of the file `path` (relative to the root)."""
    folder = folder_of(path)
    allowed = ALLOWED[folder]
    banned = [b for pattern, bans in FORBIDDEN.items() if fnmatch.fnmatchcase(path, pattern) for b in bans]
    out = []
    for quote, header in INCLUDE.findall(source):
        if quote == '"' and "/" not in header and not any_match(header, COMPRESS + EVENT):
            out.append(f'{path}: "{header}" is not written "dir/file.h"')
        elif header.startswith("."):
            out.append(f"{path}: relative include {header}")
        elif any_match(header, banned):
            out.append(f"{path}: {header} is forbidden here")
        elif quote == '"' or any_match(header, THIRD_PARTY):
            if not any_match(header, allowed):
                out.append(f"{path}: {folder} may not include {header}")
    return out


def sources(folder):
    for d, _, names in os.walk(os.path.join(tap.SRCDIR, folder)):
        for name in sorted(names):
            if name.endswith((".c", ".h")):
                yield os.path.relpath(os.path.join(d, name), tap.SRCDIR)


def check_folder(folder):
    bad = []
    for path in sources(folder):
        with open(os.path.join(tap.SRCDIR, path), encoding="utf-8") as f:
            bad += complaints(path, f.read())
    tap.expect(not bad, "\n".join(bad))


for name in ALLOWED:
    tap.add(f"{name} includes only what its arrows allow", lambda name=name: check_folder(name))


@tap.case("every folder under src has its arrows")
def _():
    have = {e.path[len(tap.SRCDIR) + 1 :] for e in os.scandir(os.path.join(tap.SRCDIR, "src")) if e.is_dir()}
    tap.expect(have <= set(ALLOWED), f"no arrows for {sorted(have - set(ALLOWED))}")


WRONG = [
    ("src/reactor/x.c", '#include "smb/page.h"'),
    ("src/svc/x.c", '#include "cli/opts.h"'),
    ("src/svc/x.c", '#include "client/te.h"'),
    ("src/cli/x.c", '#include "svc/session.h"'),
    ("src/ipc/x.c", '#include "smb/abi.h"'),
    ("src/smb/x.c", "#include <upb/upb.h>"),
    ("src/smb/x.c", '#include "reactor/reactor.h"'),
    ("src/client/te.c", '#include "svc/service.h"'),
    ("src/probes/x.c", '#include "smb/writer.h"'),
    ("src/svc/tbuf_read.c", '#include "protos/trace/trace_packet.upb.h"'),
    ("src/svc/x.c", "#include <event2/event.h>"),
    ("src/svc/x.c", '#include "session.h"'),
    ("include/perfetto/public/x.h", '#include "client/te.h"'),
]
RIGHT = [
    ("src/client/sdk.c", '#include "perfetto/public/packet.h"'),
    ("src/probes/x.c", '#include "smb/pbw.h"'),
    ("src/reactor/x.c", "#include <event2/event.h>\n#include <errno.h>"),
    ("src/svc/x.c", '#include "protos/config/trace_config.upb.h"\n#include <sys/uio.h>'),
]


@tap.case("the checker objects to wrong includes and to no right one")
def _():
    for path, source in WRONG:
        tap.expect(complaints(path, source), f"no complaint about {source} in {path}")
    for path, source in RIGHT:
        tap.expect_eq(complaints(path, source), [], f"complaints about {path}")


tap.run()
