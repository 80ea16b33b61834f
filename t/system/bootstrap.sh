#!/bin/sh
# bootstrap itself: what no ordinary run on a machine that has everything reaches.
. "$srcdir/t/support/tap.sh"
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
etc=$tmp/etc/apt
mkdir -p "$etc/sources.list.d"

# in_bootstrap COMMAND...: runs it with bootstrap's functions.
in_bootstrap()
{
    bash -c 'f=$1; shift; . "$f"; "$@"' test "$srcdir/bootstrap" "$@"
}

cat >"$etc/sources.list" <<'EOF'
# deb http://commented.example/debian bookworm main
deb http://one.example/debian bookworm main contrib
  deb [arch=amd64 signed-by=/usr/share/keyrings/k.gpg] http://two.example/debian bookworm main
deb-src http://three.example/debian bookworm main
EOF
cat >"$etc/sources.list.d/x.sources" <<'EOF'
# A comment
Types: deb deb-src
URIs: http://four.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/k.gpg

types: deb
URIs: http://five.example/debian
Suites: bookworm
Components: main
Architectures: amd64
EOF

one_line_format()
{
    mkdir "$tmp/a"
    in_bootstrap derive_deb_src "$tmp/a" "$etc" || return 1
    [ "$(cat "$tmp"/a/*.list)" = "deb-src http://one.example/debian bookworm main contrib
deb-src [arch=amd64 signed-by=/usr/share/keyrings/k.gpg] http://two.example/debian bookworm main
deb-src http://three.example/debian bookworm main" ]
}

deb822_format()
{
    mkdir "$tmp/b"
    in_bootstrap derive_deb_src "$tmp/b" "$etc" || return 1
    [ "$(cat "$tmp"/b/*.sources)" = "Types: deb-src
URIs: http://four.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/k.gpg
Types: deb-src
URIs: http://five.example/debian
Suites: bookworm
Components: main" ]
}

no_sources_at_all()
{
    mkdir "$tmp/c"
    in_bootstrap derive_deb_src "$tmp/c" "$tmp/none" && [ -z "$(ls "$tmp/c")" ]
}

unknown_command()
{
    "$srcdir/bootstrap" frobnicate >"$tmp/out" 2>&1
    [ $? -eq 1 ] && grep -q 'unknown command: frobnicate' "$tmp/out" && grep -q '^usage: ' "$tmp/out"
}

help_names_every_command()
{
    "$srcdir/bootstrap" help >"$tmp/out" || return 1
    for command in record check build deps upb asan fuzz bench help; do
        grep -q "^  $command\b" "$tmp/out" || { echo "help lacks $command"; return 1; }
    done
}

bad_seconds()
{
    "$srcdir/bootstrap" record 5s >"$tmp/out" 2>&1
    [ $? -eq 1 ] && grep -q "'5s'" "$tmp/out"
}

check "one-line apt sources become deb-src entries, options kept" one_line_format
check "deb822 apt sources become deb-src entries, keys kept" deb822_format
check "a machine without apt sources gives none" no_sources_at_all
check "an unknown command is named, with the usage" unknown_command
check "help names every command" help_names_every_command
check "record refuses a duration that is no number" bad_seconds
done_testing
