#!/bin/bash
# Machines side by side: who has what, names, sharing, refusals, what the dead leave;
# vCPUs of other VMMs; a spoilt ledger.
. "$(dirname "$0")/lib"

log=err
pus=$(nproc)
pids=()
trap 'kill -9 "${pids[@]}" 2>/dev/null; [ "$BASHPID" != $$ ] || rm -rf "$work"' EXIT

# Machines of others on this host are none of this test's business: --no-foreign.
quick() # ARGUMENT...: planned, or run
{
	timeout -k 5 60 "$alcazar" run --engine soft --memory 16M --no-foreign "$@" >out 2>err </dev/null
}
runs() # ARGUMENT...: until its time is over
{
	quick --kernel idle --timeout 1 "$@"
	[ $? = 124 ]
}

# start NAME ARGUMENT...: a machine in the background, until its claim says it runs.
start()
{
	local name=$1
	shift
	"$alcazar" run --engine soft --quiet --memory 16M --no-foreign --kernel idle --timeout 100 \
		--name "$name" "$@" >"$name.out" 2>"$name.err" </dev/null &
	pids+=($!)
	disown $!
	until_true grep -q "\"pid\":$!,.*running" "run/$name.claim"
}

until_true()
{
	local i
	for ((i = 0; i < 400; i++)); do
		"$@" 2>/dev/null && return
		sleep 0.05
	done
	return 1
}

stop() # SIGNAL PID
{
	kill "-$1" "$2"
	until_true dead "$2"
}
dead()
{
	! kill -0 "$1" 2>/dev/null
}

ps_has() # PATTERN
{
	"$alcazar" ps >ps.out 2>err && grep -qE "$1" ps.out
}
refused() # PATTERN ARGUMENT...: status 2 and one line
{
	local pattern=$1
	shift
	quick "$@"
	[ $? = 2 ] && [ "$(grep -vc warning: err)" = 1 ] && grep -qE "$pattern" err
}
says() # PATTERN ARGUMENT...: it can be, and there is such a line
{
	local pattern=$1
	shift
	quick "$@" && grep -qE "$pattern" err
}

# --- nobody -----------------------------------------------------------------------------

check "nobody has claimed anything" ps_has '^NAME +PID +STATE .* SHARES$'
check "and no directory is made for that" test ! -e run
check "dry run" quick --dry-run
check "claims nothing" test ! -e run
check "ps --help" bash -c '"$0" ps --help | grep -q usage' "$alcazar"
check "ps with words" bash -c '! "$0" ps all 2>err && grep -q "ps --help" err' "$alcazar"

# --- one --------------------------------------------------------------------------------

check "a machine" start web
web=${pids[-1]}
check "is listed" ps_has "^web +$web +running +[a-z]+ +[0-9]+s +1 +[0-9]+ +16M(@[0-9]+)? +-\$"
check "has a claim of its own" test "$(stat -c %a run/web.claim)" = 600
check "in a directory of its owner's" test "$(stat -c %a run)" = 700
json()
{
	"$alcazar" ps --json >ps.json && grep -q '"name": "web"' ps.json &&
		grep -q "\"pid\": $web" ps.json && grep -q '"shares": \[\]' ps.json
}
check "is listed as JSON" json
check "its name is taken" refused "web: a machine of this name runs already, process $web" \
	--kernel idle --name web
check "also for a dry run" refused "web: a machine of this name" --dry-run --name web
check "others get one" quick --dry-run
check "that nobody has" grep -q '^guest1:' out

# Where the thread is, as the kernel says.
pu_of() # PID
{
	local t
	for t in "/proc/$1/task/"*; do
		[ "$(cat "$t/comm")" = vcpu0 ] && sed -n 's/^Cpus_allowed_list:\t//p' "$t/status"
	done
}
check "its vCPU is where its claim says" test \
	"$(grep -o '"pus":"[0-9]*"' run/web.claim)" = "\"pus\":\"$(pu_of "$web")\""

if [ "$pus" -gt 1 ]; then
	check "a second one" start db
	db=${pids[-1]}
	check "is elsewhere" test "$(pu_of "$web")" != "$(pu_of "$db")"
	check "without a warning" test ! -s db.err
	stop TERM "$db"
	check "leaves nothing" test ! -e run/db.claim
fi

# --- too many ------------------------------------------------------------------------------

check "one that needs every PU shares" says \
	"warning: .* share.*: PU $(pu_of "$web") with web \(process $web\)" --dry-run --cpus "$pus"
check "with one warning" test "$(grep -c warning err)" = 1
check "or is refused" refused "exclusive: .*claimed: PU $(pu_of "$web") by web \(process $web\)" \
	--kernel idle --cpus "$pus" --exclusive
check "and leaves nothing" bash -c '[ "$(ls run)" = "$(printf "lock\nweb.claim\nweb.sock")" ]'
check "it may start" start big --cpus "$pus"
big=${pids[-1]}
check "ps says who shares" ps_has "^web .* big:$(pu_of "$web")\$"
stop TERM "$big"
stop TERM "$web"

check "who came to be alone" start alone --exclusive --cpus "$pus"
alone=${pids[-1]}
check "stays alone" refused 'others claim them exclusively; claimed: PUs? [0-9-]+ by alone' --kernel idle
check "which ps says" ps_has '^alone .* never$'
stop TERM "$alone"

# --- memory ---------------------------------------------------------------------------------

# More than half of what is free, twice: the first has touched nothing of it yet.
half=$(($(awk '/^MemAvailable/ { print $2 }' /proc/meminfo) / 1024 * 6 / 10))
check "a big machine" start huge --memory "${half}M"
check "another is refused" refused "promised to others: .*[0-9]+ MiB on node .* to huge" \
	--kernel idle --memory "${half}M"
check "a small one is not" quick --dry-run
stop TERM "${pids[-1]}"
check "what was promised is free again" quick --dry-run --memory "${half}M"

# --- the dead --------------------------------------------------------------------------------

check "another" start alone --cpus "$pus"
stop KILL "${pids[-1]}"
check "kill -9 leaves a file" test -e run/alone.claim
check "that nobody minds" ps_has '^NAME'
check "for it is not listed" bash -c '! grep -q alone ps.out'
check "the next machine" start next --cpus "$pus" --exclusive
check "takes it away" test ! -e run/alone.claim
stop KILL "${pids[-1]}"
check "its name is free" start next
stop TERM "${pids[-1]}"
check "names come again" bash -c '[ "$(ls run)" = lock ]'

# Crowded: each launch gets PUs of its own or is refused; some are killed. What is seen
# comes from the kernel alone.
launch_again()
{
	local i
	for ((i = 0; i < 4; i++)); do
		"$alcazar" run --engine soft --quiet --memory 16M --no-foreign --kernel idle \
			--timeout 1 --exclusive >/dev/null 2>>refusals </dev/null
		echo $? >>statuses
	done
}
machines()
{
	pgrep -x alcazar -P "$(IFS=,; echo "${crowd[*]}")"
}
held_pus()	# a line for each vCPU thread that is bound
{
	local tasks=()
	mapfile -t tasks < <(machines | sed 's|.*|/proc/&/task|')
	[ ${#tasks[@]} = 0 ] || find "${tasks[@]}" -name status -exec \
		grep -hE '^(Name|Cpus_allowed_list):' {} + 2>/dev/null |
		awk '$1 == "Name:" { name = $2; next } name == "vcpu0" && $2 ~ /^[0-9]+$/ { print $2 }' |
		sort
}
no_doubles()
{
	local twice
	held_pus >held
	cat held >>seen
	twice=$(uniq -d held)
	# What is seen once may be a thread that is just ending.
	[ -z "$twice" ] || [ -z "$(held_pus | uniq -d)" ]
}
watch_crowd()
{
	local victim
	while machines >/dev/null || [ "$(wc -l <statuses)" -lt $((${#crowd[@]} * 4)) ]; do
		no_doubles || return 1
		victim=$(machines | shuf -n 1)
		[ -z "$victim" ] || kill -9 "$victim"
		sleep 0.1
	done 2>/dev/null
}
crowd=()
touch statuses
for ((i = 0; i < ${ALCAZAR_CROWD:-12}; i++)); do
	launch_again 2>/dev/null &
	crowd+=($!)
done
check "a crowd never doubles up" watch_crowd
wait "${crowd[@]}" 2>/dev/null
check "was seen" test "$(sort -u seen | wc -l)" -ge $((pus > 1 ? 2 : 1))
check "some were admitted" grep -qxE "124|137" statuses
check "the others were told why" test "$(grep -cx 2 statuses)" = "$(grep -c claimed: refusals)"
check "nothing else happened" bash -c '! grep -qvxE "2|124|137" statuses'
check "nobody is left" bash -c '[ "$("$0" ps | wc -l)" = 1 ]' "$alcazar"
check "one that starts" runs
check "finds nothing left" bash -c '[ "$(ls run)" = lock ]'

# --- other VMMs -------------------------------------------------------------------------------

# A process whose thread is called as QEMU's is, bound to the first PU there is.
first=$(taskset -cp $$ | sed 's/.*: //; s/[-,].*//')
bash -c 'printf "CPU 0/KVM" >/proc/$$/comm; while :; do sleep 1; done' &
qemu=$!
pids+=("$qemu")
disown "$qemu"
taskset -cp "$first" "$qemu" >/dev/null
until_true grep -q KVM "/proc/$qemu/comm"
seen()
{
	"$alcazar" run --dry-run --memory 16M --pin "0:$first" "$@" >out 2>err
}
check "vCPUs of other VMMs count" seen
check "and are named" grep -q "PU $first with QEMU CPU 0/KVM (process $qemu)" err
check "unless they shall not" seen --no-foreign
check "then nothing is shared" test ! -s err
check "exclusive heeds them" bash -c '! "$0" run --dry-run --exclusive --pin "0:$1" 2>err' "$alcazar" "$first"
taskset -cp "$(taskset -cp $$ | sed 's/.*: //')" "$qemu" >/dev/null
check "those that float do not count" seen
check "wherever they are" bash -c '! grep -q "process $0)" err' "$qemu"
kill -9 "$qemu"

# --- a spoilt ledger --------------------------------------------------------------------------

check "a machine among ruins" start web
echo '{"claim":1,"name":"web"' >run/web.claim
check "what cannot be read is told" says 'web.claim: it is not a JSON object.*left out of account' --dry-run
check "by ps, too" bash -c '"$0" ps >ps.out 2>err && grep -q "web.claim: .*not shown" err' "$alcazar"
check "who must be sure is refused" refused 'exclusive: .*web.claim' --kernel idle --exclusive
check "its name is taken nevertheless" refused 'web runs already' --kernel idle --name web
stop TERM "${pids[-1]}"
check "its end cleans up" test ! -e run/web.claim
head -c 100000 /dev/urandom >run/junk.claim
mkdir run/dir.claim
check "rubbish of nobody" runs
check "goes" test ! -e run/junk.claim
check "but for what is no file" grep -q 'dir.claim: it is no file' err
rmdir run/dir.claim

chmod 777 run
check "a directory that others may write to" refused 'others may write' --kernel idle
chmod 700 run
ALCAZAR_RUNTIME_DIR=$work/no/where check "a directory that cannot be made" \
	refused 'cannot register here: No such file' --kernel idle
ALCAZAR_RUNTIME_DIR=$work/idle check "one that is a file" refused 'Not a directory' --kernel idle
ALCAZAR_RUNTIME_DIR=/proc/self/none check "one that is unwritable" refused 'cannot register' --kernel idle
finish
