/* layout.h - numbers that C and assembly share. */
#ifndef GUEST_LAYOUT_H
#define GUEST_LAYOUT_H

#define CPUS_MAX    256
#define STACK_BYTES 8192
#define TRAMPOLINE  0x8000

/*
 * The order is what SYSCALL, SYSRET, SYSENTER and SYSEXIT presume: a base and
 * its successors.
 */
#define SEL_CODE32      0x08
#define SEL_CODE64      0x10
#define SEL_DATA        0x18
#define SEL_USER_CODE32 0x20
#define SEL_USER_DATA   0x28
#define SEL_USER_CODE64 0x30
#define SEL_USER_DATA2  0x38
#define SEL_TSS         0x40 /* two entries in long mode */
#define SEL_FREE        0x50 /* for tests: GDT_FREE entries */
#define GDT_FREE        8
#define GDT_ENTRIES     (SEL_FREE / 8 + GDT_FREE)

#define TRAP_STUB_BYTES 16

/* struct user_visit, in words */
#define VISIT_IP    0
#define VISIT_CS    1
#define VISIT_FLAGS 2
#define VISIT_SP    3
#define VISIT_SS    4
#define VISIT_A     5
#define VISIT_B     6

#ifdef __x86_64__
#define SEL_CODE SEL_CODE64
#else
#define SEL_CODE SEL_CODE32
#endif

#endif
