/*
 * boot.S - from the multiboot entry, and from real mode on application
 * processors, to C: long mode, or flat 32-bit mode in a 32-bit program.
 */
#include "layout.h"

#define MULTIBOOT_MAGIC 0x1badb002
#define MULTIBOOT_FLAGS 3 /* aligned modules, memory information */

	.section .multiboot, "ax"
	.balign 4
	.long	MULTIBOOT_MAGIC, MULTIBOOT_FLAGS, -(MULTIBOOT_MAGIC + MULTIBOOT_FLAGS)

	.text
	.code32
	.globl _start
_start:
	cli
	mov	%eax, boot_magic
	mov	%ebx, boot_info
	lgdt	boot_gdt_desc
	ljmp	$SEL_CODE32, $1f
1:	mov	$SEL_DATA, %eax
	mov	%eax, %ds
	mov	%eax, %es
	mov	%eax, %ss
	xor	%eax, %eax
	mov	%eax, %fs
	mov	%eax, %gs
	mov	$boot_stack_end, %esp

#ifdef __x86_64__
	/* 4 GiB, identity, in 2 MiB pages. */
	mov	$boot_pd, %edi
	mov	$0x83, %eax
2:	mov	%eax, (%edi)
	movl	$0, 4(%edi)
	add	$8, %edi
	add	$0x200000, %eax
	jnc	2b
	mov	$boot_pd + 3, %eax
	mov	$boot_pdpt, %edi
	mov	$4, %ecx
3:	mov	%eax, (%edi)
	add	$4096, %eax
	add	$8, %edi
	loop	3b
	movl	$boot_pdpt + 3, boot_pml4
	mov	$enter_main, %esi
	jmp	to_long
#else
	jmp	enter_main
#endif

#ifdef __x86_64__
/* Turns long mode on, then goes to %esi; keeps %edi. */
to_long:
	mov	%cr4, %eax
	or	$0x620, %eax		/* PAE, OSFXSR, OSXMMEXCPT */
	mov	%eax, %cr4
	mov	$boot_pml4, %eax
	mov	%eax, %cr3
	mov	$0xc0000080, %ecx
	rdmsr
	or	$0x901, %eax		/* SCE, LME, NXE */
	wrmsr
	mov	%cr0, %eax
	and	$~0x60000004, %eax	/* caches on, EM off */
	or	$0x80010022, %eax	/* PG, WP, NE, MP */
	mov	%eax, %cr0
	ljmp	$SEL_CODE64, $4f
	.code64
4:	mov	%esi, %esi
	jmp	*%rsi

enter_main:
	xor	%ebp, %ebp
	xor	%edi, %edi
	lea	cpu_stacks + STACK_BYTES(%rip), %rsp
	call	rt_main
5:	hlt
	jmp	5b

/*
 * Where a startup IPI leads: real mode, at TRAMPOLINE. Copied there, so that its
 * own symbols must not be used but as differences.
 */
	.code16
	.globl	trampoline, trampoline_end
trampoline:
	cli
	cld
	mov	%cs, %ax
	mov	%ax, %ds
	lgdtl	trampoline_gdt_desc - trampoline
	mov	%cr0, %eax
	or	$1, %al
	mov	%eax, %cr0
	ljmpl	$SEL_CODE32, $ap_32
trampoline_gdt_desc:
	.word	boot_gdt_end - boot_gdt - 1
	.long	boot_gdt
trampoline_end:

	.code32
ap_32:	mov	$SEL_DATA, %eax
	mov	%eax, %ds
	mov	%eax, %es
	mov	%eax, %ss
	mov	$1, %edi
	lock xadd %edi, ap_next
	mov	$ap_64, %esi
	jmp	to_long
	.code64
ap_64:	mov	%edi, %eax
	inc	%eax
	imul	$STACK_BYTES, %rax, %rax
	lea	cpu_stacks(%rax), %rsp
	xor	%ebp, %ebp
	call	rt_ap_main
6:	hlt
	jmp	6b

	.data
	.globl	ap_next
ap_next:
	.long	1
#else
enter_main:
	xor	%ebp, %ebp
	mov	$cpu_stacks + STACK_BYTES - 16, %esp
	push	$0
	call	rt_main
7:	hlt
	jmp	7b
#endif

	.data
	.balign	8
boot_gdt:
	.quad	0
	.quad	0x00cf9b000000ffff	/* SEL_CODE32 */
	.quad	0x00af9b000000ffff	/* SEL_CODE64 */
	.quad	0x00cf93000000ffff	/* SEL_DATA */
boot_gdt_end:
boot_gdt_desc:
	.word	boot_gdt_end - boot_gdt - 1
	.long	boot_gdt
	.balign	4
	.globl	boot_magic, boot_info
boot_magic:
	.long	0
boot_info:
	.long	0

	.bss
	.balign	4096
#ifdef __x86_64__
	.globl	boot_pml4
boot_pml4:
	.skip	4096
boot_pdpt:
	.skip	4096
boot_pd:
	.skip	4 * 4096
#endif
	.skip	256
boot_stack_end:
	.balign	16
	.globl	cpu_stacks
cpu_stacks:
	.skip	CPUS_MAX * STACK_BYTES
