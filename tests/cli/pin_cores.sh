#!/bin/bash
# pin_cores: pictures, plans, processes of other VMMs bound and checked, programs run.
. "$(dirname "$0")/lib"

pin_cores=${alcazar%alcazar}pin_cores
export ALCAZAR_RUNTIME_DIR=$work/run
log=err
big='pack:4 numa:2(memory=64GB) l3:2(size=32MB) core:8 pu:2'
pids=()
trap '[ "$BASHPID" != $$ ] || { kill "${pids[@]}" 2>/dev/null; wait 2>/dev/null; rm -rf "$work"; }' EXIT

pin()
{
	timeout 60 "$pin_cores" "$@" >out 2>err
}
# gives STATUS PATTERN ARGUMENT...: that status, and the pattern in its output.
gives()
{
	local want=$1 pattern=$2
	shift 2
	pin "$@"
	local status=$?
	[ $status = "$want" ] || return 1
	[ -z "$pattern" ] || cat out err | grep -qE -- "$pattern"
}
is_xml()
{
	if command -v xmllint >/dev/null; then
		xmllint --noout "$1" 2>>err
	else
		head -c 5 "$1" | grep -q '<svg ' && tail -n 1 "$1" | grep -q '^</svg>$'
	fi
}
count()
{
	grep -cE -- "$1" "$2"
}
wait_for() # SECONDS COMMAND...
{
	local left=$(($1 * 20))
	shift
	until "$@"; do
		[ $((left -= 1)) -gt 0 ] || return 1
		sleep 0.05
	done
}
# start FORMAT COUNT [MIB]: a process whose threads have such names, in $pid.
start()
{
	: >ready
	./threads "$1" "$2" 120 "${3:-0}" >ready &
	pid=$!
	pids+=($pid)
	wait_for 20 grep -q ready ready
}
stop()
{
	kill "$1" 2>/dev/null
	wait "$1" 2>/dev/null
	true
}
# Threads of $pid by name, each with its affinity: "CPU 0/KVM 3".
affinities()
{
	local t
	for t in /proc/"$pid"/task/*; do
		echo "$(<"$t/comm") $(sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' "$t/status")"
	done
}
bound() # NAME-PATTERN COUNT: as many threads of such names are bound to one PU each
{
	[ "$(affinities | grep -cE "^$1 [0-9]+\$")" = "$2" ]
}

cp "${manual%/docs/man/alcazar.1}"/build/tests/cli/{threads,slow_affinity.so} . || exit 1

# --- words ---
check "no command" gives 2 'pin_cores --help'
check "an unknown one" gives 2 'no such command' dance
check "help" gives 0 'watch' --help
check "its version" gives 0 '^pin_cores [0-9]' --version
for c in show plan explain apply verify run watch; do
	check "help of $c" gives 0 "usage: pin_cores $c" $c --help
	check "an unknown option of $c" gives 2 'no such option' $c --dance
	check "$c is in the manual" grep -qE "^\.SS $c" "${manual%alcazar.1}pin_cores.1"
done

# --- show ---
check "this host" gives 0 'PU 0' show --no-load
check "as JSON" gives 0 '"usable": true' show --json --no-load
check "how busy it is" gives 0 'PU 0, [0-9]+ % busy' show
check "another machine" gives 0 '4 packages, 8 nodes, 128 cores, 256 PUs' show --topology "$big"
check "one that is none" gives 2 'not an hwloc' show --topology 'moon:2'
check "a picture" gives 0 '' show --topology "$big" --svg big.svg
check "is well-formed" is_xml big.svg
check "has every PU" [ "$(count '<title>PU [0-9]+: ' big.svg)" = 256 ]
check "and every node" [ "$(count '>node [0-9]+<' big.svg)" = 8 ]
check "on standard output" gives 0 '^</svg>' show --topology 'numa:1 core:2 pu:1' --svg -
check "not where nobody may write" gives 2 'cannot be written' show --svg /nowhere/x.svg

# --- plan, explain ---
check "a plan" gives 0 '96 vCPUs on 96 PUs, 64G' plan --topology "$big" --cpus 96 --memory 64G
check "explained" gives 0 '^  chosen .*cost' explain --topology "$big" --cpus 96 --memory 64G
check "with what was rejected" grep -q '^  rejected' out
check "as JSON" gives 0 '"alternatives"' plan --topology "$big" --cpus 4 --json
check "painted" gives 0 '' plan --topology "$big" --cpus 16 --memory 8G --svg plan.svg
check "that is well-formed" is_xml plan.svg
check "with 16 vCPUs on it" [ "$(count '^guest vCPU [0-9]+' plan.svg)" = 16 ]
check "too much" gives 2 'MiB' plan --topology "$big" --memory 9999G
check "pins" gives 0 'vCPU 0 on PU 40:' plan --topology "$big" --pin 0:40
check "another machine runs nothing" gives 2 'leave --topology out' plan --topology "$big" --pid $$
check "a process knows its size" gives 2 'leave --cpus out' plan --pid $$ --cpus 3

# --- processes of others ---
start 'CPU %d/KVM' 2 32
check "QEMU is recognised" gives 0 'QEMU, pid [0-9]+\): 2 vCPUs' plan --pid $pid --no-foreign
check "and its memory seen" grep -qE ', 3[2-9]M$' out
check "planning changes nothing" bound 'CPU [01]/KVM' 0
check "nothing was applied yet" gives 2 'no plan was applied' verify --pid $pid
check "applied" gives 0 'bound 2 vCPUs, and 1 other thread' apply --pid $pid --memory --no-foreign
check "its vCPUs are bound" bound 'CPU [01]/KVM' 2
check "its memory was looked at" grep -qE 'moved .* of 3[2-9]' out
check "verified" gives 0 '2 of 2 threads as planned' verify --pid $pid
check "with its memory" grep -qE 'at home, 100.0 %, ok' out
check "shown" gives 0 "threads \(QEMU, pid $pid\): 2 vCPUs, 2 bound" show --no-load
check "and painted" gives 0 '' show --no-load --svg host.svg
check "by name" grep -q '^threads vCPU 1' host.svg
check "watched" gives 0 'CPU 1/KVM' watch --pid $pid --once
check "as JSON" gives 0 '"name": "CPU 0/KVM"' watch --pid $pid --once --json
timeout -s TERM 2 "$pin_cores" watch --pid $pid --interval 100 --json >out 2>err
check "again and again" [ "$(count '^{"processes":' out)" -gt 2 ]
timeout -s INT 1 "$pin_cores" watch --pid $pid --interval 100 >out 2>err
check "and no escape codes in files" bash -c '! grep -q "$(printf "\033")" out'
if [ "$(nproc)" -gt 1 ]; then
	taskset -pc 0,1 "$(grep -l 'CPU 1' /proc/$pid/task/*/comm | cut -d/ -f5)" >/dev/null
	check "astray" gives 1 'ASTRAY' verify --pid $pid
	check "as JSON" gives 1 '"ok": false' verify --pid $pid --json
	check "put right" gives 0 'bound 2' apply --pid $pid --no-foreign
	check "so it is" gives 0 '2 of 2' verify --pid $pid
fi
check "a plan for later" gives 0 '"tids"' plan --pid $pid --json --no-foreign
cp out plan.json
check "applied then" gives 0 'bound 2' apply --pid $pid --plan plan.json
check "and verified" gives 0 '2 of 2' verify --pid $pid --plan plan.json
sed 's/"pu": [0-9]*/"pu": 4000/' plan.json >far.json
check "a plan with PUs that are not there" gives 2 'PU 4000 is not there' apply --pid $pid --plan far.json
check "a plan is not made twice" gives 2 'leave --pin out' apply --pid $pid --plan plan.json --pin 0:0
for spoilt in '{' '[]' '{"vcpus": [], "memory": []}' '{"vcpus": 1, "memory": {}}' \
	'{"vcpus": [{"id": 0, "pu": -1, "node": 0, "host_node": 0}], "memory": [{}]}'; do
	echo "$spoilt" >spoilt.json
	check "a plan that is none: $spoilt" gives 2 'spoilt.json' apply --pid $pid --plan spoilt.json
done
check "a plan for others" gives 2 'is for 3 threads' apply --pid $pid --plan <("$pin_cores" plan \
	--cpus 3 --no-foreign --json 2>/dev/null)
check "as text and as JSON" gives 0 '"other_threads": 1' apply --pid $pid --no-foreign --json
stop $pid
check "when it has ended" gives 2 'there is none, or it has just ended' apply --pid $pid
check "nothing can be verified" gives 2 'there is none' verify --pid $pid

start 'vcpu%d' 3
check "Cloud Hypervisor is recognised" gives 0 'Cloud Hypervisor' apply --pid $pid --no-foreign
check "and bound" bound 'vcpu[0-2]' 3
stop $pid
start 'fc_vcpu %d' 1
check "Firecracker is recognised" gives 0 'Firecracker' apply --pid $pid --no-foreign
check "and bound" bound 'fc_vcpu 0' 1
stop $pid
check "records of the dead are swept away" [ "$(ls run | grep -c plan)" = 1 ]
start worker 3
check "any program will do" gives 0 'program, pid' apply --pid $pid --no-foreign
check "all of its threads are bound" bound '(worker|threads)' 4
check "a name and a pid" gives 2 'not both' apply web --pid $pid
check "neither" gives 2 'nothing named' apply
check "no such machine" gives 2 'no machine of this name' apply web
check "nor to verify" gives 2 'no machine of this name' verify web
check "nor to watch" gives 2 'no machine of this name' watch web --once
if [ "$(id -u)" = 0 ] && command -v setpriv >/dev/null; then
	as_nobody()
	{
		chmod 711 "$work"
		ALCAZAR_RUNTIME_DIR=/tmp/alcazar-nobody-$$ setpriv --reuid 65534 --clear-groups \
			--inh-caps=-all "$pin_cores" "$@" >out 2>err
		local status=$?
		rm -rf /tmp/alcazar-nobody-$$
		return $status
	}
	if as_nobody --version; then
		as_nobody apply --pid $pid --no-foreign
		check "refused to others" [ $? = 2 ]
		check "who are told why" grep -q 'be its user, or root' err
	fi
fi
stop $pid

# --- QEMU itself ---
if command -v qemu-system-x86_64 >/dev/null; then
	qemu-system-x86_64 -accel tcg,thread=multi -machine q35 -m 32M -smp 4 -display none -S \
		-name test,debug-threads=on -serial null -monitor none >/dev/null 2>&1 &
	pid=$!
	pids+=($pid)
	check "QEMU starts" wait_for 30 bash -c "grep -q 'CPU 3/TCG' /proc/$pid/task/*/comm 2>/dev/null"
	check "and is planned for" gives 0 'QEMU, pid [0-9]+\): 4 vCPUs' apply --pid $pid --no-foreign
	check "its threads are bound" bound 'CPU [0-3]/TCG' 4
	check "as planned" gives 0 '4 of 4' verify --pid $pid
	stop $pid
fi

# --- our machines ---
"$alcazar" run --kernel idle --cpus 2 --memory 16M --name web --timeout 100 --no-foreign --quiet \
	>/dev/null 2>&1 </dev/null &
pids+=($!)
ours=$!
check "ours runs" wait_for 30 bash -c '"$0" verify web >out 2>err' "$pin_cores"
check "verified by name" gives 0 '2 of 2 threads as planned' verify web
check "shown by name" gives 0 'web \(Alcazar' show --no-load
check "watched by name" gives 0 'vcpu1' watch web --once
check "rebalancing is its own business" gives 2 'alcazar rebalance web' apply --pid $ours
if [ "$(nproc)" -gt 1 ]; then
	taskset -pc 0,1 "$(grep -l vcpu1 /proc/$ours/task/*/comm | cut -d/ -f5)" >/dev/null
	check "astray" gives 1 ASTRAY verify web
	check "put right by name" gives 0 'bound 2 vCPUs of web' apply web --memory
	check "so it is" gives 0 '2 of 2' verify web
fi
stop $ours

# --- run ---
check "a command's status" gives 7 '' run --no-foreign -- sh -c 'exit 7'
check "one that is killed" gives 137 '' run --no-foreign -- sh -c 'kill -9 $$'
check "one that is not there" gives 127 'cannot be run' run --no-foreign -- ./nothing
check "one that is none" gives 126 'cannot be run' run --no-foreign -- ./plan.json
check "none at all" gives 2 'no command' run --cpus 2
check "hints" gives 0 '^OMP_PLACES=\{[0-9]+\},\{[0-9]+\}$' run --cpus 2 --no-foreign -- env
check "for their number" grep -q '^OMP_NUM_THREADS=2$' out
check "no hints" bash -c '! "$0" run --cpus 2 --no-foreign --no-hints -- env 2>err | grep ^OMP' "$pin_cores"
check "what is set stays" bash -c \
	'OMP_NUM_THREADS=9 "$0" run --no-foreign -- env 2>err | grep -qx OMP_NUM_THREADS=9' "$pin_cores"
check "memory where it is planned" gives 0 ' bind:' run --memory-policy bind --no-foreign -- \
	cat /proc/self/numa_maps
check "explained" gives 0 'alternatives:' run --explain --no-foreign -- true

# The sanitizer wants to be loaded first, or be told that it need not.
slowly()
{
	LD_PRELOAD=$work/slow_affinity.so ASAN_OPTIONS=${ASAN_OPTIONS:-}:verify_asan_link_order=0 "$@"
}
check "bound to one PU, however slowly it begins" slowly gives 0 '^bound to [0-9]+$' \
	run --cpus 2 --no-foreign -- sh -c 'sleep 0.5
	sed -n "s/^Cpus_allowed_list:[[:space:]]*/bound to /p" /proc/$$/status'

: >ready
"$pin_cores" run --cpus 2 --memory 8M --no-foreign -- ./threads 'w%d' 2 60 >ready 2>err &
launcher=$!
pids+=($launcher)
wait_for 20 grep -q ready ready
pid=$(pgrep -P $launcher)
check "its threads are bound as they appear" wait_for 10 bound '(w[01]|threads)' 3
both=2
[ "$(nproc)" -gt 1 ] || both=1
check "to all PUs" [ "$(affinities | sed 's/.* //' | sort -u | wc -l)" = $both ]
check "it is in the ledger" bash -c '"$0" ps | grep -qE "^threads-'"$pid"' .* program "' "$alcazar"
check "and shown" gives 0 "threads-$pid \(program, pid $pid\): 2 threads, 2 bound" show --no-load
check "planned around" gives 2 'exclusive: .* threads-' plan --cpus 2 --exclusive --no-foreign
kill -TERM $launcher
wait $launcher
check "a signal is passed on" [ $? = 143 ]
check "and the claim is gone" bash -c '! ls run/*.claim 2>/dev/null | grep -q .'
check "children of children are followed" gives 0 '^2 bound' run --cpus 2 --no-foreign -- sh -c '
	./threads x%d 1 60 >/dev/null &
	for i in $(seq 200); do
		n=$(grep -hcE "^Cpus_allowed_list:[[:space:]]*[0-9]+$" /proc/$!/task/*/status | grep -c 1)
		[ $n != 2 ] || break
		sleep 0.05
	done
	echo "$n bound"; kill $!'
finish
