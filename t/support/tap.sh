# TAP for shell tests: source it, call ok / not_ok / skip once per case, done_testing last.
#   . "$srcdir/t/support/tap.sh"
#   check "a name" command args...     passes when the command exits 0
tap_n=0
tap_failed=0
ok()
{
    tap_n=$((tap_n + 1))
    echo "ok $tap_n - $1"
}
not_ok()
{
    tap_n=$((tap_n + 1))
    tap_failed=$((tap_failed + 1))
    echo "not ok $tap_n - $1"
}
# skip NAME REASON
skip()
{
    tap_n=$((tap_n + 1))
    echo "ok $tap_n - $1 # SKIP $2"
}
check()
{
    tap_name=$1
    shift
    if "$@" >&2; then ok "$tap_name"; else not_ok "$tap_name"; fi
}
done_testing()
{
    echo "1..$tap_n"
    exit 0
}
