#!/bin/bash
# Running machines from the command line: stop, pause, resume, move, rebalance, audit, stats.
. "$(dirname "$0")/lib"
log=err
export ALCAZAR_RUNTIME_DIR=$work/run
patterns=$OLDPWD/build/tests/guest/patterns

# An x on the serial port, a loop of 64K turns, and so on for ever.
guest beat "66 ba f8 03 b0 78 ee b9 00 00 01 00 49 75 fd eb f5"

begin() # NAME FLAGS...
{
	local name=$1
	shift
	timeout -k 5 120 "$alcazar" run --quiet --no-foreign --name "$name" --memory 16M "$@" \
		>"$name.out" 2>"$name.err" </dev/null &
	echo $! >"$name.job"
	for _ in {1..200}; do
		[ -S "run/$name.sock" ] && "$alcazar" stats "$name" >/dev/null 2>&1 && return 0
		sleep 0.05
	done
	return 1
}

ended() # NAME STATUS
{
	wait "$(cat "$1.job")"
	[ $? = "$2" ]
}

says() # STATUS PATTERN COMMAND...: on either output
{
	local want=$1 pattern=$2 status
	shift 2
	timeout 60 "$alcazar" "$@" >out 2>err </dev/null
	status=$?
	[ $status = "$want" ] && { [ -z "$pattern" ] || cat out err | grep -qE "$pattern"; }
}

pid_of()
{
	"$alcazar" ps --json | python3 -c 'import json,sys
for m in json.load(sys.stdin)["machines"]:
    if m["name"] == sys.argv[1]: print(m["pid"])' "$1"
}

# allowed NAME THREAD: where the kernel lets it run
allowed()
{
	local t
	for t in /proc/"$(pid_of "$1")"/task/*; do
		[ "$(cat "$t/comm")" = "$2" ] && sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' "$t/status"
	done
}

field() # JSON-FILE PYTHON-EXPRESSION-OF-d
{
	python3 -c 'import json,sys; d=json.load(open(sys.argv[1])); print(eval(sys.argv[2]))' "$1" "$2"
}

mapfile -t pus < <("$alcazar" topology --json | python3 -c 'import json,sys
for p in json.load(sys.stdin)["pus"]:
    if p.get("usable", True): print(p["pu"])')
first=${pus[0]} last=${pus[-1]}

# --- nobody is there --------------------------------------------------------------

check "no machine runs" says 2 '^alcazar: web: no such machine: none runs$' pause web
check "which one?" says 2 'which machine\?' pause
check "a name that is none" says 2 'no such machine' stop ../x
check "help" says 0 'usage: alcazar move NAME' move --help
check "help, with a name" says 0 'dry-run' rebalance web --help

# --- pause and resume -------------------------------------------------------------

beats()
{
	stat -c %s beat.con
}
grows() # within ten seconds
{
	local before
	before=$(beats)
	for _ in {1..100}; do
		[ "$(beats)" -gt "$before" ] && return 0
		sleep 0.1
	done
	return 1
}
stands()
{
	local before
	sleep 0.3	# what is on its way may arrive
	before=$(beats)
	sleep 0.7
	[ "$(beats)" = "$before" ]
}
check "a machine begins" begin beat --kernel beat --console file:beat.con
check "its guest beats" grows
check "pause" says 0 '' pause beat
check "it stands" stands
check "ps says paused" says 0 'beat .*paused' ps
check "pause twice" says 0 '' pause beat
check "resume" says 0 '' resume beat
check "it beats again" grows
check "an unknown machine, and what runs" says 2 'nope: no such machine: beat runs$' stop nope
check "stop" says 0 '' stop beat
check "is as a signal" ended beat 8
check "nothing stays" bash -c '[ "$(ls run)" = lock ]'
check "and it is unknown" says 2 'none runs' stop beat

# Paused for good, it ends all the same.
check "another one" begin idle --kernel idle --cpus 4
check "is paused" says 0 '' pause idle
check "and stopped" says 0 '' stop idle
check "in good order" ended idle 8

# --- moves ------------------------------------------------------------------------

if [ -x "$patterns" ]; then
	mkfifo keys
	timeout -k 5 120 "$alcazar" run --quiet --no-foreign --name web --memory 64M --cpus 2 \
		--kernel "$patterns" --append "seconds=100" >web.out 2>web.err <keys &
	echo $! >web.job
	exec 9>keys
	for _ in {1..100}; do "$alcazar" stats web >/dev/null 2>&1 && break; sleep 0.1; done
	check "vCPU 0 to the last PU" says 0 "vCPU 0: .* to PU $last$" move web --vcpu 0 --to "$last"
	moved()
	{
		[ "$(allowed web vcpu0)" = "$last" ] && [ "$(allowed web vcpu1)" = "$first" ]
	}
	check "vCPU 1 to the first" says 0 "to PU $first$" move web --vcpu 1 --to "$first"
	check "/proc says so" moved
	check "the ledger as well" bash -c '[ "$("$0" ps --json | tr -d " \n" |
		grep -c "{\"id\":0,\"pu\":$1},{\"id\":1,\"pu\":$2}")" = 1 ]' "$alcazar" "$last" "$first"
	check "the audit agrees" says 0 'all is where it was planned, 100.0 %' audit web
	moves_back_and_forth()
	{
		local i
		for i in {1..20}; do
			"$alcazar" move web --vcpu 0 --to "$first" && "$alcazar" move web --vcpu 0 \
				--to "$last" || return 1
		done >out 2>err
	}
	check "forty moves" moves_back_and_forth
	check "memory" says 0 'guest node 0: .*64M in' move web --memory 0 --to 0
	check "at a rate" says 0 '"seconds": 0\.[5-9]|"seconds": [1-9]' move web --memory 0 --to 0 \
		--rate 100 --json
	check "JSON of it" bash -c '[ "$(tr -d " \n" <out | grep -c "\"bytes\":67108864")" = 1 ]'
	check "a vCPU that is none" says 2 '^alcazar: web: vCPU 2: there is none: web has 2' \
		move web --vcpu 2 --to "$first"
	check "a PU that is none" says 2 'PU 4000: there is none' move web --vcpu 0 --to 4000
	check "a guest node that is none" says 2 'guest node 1: there is none' \
		move web --memory 1 --to 0
	check "a host node that is none" says 2 'host node 900: there is none' \
		move web --memory 0 --to 900
	check "neither" says 2 'say --vcpu N --to PU' move web --to 0
	check "both" says 2 'say --vcpu N --to PU' move web --vcpu 0 --memory 0 --to 0
	check "a rate of vCPUs" says 2 'for --memory' move web --vcpu 0 --to "$first" --rate 5
	check "rebalance, dry" says 0 'cost' rebalance web --dry-run
	check "rebalance" says 0 'cost' rebalance web

	check "audit as JSON" says 0 '"local_percent": 100' audit web --json
	cp out audit.json
	check "of each vCPU" bash -c '[ "$1" = 2 ]' x "$(field audit.json 'len(d["vcpus"])')"
	check "all local" bash -c '[ "$1" = 100.0 ]' x "$(field audit.json 'd["local_percent"]')"
	drifts()
	{
		local t
		for t in /proc/"$(pid_of web)"/task/*; do
			[ "$(cat "$t/comm")" = vcpu1 ] &&
				taskset -cp "$first-$last" "${t##*/}" >/dev/null
		done
		says 1 'vCPU +1 .*DRIFT' audit web
	}
	[ "$first" = "$last" ] || check "an audit finds what others have moved" drifts
	check "stats" says 0 '^insns|^blocks' stats web
	check "of this engine" grep -q '^web: soft engine' out
	check "stats as JSON" says 0 '"vcpus": \[' stats web --json
	echo >&9	# the guest ends with what it has found
	check "the guest lost no store" ended web 1
	check "and says so" grep -q '^ok 2' web.out
	exec 9>&-
fi

# --- others -----------------------------------------------------------------------

check "a machine for itself" begin lone --kernel idle --exclusive
check "somebody else" begin other --kernel idle --pin "0:$last"
not_shared()
{
	local taken
	taken=$(allowed lone vcpu0)
	says 2 'shares no PU' move other --vcpu 0 --to "$taken" &&
		[ "$(allowed other vcpu0)" = "$last" ]
}
[ "$first" = "$last" ] || check "its PU is not to be had" not_shared
check "two of them run" says 2 'lone, other run$' stop nobody
kill -9 "$(pid_of other)"
wait "$(cat other.job)" 2>/dev/null
check "killed, it is unknown" says 2 'lone runs$' stop other
check "its name is free" begin other --kernel idle
check "and answers" says 0 '' pause other

completes() # WORDS... WANT: the last word is completed to
{
	local want=${*: -1}
	COMP_WORDS=("${@:1:$#-1}") COMP_CWORD=$(($# - 2))
	_alcazar
	[ "${COMPREPLY[*]}" = "$want" ]
}
. "$OLDPWD/tools/completion/alcazar"
check "names complete" completes "$alcazar" move l lone
check "all of them" completes "$alcazar" pause "" "lone other"
check "commands complete" completes "$alcazar" reb rebalance
check "options complete" completes "$alcazar" move lone --m "--memory"

# A machine whose process stands does not hold up who asks.
kill -STOP "$(pid_of lone)"
hangs_not()
{
	timeout 20 "$alcazar" ps >out 2>err && grep -q lone out
}
check "a stopped process" hangs_not
kill -CONT "$(pid_of lone)"
for name in lone other; do check "stop $name" says 0 '' stop $name; done

# What any program could do.
check "another one still" begin raw --kernel idle
raw()
{
	python3 - "$1" <<'EOF'
import socket, sys, json
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
s.sendall(b'{"version": 1, "id": 1, "command": "status"}\nnonsense\n{"version": 1, "command": "stop"}\n')
lines = s.makefile().read().splitlines()
answers = [json.loads(line) for line in lines]
assert [a["ok"] for a in answers] == [True, False, True], answers
assert answers[0]["id"] == 1 and answers[0]["result"]["name"] == "raw"
EOF
}
check "the socket speaks JSON" raw run/raw.sock
check "and the machine has ended" ended raw 8
check "nothing stays behind" bash -c '[ "$(ls run)" = lock ]'
finish
