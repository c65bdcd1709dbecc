/*
 * user.S - into ring 3 and back: any trap taken there ends the visit.
 *
 * void user_enter(struct user_visit *v): goes to v, returns when user_leave() is
 * called on the kernel stack of a trap.
 */
#include "layout.h"

	.text
	.globl	user_enter, user_leave
#ifdef __x86_64__
user_enter:
	push	%rbx
	push	%rbp
	push	%r12
	push	%r13
	push	%r14
	push	%r15
	mov	%rsp, user_kernel_sp(%rip)
	push	VISIT_SS * 8(%rdi)
	push	VISIT_SP * 8(%rdi)
	push	VISIT_FLAGS * 8(%rdi)
	push	VISIT_CS * 8(%rdi)
	push	VISIT_IP * 8(%rdi)
	mov	VISIT_B * 8(%rdi), %rcx
	mov	VISIT_A * 8(%rdi), %rax
	iretq
user_leave:
	mov	user_kernel_sp(%rip), %rsp
	pop	%r15
	pop	%r14
	pop	%r13
	pop	%r12
	pop	%rbp
	pop	%rbx
	ret
	.bss
	.balign	8
user_kernel_sp:
	.skip	8
#else
user_enter:
	mov	4(%esp), %ecx
	push	%ebx
	push	%ebp
	push	%esi
	push	%edi
	mov	%esp, user_kernel_sp
	mov	$SEL_USER_DATA | 3, %eax
	mov	%eax, %ds
	mov	%eax, %es
	push	VISIT_SS * 4(%ecx)
	push	VISIT_SP * 4(%ecx)
	push	VISIT_FLAGS * 4(%ecx)
	push	VISIT_CS * 4(%ecx)
	push	VISIT_IP * 4(%ecx)
	mov	VISIT_A * 4(%ecx), %eax
	mov	VISIT_B * 4(%ecx), %ecx
	iret
user_leave:
	mov	user_kernel_sp, %esp
	mov	$SEL_DATA, %eax
	mov	%eax, %ds
	mov	%eax, %es
	pop	%edi
	pop	%esi
	pop	%ebp
	pop	%ebx
	ret
	.bss
	.balign	4
user_kernel_sp:
	.skip	4
#endif
