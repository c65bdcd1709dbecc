#!/bin/bash
# What a user may get wrong: each mistake gives status 2 and one line that names what was
# asked, and leaves nothing behind.
. "$(dirname "$0")/lib"
log=err

# refused TEXT ARGUMENT...: TEXT must be in the line.
refused()
{
	local text=$1 before status
	shift
	before=$(ls -A)
	timeout 20 "$alcazar" "$@" >out 2>err </dev/null
	status=$?
	rm -f out
	[ "$status" = 2 ] && [ "$(wc -l <err)" = 1 ] && grep -qF -- "$text" err &&
		grep -q '^alcazar: ' err && [ "$(ls -A)" = "$before" ]
}

: >err
mkdir run
: >empty
head -c 65536 /dev/zero | tr '\0' 'k' >noise
head -c 600 hi >short
truncate -s 64M big
mkfifo fifo
ln -s loop loop
printf 'cpus: 2\nnonsense: 1\n' >unknown.yaml
printf 'cpus: 2\nmemory: 64M\ncpus: 3\n' >twice.yaml
printf 'cpus: [1, 2]\n' >list.yaml
printf 'cpu: +aes\n' >nolist.yaml
printf 'memory: 64M\ncpus: 9999\n' >range.yaml
printf 'cpus: 2\n  bad: [\n' >broken.yaml
printf '\0\1\2' >binary.yaml
printf 'a: &x [1]\nb: *x\n' >alias.yaml
printf 'dry-run: true\n' >flagonly.yaml
printf -- '- cpus\n' >sequence.yaml

while IFS='|' read -r text arguments; do
	[ -n "$text" ] || continue
	eval "set -- $arguments"
	check "$arguments" refused "$text" "$@"
done <<'TABLE'
no command
frobnicate: no such command|frobnicate
--frob: no such option|run --frob
--frob: no such option|run --frob=1
-k: no such option|run -k hi
hi: no such option|run hi
--kernel needs a value|run --kernel
--quiet takes no value|run --quiet=yes
no kernel|run
missing: No such file|run --kernel missing
loop: |run --kernel loop
.: a directory|run --kernel .
/dev/null: not a regular file|run --kernel /dev/null
/dev/zero: not a regular file|run --kernel /dev/zero
fifo: not a regular file|run --kernel fifo
empty: an empty file|run --kernel empty
: |run --kernel noise
missing: No such file|run --kernel hi --initrd missing
empty: an empty file|run --kernel hi --initrd empty
big|run --kernel hi --memory 16M --initrd big
--cpus 0: |run --kernel hi --cpus 0
--cpus 5000: |run --kernel hi --cpus 5000
--cpus -1: |run --kernel hi --cpus -1
--cpus 4x: |run --kernel hi --cpus 4x
--cpus  4: |run --kernel hi --cpus " 4"
--cpus : |run --kernel hi --cpus ""
--cpus 99999999999999999999: |run --kernel hi --cpus 99999999999999999999
--memory 0: |run --kernel hi --memory 0
--memory 1: |run --kernel hi --memory 1
--memory 512: |run --kernel hi --memory 512
--memory 1Q: |run --kernel hi --memory 1Q
--memory 1Gx: |run --kernel hi --memory 1Gx
--memory -1G: |run --kernel hi --memory -1G
--memory 1.5G: |run --kernel hi --memory 1.5G
--memory 64K: |run --kernel hi --memory 64K
--memory 1025K: |run --kernel hi --memory 1025K
--memory 17179869184G: |run --kernel hi --memory 17179869184G
MiB free|run --kernel hi --memory 32T
--nodes 0: |run --kernel hi --nodes 0
--nodes 65: |run --kernel hi --nodes 65
each guest node needs a vCPU|run --kernel hi --cpus 2 --nodes 3
--clock icount counts instructions|run --kernel hi --engine kvm --clock icount
--engine fast: choose one of auto, kvm, soft, interp|run --kernel hi --engine fast
--clock sun: choose one of host, icount|run --kernel hi --clock sun
--cpu aes: |run --kernel hi --cpu aes
--cpu +: |run --kernel hi --cpu +
frobnicate|run --kernel hi --cpu +frobnicate
--console tty: |run --kernel hi --console tty
--console file:: no file named|run --kernel hi --console file:
--console file:/no/such/place: |run --kernel hi --console file:/no/such/place
--console file:.: |run --kernel hi --console file:.
--console file:fifo: cannot be written: nobody reads it|run --kernel hi --console file:fifo
--name a b: |run --kernel hi --name "a b"
--name : |run --kernel hi --name ""
--name ../x: |run --kernel hi --name ../x
--name |run --kernel hi --name "$(printf 'a%.0s' {1..65})"
--timeout 0: |run --kernel hi --timeout 0
--timeout soon: |run --kernel hi --timeout soon
--gdb 0: |run --kernel hi --gdb 0
--gdb 65536: |run --kernel hi --gdb 65536
--trace all: |run --kernel hi --trace all
--trace insn:/no/such/place: |run --kernel hi --trace insn:/no/such/place
icount|run --kernel hi --clock icount --cpus 2
missing.yaml: No such file|run --config missing.yaml
--config .: |run --config .
unknown.yaml:2: nonsense: no such key|run --config unknown.yaml
twice.yaml:3: cpus: is there already, on line 1|run --config twice.yaml
list.yaml:1: cpus: one value|run --config list.yaml
nolist.yaml:1: cpu: a list|run --config nolist.yaml
range.yaml:2: cpus 9999: |run --kernel hi --config range.yaml
broken.yaml:2: |run --config broken.yaml
binary.yaml:1: |run --config binary.yaml
alias.yaml:1: a: no such key|run --config alias.yaml
flagonly.yaml:1: dry-run: works as a flag only|run --config flagonly.yaml
sequence.yaml:1: |run --config sequence.yaml
empty: is empty|run --config empty
/dev/zero: more than 1M|run --config /dev/zero
not an hwloc synthetic|topology --topology nonsense
not an hwloc XML|topology --topology missing.xml
--bad: no such option|topology --bad
TABLE

# A stock kernel that something has happened to.
if [ -e "$stock" ]; then
	size=$(stat -c %s "$stock")
	head -c $((size / 2)) "$stock" >half
	check "half a kernel" refused "half: truncated: " run --kernel half
	head -c 700 "$stock" >head
	check "the head of a kernel" refused "head: " run --kernel head
	cp "$stock" old
	printf '\0' | dd of=old bs=1 seek=$((0x236)) count=1 conv=notrunc status=none	# xloadflags
	check "a 32-bit kernel" refused "old: a 32-bit kernel: " run --kernel old
	cp "$stock" rotten
	head -c 65536 noise | dd of=rotten bs=65536 seek=$((size / 131072)) conv=notrunc status=none
	check "a damaged kernel" refused "rotten: damaged or truncated: " run --kernel rotten
fi

# A KVM that is not there, not ours, or no KVM at all; who asks for it is told.
if [ "$(id -u)" = 0 ] && unshare -m true 2>/dev/null; then
	without_kvm()
	{
		local text=$1 how=$2
		unshare -m sh -c "$how"'; exec timeout 20 "$0" run --kernel hi --engine kvm' \
			"$alcazar" >out 2>err </dev/null
		[ $? = 2 ] && rm out && [ "$(wc -l <err)" = 1 ] && grep -q "$text" err
	}
	check "no /dev/kvm" without_kvm '/dev/kvm' \
		'mount -t tmpfs none /dev && mknod /dev/null c 1 3 && mknod /dev/zero c 1 5'
	check "/dev/kvm is something else" without_kvm '/dev/kvm' \
		'mount -t tmpfs none /dev && mknod /dev/null c 1 3 && mknod /dev/kvm c 1 3'
	check "/dev/kvm is nobody's" without_kvm '/dev/kvm' \
		'mount -t tmpfs none /dev && mknod /dev/null c 1 3 && mknod /dev/kvm c 240 232'
	check "auto does without" unshare -m sh -c 'mount -t tmpfs none /dev &&
		mknod /dev/null c 1 3 && timeout 20 "$0" run --quiet --kernel hi >/dev/null 2>err; [ $? = 1 ]' "$alcazar"
fi

# A failed start leaves no console file, and an existing one as it was.
check "no console file after a bad kernel" refused "" run --kernel noise --console file:new
echo precious >kept
check "console file kept after a bad kernel" refused "" run --kernel noise --console file:kept
check "its content too" grep -q precious kept

if [ "$(id -u)" != 0 ]; then
	: >forbidden
	chmod 0 forbidden
	check "kernel forbidden" refused "Permission denied" run --kernel forbidden
	check "console forbidden" refused "Permission denied" run --kernel hi \
		--console file:forbidden
fi
finish
