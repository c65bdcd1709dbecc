#!/bin/bash
# A machine's life as its user sees it: statuses, console, signals, files, JSON.
. "$(dirname "$0")/lib"
log=err

# ends STATUS ARGUMENT...: of a machine of 16M, quiet and bounded in time.
ends()
{
	local want=$1
	shift
	timeout -k 5 60 "$alcazar" run --quiet --memory 16M "$@" >out 2>err </dev/null
	[ $? = "$want" ]
}

out_is()
{
	[ "$(tr -d '\r' <out)" = "$1" ]
}

check "--version" bash -c '[[ "$("$0" --version)" =~ ^alcazar\ [0-9]+\.[0-9]+\.[0-9]+$ ]]' "$alcazar"
for help in "--help" "run --help" "topology --help"; do
	# shellcheck disable=SC2086
	check "$help" bash -c '"$@" | grep -q usage' help "$alcazar" $help
done

# Help, manual and table are one: every flag is in the manual page.
in_manual()
{
	local flag command
	for command in run topology doctor; do
		for flag in $("$alcazar" $command --help | grep -o '^  --[a-z-]*'); do
			grep -qF -- "${flag//-/\\-}" "$manual" || return 1
		done
	done
}
check "every option is in the manual" in_manual

# --- ends -----------------------------------------------------------------------

check "exit port: 5 makes 11" ends 11 --kernel exit5
check "exit port: 0 makes 1" ends 1 --kernel hi
check "and the console's line came out" out_is hi
check "triple fault with --no-reboot" ends 6 --kernel triple --no-reboot
check "triple faults reboot until the timeout" ends 124 --kernel triple --timeout 1
# cut_short: the guest's next reset finds no more than that of its image.
cut_short()
{
	cp triple cut
	"$alcazar" run --quiet --memory 16M --timeout 60 --kernel cut >out 2>err </dev/null &
	sleep 1
	: >cut
	wait $!
	[ $? = 4 ] && grep -q '^alcazar: .*cut: neither a Linux kernel' err && [ "$(wc -l <err)" = 1 ]
}
check "a kernel file that is cut short before a reset" cut_short
check "timeout while idle" ends 124 --kernel idle --timeout 1
check "timeout while busy" ends 124 --kernel spin --timeout 1 --cpus 2
check "timeout while printing" ends 124 --kernel chatter --timeout 1

# signalled SIGNAL ARGUMENT...: sent after a while; status 8, not the timeout's.
signalled()
{
	local signal=$1 pid
	shift
	"$alcazar" run --quiet --memory 16M --timeout 60 "$@" >out 2>err </dev/null &
	pid=$!
	sleep 1
	kill -s "$signal" "$pid"
	wait "$pid"
	[ $? = 8 ]
}

# Background jobs of a script ignore SIGINT; our command does not mind.
for signal in INT TERM HUP QUIT; do
	check "SIG$signal while busy" signalled $signal --kernel spin
done
check "SIGTERM while idle" signalled TERM --kernel idle --cpus 4
check "SIGTERM while printing" signalled TERM --kernel chatter

# --- console --------------------------------------------------------------------

check "console to a file" ends 1 --kernel hi --console file:con
check "it is there" grep -q hi con
echo "something much longer than the guest's line" >con
check "console to a file that exists" ends 1 --kernel hi --console file:con
check "it was replaced" bash -c '[ "$(tr -d "\r" <con)" = hi ]'
check "console none" ends 1 --kernel hi --console none
check "nothing came out" out_is ""
check "a full device" ends 1 --kernel hi --console file:/dev/full
check "the loss is told" grep -q "No space left" err

# A reader that goes away does not end the machine, one that stalls does not hold it up for ever.
broken_pipe()
{
	{
		timeout -k 5 60 "$alcazar" run --quiet --memory 16M --kernel chatter \
			--timeout 2 2>err
		echo $? >status
	} | head -c 1 >/dev/null
	[ "$(cat status)" = 124 ] && grep -q "Broken pipe" err
}
check "a reader that goes away" broken_pipe

stalled_reader()
{
	{
		timeout -k 5 60 "$alcazar" run --quiet --memory 16M --kernel chatter \
			--timeout 2 2>err
		echo $? >status
	} | sleep 10
	[ "$(cat status)" = 124 ]
}
check "a reader that stalls" stalled_reader

slow_reader()
{
	timeout -k 5 60 "$alcazar" run --quiet --memory 16M --kernel hi 2>err |
		{ sleep 2; cat; } | tr -d '\r' >out
	out_is hi
}
check "a reader that is late" slow_reader

input_reaches_guest()
{
	timeout -k 5 60 "$alcazar" run --quiet --memory 16M --kernel echo --timeout 30 \
		2>err >out "$@"
	[ $? = 1 ] && out_is Q
}
check "input from a pipe" input_reaches_guest < <(sleep 1; echo -n Q)
echo -n Q >typed
check "input from a file" input_reaches_guest <typed
check "standard input closed" ends 1 --kernel hi <&-
stdout_closed()
{
	timeout 20 "$alcazar" run --quiet --memory 16M --kernel hi >&- 2>err
	[ $? = 2 ] && grep -q "standard output is closed" err
}
check "standard output closed" stdout_closed

# On a terminal: keys come raw, Ctrl-A x ends, settings are restored.
terminal()
{
	local keys=$1 want=$2
	{ sleep 1.5; printf "$keys"; sleep 2; } |
		timeout -k 5 60 script -qec "stty -a >before; '$alcazar' run --quiet --memory 16M \
			--kernel $3 --timeout 10; echo status=\$?; stty -a >after" /dev/null >out 2>&1
	grep -q "status=$want" out && cmp -s before after
}
if command -v script >/dev/null; then
	check "Ctrl-A x ends" terminal '\001x' 8 idle
	check "Ctrl-C goes to the guest" terminal '\003' 1 echo
	check "Ctrl-A Ctrl-A sends Ctrl-A" terminal '\001\001' 1 echo
	check "Ctrl-A h helps" terminal '\001h\001x' 8 idle
	check "by telling the keys" grep -q "end the machine" out
fi

# --- configuration, reports, traces ---------------------------------------------

printf 'kernel: exit5\nmemory: 16M\ncpus: 3\nquiet: yes\ncpu: [+rdrand, -pcid]\n' >c.yaml
check "a configuration file" ends 11 --config c.yaml
check "flags override it" ends 1 --config c.yaml --kernel hi
cpus_are()
{
	local want=$1
	shift
	[ "$("$alcazar" run --dry-run --json "$@" | grep -c '"id"')" = "$want" ]
}
check "its CPUs count" cpus_are 3 --config c.yaml
check "unless a flag says so" cpus_are 2 --config c.yaml --cpus 2
check "dry run needs no kernel" ends 0 --dry-run --cpus 4 --nodes 2
check "and prints the placement" grep -q "vCPU 3 on PU" out

check "JSON result" ends 11 --kernel exit5 --json --stats
check "on the last line" bash -c 'tail -n 1 out | grep -q "^{.*\"status\":11.*\"insns\":.*}$"'
check "counters" ends 11 --kernel exit5 --stats
check "as a table" grep -q '^insns' err
check "trace of exits" ends 11 --kernel exit5 --trace exits:trace
check "is written" test -e trace
check "trace of instructions" ends 11 --kernel exit5 --trace insn:trace
check "has a line for each" test -s trace
check "trace to a full device" ends 11 --kernel exit5 --trace insn:/dev/full

# Each line: address, size, name.
perf_map()
{
	local pid status
	"$alcazar" run --quiet --engine soft --perf-map --kernel exit5 --memory 16M </dev/null &
	pid=$!
	wait "$pid"
	grep -qE '^[0-9a-f]+ [0-9a-f]+ trampolines$' "/tmp/perf-$pid.map"
	status=$?
	rm -f "/tmp/perf-$pid.map"
	return "$status"
}
check "names for perf" perf_map

check "topology" bash -c '"$0" topology | grep -q "node 0"' "$alcazar"
check "topology as JSON" bash -c '"$0" topology --json | grep -q "\"pus\""' "$alcazar"
check "another machine's topology" bash -c \
	'[ "$("$0" topology --topology "node:2 core:2 pu:2" --json | grep -c "\"pu\"")" = 8 ]' "$alcazar"

# --- nothing is left behind -----------------------------------------------------

check "no memory file stays" bash -c '! ls -l /proc/[0-9]*/exe 2>/dev/null | grep -q "$0"' "$alcazar"
finish
