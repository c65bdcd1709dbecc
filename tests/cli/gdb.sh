#!/bin/bash
# The debugger's server: stock gdb, and peers that are not gdb at all.
. "$(dirname "$0")/lib"
log=answers

# 100020: mov $1, %eax; 1: inc %eax; mov %eax, 0x200000; jmp 1b
guest count "b8 01 00 00 00 40 a3 00 00 20 00 eb f8"

port=$((20000 + RANDOM % 10000))
vm=

# up ARGUMENT...: a machine whose debugger's port is open.
up()
{
	port=$((port + 1))
	"$alcazar" run --quiet --memory 16M --timeout 60 --gdb $port "$@" >out 2>err </dev/null &
	vm=$!
	for _ in {1..100}; do
		(exec 3<>/dev/tcp/127.0.0.1/$port) 2>/dev/null && return 0
		sleep 0.1
	done
	return 1
}

# down STATUS: the machine ends by itself, or by SIGTERM when that is the status wanted.
down()
{
	[ "$1" != 8 ] || kill -s TERM $vm 2>/dev/null
	wait $vm
	[ $? = "$1" ]
}

ask()
{
	local command args=()
	for command; do args+=(-ex "$command"); done
	timeout 30 gdb -nx -batch -ex "set pagination off" -ex "set confirm off" \
		-ex "set architecture i386:x86-64" -ex "target remote 127.0.0.1:$port" \
		"${args[@]}" </dev/null >answers 2>&1
}

answers()
{
	local pattern
	for pattern; do grep -qE -- "$pattern" answers || return 1; done
}

if command -v gdb >/dev/null; then
	check "a machine with a debugger's port" up --kernel count --cpus 2
	ask "info threads" "info registers" 'p $xmm0' 'p $st0' 'p/x $cr0' detach
	check "threads" answers "Thread 1 \(vCPU 0 \(running\)\)" "Thread 2 \(vCPU 1 \(not started\)\)"
	check "registers" answers "^rip +0x10002[5-b]" "^cs +0x10 " "^mxcsr|v4_float" '^\$2 = 0'
	check "control registers" answers '^\$3 = 0x[0-9a-f]*1$'
	ask 'x/2xb 0x100020' 'set {int}0x300000 = 0x12345678' 'p/x *(int *)0x300000' detach
	check "memory" answers "0x100020:.*0xb8.*0x01" "= 0x12345678"
	ask 'hbreak *0x100025' continue 'p $rip' stepi 'p $rip' stepi 'p $rip' continue detach
	check "breakpoints and steps" answers "Breakpoint 1, 0x0*100025" "0x100026" "0x10002b"
	ask 'break *0x10002b' continue 'set $rax = 0x11223344' 'delete' 'hbreak *0x10002b' \
		continue 'p/x $eax' detach
	check "registers are set" answers "= 0x11223345"
	ask 'watch *(int *)0x200000' continue continue 'p $rip' detach
	check "watchpoints" answers "Hardware watchpoint 1" "Old value = [0-9]+" "New value = [0-9]+"
	ask 'thread 2' 'p/x $rip' 'thread 1' 'x/xb 0xffffffff00000000' detach
	check "memory that is not there" answers "Cannot access memory"
	ask kill
	check "kill ends the machine" down 8
else
	echo "# no gdb here"
fi

# --- hostile peers ----------------------------------------------------------------

# say TEXT: to the server, and what it answers within a second.
say()
{
	timeout 3 bash -c 'exec 3<>/dev/tcp/127.0.0.1/$0 || exit 1
		printf "%b" "$1" >&3; timeout 0.5 cat <&3' "$port" "$1" | tr -d '\0' >answers
	true
}

packet()
{
	local text=$1 sum=0 i
	for ((i = 0; i < ${#text}; i++)); do
		printf -v c %d "'${text:i:1}"
		sum=$(((sum + c) % 256))
	done
	printf '$%s#%02x' "$text" $sum
}

check "a machine for hostile peers" up --kernel count
say "$(packet '?')"
check "a stop is told" answers '^\+\$T05thread:1;#'
say "\$?#00"
check "a bad checksum is refused" answers '^-'
say "$(packet 'qSupported:swbreak+')"
check "features" answers 'PacketSize=4000'
for text in 'm' 'm0' 'm0,' 'm,1' 'mffffffffffffffffff,1' 'M0,1:' 'M0,2:1' 'M0,ffffffffffff:00' \
	'p' 'pffffffffffffffff' 'P0' 'P0=' 'P0=12' 'P99=00' 'G0' 'Z' 'Z0' 'Z0,1' 'Z1,,' \
	'Z2,0,ffffffff' 'Z2,0,0' 'H' 'Hg' 'Hgffff' 'T' 'Tzz' 'vCont' 'vCont;' 'vCont;x' \
	'vCont;s:9999' 'vCont;Czz' 'qXfer:features:read:target.xml:' \
	'qThreadExtraInfo,' 'qThreadExtraInfo,99'; do
	say "$(packet "$text")"
	check "refused: $text" answers '^\+\$E[0-9a-f][0-9a-f]#'
done
for text in '' 'Z9,0,1' 'X0,0:' 'qWhat' 'vWhat' 'QWhat' 'bc' '!'; do
	say "$(packet "$text")"
	check "unknown: '$text'" answers '^\+\$#00'
done
say "$(packet 'm100020,7fffffffffffffff')"
check "a long read is cut" answers '^\+\$b801000000'
say "$(packet 'qXfer:features:read:target.xml:ffffffffffffff,ffff')"
check "the end of the description" answers '^\+\$l#'

flood()
{
	{ printf '$'; head -c 100000 /dev/zero | tr '\0' 'm'; } >flood
	timeout 10 bash -c 'exec 3<>/dev/tcp/127.0.0.1/$0; cat flood >&3 2>/dev/null' $port
	{ head -c 300000 /dev/urandom; } >flood
	timeout 10 bash -c 'exec 3<>/dev/tcp/127.0.0.1/$0; cat flood >&3 2>/dev/null' $port
	# Asks for much and reads nothing of it.
	for _ in {1..3000}; do packet 'm100000,2000'; done >flood
	timeout 10 bash -c 'exec 3<>/dev/tcp/127.0.0.1/$0; cat flood >&3 2>/dev/null; sleep 4' $port
	say "$(packet '?')"
	answers '^\+\$T05'
}
check "floods are survived" flood

# Points and pauses go with their connection.
say "$(packet 'Z0,100025,1')"
sleep 1
say "$(packet 'c')"
check "a lost debugger's points are gone" bash -c '! grep -q T05 answers'
say "$(packet 's')"
check "a step" answers 'T05thread:1;'

busy()
{
	timeout 20 "$alcazar" run --quiet --memory 16M --gdb $port --kernel count 2>busy_err
	[ $? = 2 ] && grep -q "choose another port" busy_err
}
check "a port in use" busy

# Held by its debugger, the machine still ends when it is told to.
exec 4<>/dev/tcp/127.0.0.1/$port
sleep 1
check "a signal ends a machine that is being debugged" down 8
exec 4>&-
check "nobody was harmed" bash -c '! grep -q . err'

check "a machine with a timeout" up --kernel count --timeout 3
exec 4<>/dev/tcp/127.0.0.1/$port
check "the timeout ends a machine that is being debugged" down 124
exec 4>&-
finish
