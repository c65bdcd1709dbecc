/*
 * trap-entry.S - 256 entry points, TRAP_STUB_BYTES apart, that all lead to
 * trap(), with a struct frame on the stack.
 */
#include "layout.h"

	.text
	.balign	TRAP_STUB_BYTES
	.globl	trap_stubs
trap_stubs:
	.set	vector, 0
	.rept	256
	.balign	TRAP_STUB_BYTES
	/* The processor pushes an error code for these. */
	.if	(vector == 8) || (vector >= 10 && vector <= 14) || (vector == 17)
	.else
	push	$0
	.endif
	push	$vector
	jmp	trap_common
	.set	vector, vector + 1
	.endr

trap_common:
#ifdef __x86_64__
	push	%rax
	push	%rcx
	push	%rdx
	push	%rbx
	push	%rbp
	push	%rsi
	push	%rdi
	push	%r8
	push	%r9
	push	%r10
	push	%r11
	push	%r12
	push	%r13
	push	%r14
	push	%r15
	cld
	mov	%rsp, %rdi
	mov	%rsp, %rbp
	and	$~15, %rsp
	call	trap
	mov	%rbp, %rsp
	pop	%r15
	pop	%r14
	pop	%r13
	pop	%r12
	pop	%r11
	pop	%r10
	pop	%r9
	pop	%r8
	pop	%rdi
	pop	%rsi
	pop	%rbp
	pop	%rbx
	pop	%rdx
	pop	%rcx
	pop	%rax
	add	$16, %rsp
	iretq
#else
	push	%eax
	push	%ecx
	push	%edx
	push	%ebx
	push	%ebp
	push	%esi
	push	%edi
	cld
	mov	%esp, %eax
	push	%eax
	call	trap
	add	$4, %esp
	pop	%edi
	pop	%esi
	pop	%ebp
	pop	%ebx
	pop	%edx
	pop	%ecx
	pop	%eax
	add	$8, %esp
	iret
#endif
