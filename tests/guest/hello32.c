/* hello32.c - a 32-bit program without paging. */
#include "rt.h"

void guest_main(void)
{
	volatile unsigned zero = 0;

	note("hello from a 32-bit guest: %s", command_line());
	ok(read_cr0() & 1, "protected mode");
	ok(!(read_cr0() >> 31), "no paging");
	TRY("div %0", : : "r"(zero), "a"(1), "d"(0));
	faulted(TRAP_DE, 0, "#DE is caught");
	TRY("nop", :);
	faulted(TRAP_NONE, 0, "and nothing else");
}
