#!/bin/sh
# Records the golden data of this folder from the running kernel (needs root): the format files that
# the tests use, raw per-CPU pages, and the kernel's own text rendering of the same pages.
#   record.sh OUT_DIR
# Works in a tracefs instance of its own inside a private mount namespace and removes it afterwards.
set -eu
out=$1
[ "${RECORD_NS:-}" ] || RECORD_NS=1 exec unshare -m "$0" "$@"
mkdir -p "$out"
out=$(cd "$out" && pwd)
mount -t tracefs nodev /sys/kernel/tracing 2>/dev/null || true
t=/sys/kernel/tracing
events="sched/sched_switch sched/sched_waking sched/sched_wakeup sched/sched_wakeup_new
    sched/sched_process_exit sched/sched_process_free sched/sched_process_fork sched/sched_process_exec
    task/task_newtask task/task_rename irq/softirq_raise irq/softirq_entry raw_syscalls/sys_enter
    raw_syscalls/sys_exit filemap/mm_filemap_add_to_page_cache workqueue/workqueue_execute_start
    kmem/kmalloc signal/signal_generate"
formats="ftrace/print ftrace/funcgraph_entry ftrace/funcgraph_exit irq/irq_handler_entry
    power/cpu_frequency power/suspend_resume block/block_rq_issue timer/tick_stop
    workqueue/workqueue_queue_work oom/oom_score_adj_update"
mkdir -p "$out/events"
cat $t/events/header_page >"$out/events/header_page"
for e in $events $formats; do
    [ -r $t/events/$e/format ] || continue
    mkdir -p "$out/events/$e"
    cat $t/events/$e/format >"$out/events/$e/format"
done
i=$t/instances/golden$$
mkdir $i
trap 'echo 0 >$i/tracing_on; echo 0 >$i/events/enable; rmdir $i' EXIT
echo 0 >$i/tracing_on
echo boot >$i/trace_clock
echo 20 >$i/buffer_size_kb
echo 0 >$i/options/irq-info
echo 1 >$i/options/event-fork
echo $$ >$i/set_event_pid
for e in $events; do
    echo 1 >$i/events/$e/enable
done
for e in enter exit; do
    echo 'id == 257 || id == 59' >$i/events/raw_syscalls/sys_$e/filter
done
echo 1 >$i/tracing_on
n=0
while [ $n -lt 25 ]; do
    sh -c 'read -r x </proc/self/comm; (:) & wait' x
    echo "golden line $n" >$i/trace_marker
    n=$((n + 1))
done
echo 0 >$i/tracing_on
cat $i/trace >"$out/trace.txt"
for c in $i/per_cpu/cpu*; do
    timeout 1 dd if=$c/trace_pipe_raw bs=4096 count=64 iflag=nonblock of="$out/$(basename $c).pages" 2>/dev/null || true
    cat $c/stats >"$out/$(basename $c).stats"
done
