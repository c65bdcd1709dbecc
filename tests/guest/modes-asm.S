/* modes-asm.S - the other side of modes.c. */
#include "layout.h"

#define GDT_CODE16 SEL_FREE
#define GDT_GATE   (SEL_FREE + 8)

	.text
/* Copied to a page of ring 3. */
	.globl	user_begin, user_end, user_syscall, user_sysenter, user_call_gate, user_cli
	.globl	user_syscall_unaligned, user_unaligned, user_syscall_rdtsc, user_rdtsc
	.globl	user_spaces, entry_cr3, entry_adds
	.globl	user_hlt, user_in, user_rdmsr, user_compat, user_flags, user_int80, user_cr, user_lgdt
user_begin:
user_syscall:
	syscall
	int	$0x81
user_syscall_unaligned:
	mov	-8(%rsp), %rax
	syscall
user_unaligned:
	mov	-15(%rsp), %rax
	int	$0x81
user_syscall_rdtsc:
	syscall
user_rdtsc:
	rdtsc
	int	$0x81
user_spaces:		/* behind SYSCALL it is another space's page: where does it point to? */
	mov	$0xc0003000, %ebx
	mov	(%rbx), %rax
	syscall
	mov	(%rbx), %rax
	mov	(%rax), %rax
user_sysenter:
	sysenter
user_after_sysenter:
	int	$0x81
user_call_gate:
	rex.W lcall *user_gate(%rip)
	int	$0x81
user_gate:
	.quad	0
	.word	GDT_GATE
user_cli:
	cli
	int	$0x81
user_hlt:
	hlt
user_in:
	in	$0x80, %al
	int	$0x81
user_rdmsr:
	rdmsr
user_cr:
	mov	%cr0, %rax
user_lgdt:
	lgdt	user_gate(%rip)
user_int80:
	int	$0x80
user_flags:
	push	$0x3000
	popf
	int	$0x81
	.code32
user_compat:
	mov	$-1, %eax
	dec	%eax
	inc	%eax
	push	%eax
	pop	%ecx
	add	$1, %ecx
	int	$0x81
	.code64
user_end:

/* Entries: note how we came, go back. */
	.macro	note_entry
	incq	entry_count(%rip)
	mov	%rsp, entry_sp(%rip)
	mov	%rcx, entry_rcx(%rip)
	mov	%r11, entry_r11(%rip)
	mov	%cs, %rax
	mov	%rax, entry_cs(%rip)
	mov	%ss, %rax
	mov	%rax, entry_ss(%rip)
	.endm

	.globl	syscall_entry, sysenter_entry, gate_entry
syscall_entry:
	note_entry
	mov	%rsp, %rdx
	lea	entry_stack_end(%rip), %rsp
	pushf
	pop	entry_flags(%rip)
	mov	%rdx, %rsp
	mov	entry_cr3(%rip), %rax
	test	%rax, %rax
	jz	1f
	mov	%rax, %cr3
1:	or	entry_adds(%rip), %r11
	sysretq
sysenter_entry:
	note_entry
	pushf
	pop	entry_flags(%rip)
	mov	$0xc0000000 + user_after_sysenter - user_begin, %edx
	mov	$0xc0002000, %ecx
	rex.W sysexit
gate_entry:
	note_entry
	lretq

/* uint64_t run_code32(a, b): a + b in 32-bit code. */
	.globl	run_code32, run_code16
run_code32:
	push	%rbx
	mov	%edi, %eax
	mov	%esi, %edx
	push	$SEL_CODE32
	push	$1f
	lretq
	.code32
1:	add	%edx, %eax
	.byte	0x40, 0x48	/* INC and DEC here, a prefix in 64-bit code */
	ljmp	$SEL_CODE64, $2f
	.code64
2:	pop	%rbx
	ret

/* uint64_t run_code16(a, b): a + b in 16-bit code. */
run_code16:
	mov	%edi, %eax
	mov	%esi, %edx
	push	$GDT_CODE16
	push	$3f
	lretq
	.code16
3:	add	%dx, %ax
	.byte	0x66, 0xea
	.long	4f
	.word	SEL_CODE64
	.code64
4:	mov	%eax, %eax
	ret

	.globl	far_jump, far_return, far_call_gate
far_jump:
	push	%rdi
	push	$5f
	rex.W ljmp *(%rsp)
5:	add	$16, %rsp
	push	$SEL_CODE64
	push	$6f
	lretq
6:	mov	$1, %eax
	ret
far_return:
	push	$0xbad
	push	$SEL_CODE64
	push	$7f
	lretq	$8
7:	mov	$2, %eax
	ret
far_call_gate:
	push	%rdi
	push	$0
	rex.W lcall *(%rsp)
	add	$16, %rsp
	mov	$3, %eax
	ret

	.bss
	.balign	16
	.globl	entry_cs, entry_ss, entry_sp, entry_rcx, entry_r11, entry_flags, entry_count
entry_cs:	.skip 8
entry_ss:	.skip 8
entry_sp:	.skip 8
entry_rcx:	.skip 8
entry_r11:	.skip 8
entry_flags:	.skip 8
entry_count:	.skip 8
entry_cr3:	.skip 8
entry_adds:	.skip 8
	.skip	256
entry_stack_end:
