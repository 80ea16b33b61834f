"""The manual against the programs: options, fields of configs, examples; and the completion scripts.

What a page says must be what the program does: every option of the table is in the page and no other,
every field that perfetto-config(5) lists is in the schema with that type and the lists are complete,
and every config in an example parses.
"""

import os
import re
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import tap

MAN = os.path.join(tap.SRCDIR, "man")
TABLES = os.path.join(tap.SRCDIR, "protos", "tables")


def page(name):
    with open(os.path.join(MAN, name)) as f:
        return f.read()


def run(program, *args, stdin=b""):
    return subprocess.run(
        [os.path.join(tap.BUILDDIR, program), *args], input=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60
    )


def help_options(program):
    """{long name: (letter or None, has an argument)} from --help."""
    out = {}
    for line in run(program, "--help").stdout.decode().split("\n"):
        m = re.match(r" {2}(?:-(\w),)? +--([\w-]+)( \S)?", line)
        if m:
            out[m[2]] = (m[1], bool(m[3]))
    return out


def page_options(name):
    """The same from the item heads of a page."""
    out = {}
    for line in re.findall(r"^\.It (Fl .*)", page(name), re.M):
        letter = re.search(r"\bFl (\w)(?= |$)", line)
        names = re.findall(r"Fl -([\w-]+)", line)
        for n in names:
            out[n] = (letter[1] if letter else None, " Ar " in line)
    return out


for program in ("perfetto", "trigger_perfetto"):

    @tap.case(f"{program}.1 has every option of the program, and no other")
    def _(program=program):
        tap.expect_eq(page_options(program + ".1"), help_options(program), "options")


@tap.case("options named in the text of perfetto.1 exist")
def _():
    known = set(help_options("perfetto"))
    named = set(re.findall(r"Fl -([a-z][\w-]+)", page("perfetto.1")))
    tap.expect(named <= known, f"not options: {sorted(named - known)}")


# Fields of DataSourceConfig that belong to other systems: the page says that it leaves them out.
FOREIGN = re.compile(r"android|chrom|heapprofd|gpu|java_hprof|vulkan|etw|protolog|v8|qnx|surfaceflinger|statsd|network_packet|windowmanager|pixel|inputmethod|packages_list|kernel_wakelocks|app_wakelocks|cpu_per_uid|user_list|display_video")


def schema():
    """{message: {field: type as the page writes it}}"""
    out = {}
    with open(os.path.join(TABLES, "proto_fields.tsv")) as f:
        next(f)
        for line in f:
            c = (line.rstrip("\n").split("\t") + [""] * 7)[:7]
            if not c[2].isdigit():
                continue
            kind = c[6].split(".")[-1] if c[5] in ("message", "enum") else c[5]
            kind = ("enum " if c[5] == "enum" else "") + kind
            out.setdefault(c[1], {})[c[3]] = ("repeated " if c[4] == "repeated" else "") + kind
    return out


def page_messages():
    out, cur = {}, None
    for line in page("perfetto-config.5").split("\n"):
        if m := re.match(r"\.Ss (\S+)$", line):
            cur = out.setdefault(m[1], {})
        elif m := re.match(r"\.It Ic (\w+) Pq Li (.+)", line):
            cur[m[1]] = m[2]
    return {k: v for k, v in out.items() if v}


@tap.case("perfetto-config.5 lists fields as the schema has them, and all of them")
def _():
    have, listed, bad = schema(), page_messages(), []
    tap.expect(len(listed) > 30, f"only {len(listed)} messages found in the page")
    for message, fields in listed.items():
        if message not in have:
            bad.append(f"{message} is no message")
            continue
        for name, kind in fields.items():
            want = have[message].get(name)
            if want is None:
                bad.append(f"{message}.{name} is no field")
            elif kind.replace("enum ", "") != want.replace("enum ", "") and kind.split(".")[-1] != want.split()[-1]:
                bad.append(f"{message}.{name} is {want}, the page says {kind}")
        for name in have[message]:
            if name not in fields and not (message == "DataSourceConfig" and FOREIGN.search(name)):
                bad.append(f"{message}.{name} is missing")
    tap.expect(not bad, "\n".join(bad))


@tap.case("perfetto-config.5 lists enum values as the schema has them")
def _():
    values, bad = {}, []
    with open(os.path.join(TABLES, "proto_enums.tsv")) as f:
        for line in f:
            c = line.rstrip("\n").split("\t")
            if len(c) > 3 and re.fullmatch(r"-?\d+", c[2]):
                values.setdefault(c[1].split(".")[-1], {}).setdefault(c[3], set()).add(int(c[2]))
    text = page("perfetto-config.5").split(".Ss Enum values")[1].split(".El")[0]
    for name, body in re.findall(r"\.It Ic (\S+)\n([^.]+)", text):
        for value, number in re.findall(r"([A-Z][A-Z0-9_]+)\s+(\d+)", body):
            if int(number) not in values.get(name.split(".")[-1], {}).get(value, ()):
                bad.append(f"{name}: {value} {number}")
    tap.expect(not bad, "\n".join(bad))


@tap.case("perfetto-config.5 lists the categories that traced_probes knows")
def _():
    with open(os.path.join(tap.SRCDIR, "src", "probes", "ftrace", "atcat.c")) as f:
        table = f.read().split("categories[] = {")[1].split("};")[0]
    known = re.findall(r'\{"(\w+)",', table)
    text = page("perfetto-config.5").split(".It Ic atrace_categories ")[1].split(".It ")[0]
    listed = re.findall(r"\w+", text.partition(":")[2].partition(".")[0])
    tap.expect(len(known) > 10, f"only {known} found in the table")
    tap.expect_eq(listed, sorted(known), "categories")


def literals(name):
    return re.findall(r"^\.Bd -literal[^\n]*\n(.*?)^\.Ed", page(name), re.M | re.S)


@tap.case("configs in the manual parse")
def _():
    n = 0
    for name in ("perfetto.1", "perfetto-config.5"):
        for block in literals(name):
            block = block.replace("\\e", "\\").replace("\\&", "")
            # a shell session: the config is what `cat` shows
            shown = re.search(r"^\$ cat \w+\n(.*?)^\$ ", block, re.M | re.S)
            text = shown[1] if shown else block
            if not re.search(r"^\w+ ?(\{|: )", text, re.M) or "error:" in text or "$(" in text:
                continue
            if text.startswith("ftrace_events"):
                text = "data_sources { config { ftrace_config {\n" + text + "} } }\n"
            r = run("perfetto", "-c", "-", "--txt", "--print-config", stdin=text.encode())
            tap.expect_eq(r.returncode, 0, f"{name}: exit status for\n{text}\n{r.stderr.decode()}")
            n += 1
    tap.expect(n >= 6, f"only {n} configs found")


@tap.case("the mistake shown in the manual is reported as shown")
def _():
    (block,) = [b for b in literals("perfetto-config.5") if "error:" in b]
    line = re.search(r"^ {4}(\w.*)$", block, re.M)[1]
    r = run("perfetto", "-c", "-", "--txt", "--print-config", stdin=f"\nbuffers {{\n    {line}\n}}\n".encode())
    said = r.stderr.decode().split("\n")
    want = block.rstrip("\n").split("\n")
    tap.expect_eq(said[0].split(" error: ")[1], want[0].split(" error: ")[1], "message")
    tap.expect_eq([said[1], said[2]], [want[1], want[2]], "line and marker")


for shell in ("bash", "zsh"):

    @tap.case(f"the completion script is well-formed {shell}")
    def _(shell=shell):
        if not shutil.which(shell):
            tap.skip(f"no {shell}")
        script = run("perfetto", "--completion", shell).stdout
        r = subprocess.run([shell, "-n"], input=script, stderr=subprocess.PIPE, timeout=60)
        tap.expect_eq(r.returncode, 0, f"{shell} -n: {r.stderr.decode()}")


@tap.case("bash completes options, values and prefixes")
def _():
    if not shutil.which("bash"):
        tap.skip("no bash")
    script = run("perfetto", "--completion", "bash").stdout.decode()

    def complete(*words):
        probe = "COMP_WORDS=(%s); COMP_CWORD=%d; _perfetto; printf '%%s\\n' \"${COMPREPLY[@]}\"" % (
            " ".join(f"'{w}'" for w in words),
            len(words) - 1,
        )
        r = subprocess.run(["bash", "-c", script + "\n" + probe], stdout=subprocess.PIPE, timeout=60)
        return r.stdout.decode().split()

    tap.expect_eq(complete("perfetto", "--no-c"), ["--no-clobber"])
    tap.expect_eq(sorted(complete("perfetto", "--query")), ["--query", "--query-raw"])
    tap.expect_eq(complete("perfetto", "--completion", "z"), ["zsh"])


tap.run()
