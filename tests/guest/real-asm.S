/*
 * real-asm.S - copied to 0x9000 and entered there in real mode. DS is this page,
 * FS the results at 0x7000, ES and the stack segment 0.
 */
#include "layout.h"

#define R_CS		0
#define R_IP		2
#define R_COUNT		4
#define R_HFLAGS	6
#define R_FLAGS		8
#define R_DIV_IP	10
#define R_DIV_WANTED	12
#define R_SEGMENT	14
#define R_WRAPPED	16
#define R_FAR		18
#define R_PUSHA		20
#define R_STRING	22
#define R_LIMIT		24
#define R_MOVED		26
#define R_WIDE		28
#define R_ABOVE		32
#define R_UNREAL	36
#define R_PCS		40
#define R_BOUND		42
#define R_ENTER		44
#define R_DONE		48

#define HERE(label) (label - real_begin)

	.text
	.code16
	.globl	real_begin, real_end
real_begin:
	call	1f
1:	pop	%bx			/* stack is 0:0 after INIT: harmless */
	sub	$3, %bx
	cld
	mov	$0x700, %ax
	mov	%ax, %fs
	mov	%cs, %ax
	mov	%ax, %ds
	mov	%ax, %fs:R_CS
	mov	%bx, %fs:R_IP
	xor	%ax, %ax
	mov	%ax, %es
	mov	%ax, %ss
	mov	$0x6ff0, %sp

	/* INT 0x21 */
	movw	$HERE(on_int), %es:0x21 * 4
	mov	%cs, %es:0x21 * 4 + 2
	sti
	stc
	int	$0x21
	pushf
	popw	%fs:R_FLAGS
	cli

	/* #DE */
	movw	$HERE(on_divide), %es:0
	mov	%cs, %es:2
	movw	$HERE(divide), %fs:R_DIV_WANTED
	xor	%cx, %cx
divide:	div	%cx
	/* Segments */
	mov	$0x6000 >> 4, %ax
	mov	%ax, %gs
	movw	$0x1234, %gs:0x10
	mov	%es:0x6010, %ax
	mov	%ax, %fs:R_SEGMENT
	mov	$0x5ff, %ax
	mov	%ax, %gs
	movw	$0x5678, %es:0x6020
	mov	%gs:0x30, %ax
	mov	%ax, %fs:R_WRAPPED

	/* Far call */
	lcall	*HERE(far_pointer)

	/* PUSHA, POPA */
	mov	$0x1111, %ax
	mov	$0x2222, %dx
	pusha
	xor	%ax, %ax
	xor	%dx, %dx
	popa
	cmp	$0x2222, %dx
	jne	2f
	mov	%ax, %fs:R_PUSHA
2:
	/* MOVSB downwards: "abcd" to 0x6040 */
	mov	$HERE(text) + 3, %si
	mov	$0x6043, %di
	mov	$4, %cx
	std
	rep movsb
	cld
	mov	%es:0x6042, %ax
	mov	%ax, %fs:R_STRING

	/* #GP: an offset beyond the limit */
	movw	$HERE(on_gp), %es:13 * 4
	mov	%cs, %es:13 * 4 + 2
	mov	$0x10000, %ebx
	movb	%es:(%ebx), %al
after_gp:
	/* Another interrupt table, at 0x6400 */
	movw	$HERE(on_moved), %es:0x6400 + 0x21 * 4
	mov	%cs, %es:0x6400 + 0x21 * 4 + 2
	lidt	HERE(moved_table)
	int	$0x21
	lidt	HERE(old_table)

	/* 32-bit arithmetic */
	mov	$0x40000000, %eax
	add	%eax, %eax
	inc	%eax
	mov	%eax, %fs:R_WIDE

	/* ffff:0010 */
	mov	$0xffff, %ax
	mov	%ax, %gs
	mov	%gs:0x10, %eax
	mov	%eax, %fs:R_ABOVE

	/* Through protected mode, GS flat, and back */
	lgdtl	HERE(gdt_desc)
	mov	%cr0, %eax
	or	$1, %al
	mov	%eax, %cr0
	ljmpl	$SEL_CODE32, $0x9000 + HERE(protected)
	.code32
protected:
	mov	%cs, %eax
	mov	$0x7000, %edx
	mov	$SEL_DATA, %ecx
	mov	%ecx, %gs
	mov	%ecx, %ds
	mov	%ax, R_PCS(%edx)
	ljmp	$32, $HERE(narrow)
	.code16
narrow:	mov	%cr0, %eax
	and	$~1, %al
	mov	%eax, %cr0
	ljmp	$0x900, $HERE(real_again)
real_again:
	mov	%cs, %ax
	mov	%ax, %ds
	mov	$0x100004, %ebx
	mov	%gs:(%ebx), %eax
	mov	%eax, %fs:R_UNREAL

	/* BOUND within its bounds, ENTER and LEAVE */
	mov	$3, %ax
	bound	%ax, HERE(bounds)
	movw	$1, %fs:R_BOUND
	mov	%sp, %bx
	mov	$0x7777, %bp
	enter	$8, $0
	leave
	cmp	%sp, %bx
	jne	3f
	cmp	$0x7777, %bp
	jne	3f
	movw	$1, %fs:R_ENTER
3:	movl	$0x600d, %fs:R_DONE
4:	cli
	hlt
	jmp	4b

on_int:	pushf
	popw	%fs:R_HFLAGS
	incw	%fs:R_COUNT
	iret

on_divide:
	push	%bp
	mov	%sp, %bp
	mov	2(%bp), %ax
	mov	%ax, %fs:R_DIV_IP
	addw	$2, 2(%bp)		/* over the division */
	pop	%bp
	iret

on_gp:	movw	$1, %fs:R_LIMIT
	add	$4, %sp
	pushw	%cs
	pushw	$HERE(after_gp)
	iret

on_moved:
	movw	$1, %fs:R_MOVED
	iret

far_target:
	movw	$1, %fs:R_FAR
	lret

	.balign	4
far_pointer:
	.word	HERE(far_target), 0x900
bounds:	.word	1, 5
text:	.ascii	"abcd"
moved_table:
	.word	0x3ff
	.long	0x6400
old_table:
	.word	0x3ff
	.long	0
gdt_desc:
	.word	5 * 8 - 1
	.long	0x9000 + HERE(gdt)
	.balign	8
gdt:	.quad	0
	.quad	0x00cf9b000000ffff	/* SEL_CODE32 */
	.quad	0
	.quad	0x00cf93000000ffff	/* SEL_DATA */
	.quad	0x00009b009000ffff	/* 32: 16-bit code here */
real_end:
