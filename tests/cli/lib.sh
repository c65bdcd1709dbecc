# lib.sh - sourced by the tests of the command: TAP, and tiny guests made of bytes.
#
# Everything happens in a directory of its own, which goes at the end.

cd "$(dirname "$0")/../.." || exit 1
alcazar=$PWD/${B:-build}/alcazar
work=$(mktemp -d)
trap '[ "$BASHPID" != $$ ] || rm -rf "$work"' EXIT	# and not where a subshell is killed
cd "$work" || exit 1
tests=0 failures=0

# check WHAT COMMAND...: the test called WHAT passes when COMMAND does.
check()
{
	local what=$1
	shift
	tests=$((tests + 1))
	if "$@"; then
		echo "ok $tests - $what"
	else
		echo "not ok $tests - $what"
		[ -z "${log:-}" ] || sed 's/^/# /' "$log" | head -n 20
		failures=$((failures + 1))
	fi
}

finish()
{
	echo "1..$tests"
	exit $((failures != 0))
}

bytes()
{
	local b
	for b in $1; do printf "\\x$b"; done
}

# guest FILE "HEX BYTES": a Multiboot image whose 32-bit entry is these instructions.
guest()
{
	{
		bytes "02 b0 ad 1b 00 00 01 00 fe 4f 51 e4"	# magic, address fields, checksum
		bytes "00 00 10 00 00 00 10 00 00 10 10 00"	# header, load, end of load
		bytes "00 10 10 00 20 00 10 00"			# end of BSS, entry
		bytes "$2"
	} >"$1"
	truncate -s 4096 "$1"
}

guest idle "fa f4 eb fd"			# cli; 1: hlt; jmp 1b
guest spin "eb fe"				# jmp .
guest exit5 "b0 05 e6 f4 eb fe"			# mov $5, %al; out %al, $0xf4
guest triple "0f 0b"				# ud2, and no IDT
guest chatter "66 ba f8 03 b0 78 ee eb fb"	# mov $0x3f8, %dx; mov $'x', %al; 1: out; jmp
# One line "hi" on the serial port, then exit status (0 << 1) | 1.
guest hi "66 ba f8 03 b0 68 ee b0 69 ee b0 0a ee b0 00 e6 f4 eb fe"
# Echoes a byte from the serial port, then ends: 1: in LSR; test $1; jz 1b; in; out; exit.
guest echo "66 ba fd 03 ec a8 01 74 fb 66 ba f8 03 ec ee b0 00 e6 f4 eb fe"
