/*
 * probe.c - is KVM here, and does the processor do the work?
 *
 * Some hosts offer a /dev/kvm that interprets guest code: everything works, a
 * thousand times slower. So the probe runs a guest of a few instructions, times a
 * loop against exits without one, delivers an interrupt, and judges by that. Each
 * round costs a fast KVM microseconds and a slow one a millisecond; the best counts,
 * since other work on the host only makes a time longer.
 */
#include "kvm.h"

#include "probe.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define LOOPS       2000u
#define EMPTY_EXITS 4
#define ROUNDS      3
#define NS_PER_LOOP 50 /* a processor needs less than one, an interpreter hundreds */

#define MEMORY (64u << 10)
#define PML4   0x1000u
#define PDPT   0x2000u
#define PD     0x3000u
#define GDT    0x4000u
#define IDT    0x5000u
#define STACK  0x8000u
#define CODE   0x9000u

#define VECTOR 0x40
enum probe_port { PORT_EMPTY = 0x10, PORT_LOOP = 0x11, PORT_INTERRUPT = 0x12 };

/*
 * Says "empty" five times with nothing between, runs the loop, says so, and goes round;
 * the handler says "interrupt" and returns.
 */
extern const uint8_t probe_guest[], probe_guest_handler[], probe_guest_end[];
asm(".pushsection .rodata\n"
    "probe_guest:\n"
    "1:	.rept 5\n" /* EMPTY_EXITS and one more */
    "	out %al, $0x10\n"
    "	.endr\n"
    "	mov $2000, %ecx\n" /* LOOPS */
    "2:	dec %ecx\n"
    "	jnz 2b\n"
    "	out %al, $0x11\n"
    "	jmp 1b\n"
    "probe_guest_handler:\n"
    "	out %al, $0x12\n"
    "	iretq\n"
    "probe_guest_end:\n"
    ".popsection");

struct probe {
	const struct host *host;
	int kvm_fd, vm_fd, cpu_fd;
	uint8_t *memory;
	struct kvm_run *run;
	size_t run_bytes;
};

/* --- the guest --------------------------------------------------------------------- */

static void fill_memory(struct probe *p)
{
	uint64_t handler = CODE + (uint64_t)(probe_guest_handler - probe_guest);

	store_u64(p->memory + PML4, PDPT | 3);
	store_u64(p->memory + PDPT, PD | 3);
	store_u64(p->memory + PD, 0x83); /* 2 MiB, as themselves */
	store_u64(p->memory + GDT + 8, 0x00af9b000000ffffull);
	store_u64(p->memory + GDT + 16, 0x00cf93000000ffffull);
	store_u64(p->memory + IDT + VECTOR * 16, handler | 8u << 16 | 0x8e00ull << 32);
	memcpy(p->memory + CODE, probe_guest, (size_t)(probe_guest_end - probe_guest));
}

static int fill_registers(struct probe *p)
{
	struct kvm_segment code = {
		.selector = 8, .limit = UINT32_MAX, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1
	};
	struct kvm_segment data = { .selector = 16,
				    .limit = UINT32_MAX,
				    .type = 3,
				    .present = 1,
				    .s = 1,
				    .db = 1,
				    .g = 1 };
	struct kvm_regs regs = { .rip = CODE, .rsp = STACK, .rflags = RFLAGS_ONE | RFLAGS_IF };
	struct kvm_sregs s;
	int err = kvm_ioctl(p->cpu_fd, KVM_GET_SREGS, &s);

	if (err)
		return err;
	s.cs = code;
	s.ds = s.es = s.fs = s.gs = s.ss = data;
	s.gdt = (struct kvm_dtable){ .base = GDT, .limit = 23 };
	s.idt = (struct kvm_dtable){ .base = IDT, .limit = 0xfff };
	s.cr0 = CR0_PE | CR0_PG | CR0_ET | CR0_NE;
	s.cr3 = PML4;
	s.cr4 = CR4_PAE;
	s.efer = EFER_LME | EFER_LMA;
	err = kvm_ioctl(p->cpu_fd, KVM_SET_SREGS, &s);
	return err ? err : kvm_ioctl(p->cpu_fd, KVM_SET_REGS, &regs);
}

static int make_cpu(struct probe *p)
{
	struct kvm_cpuid2 *cpuid = NULL;
	int err = kvm_supported_cpuid(p->kvm_fd, &cpuid);
	void *run;

	if (err)
		return err;
	p->cpu_fd = kvm_ioctl_n(p->vm_fd, KVM_CREATE_VCPU, 0);
	err = p->cpu_fd < 0 ? p->cpu_fd : kvm_ioctl(p->cpu_fd, KVM_SET_CPUID2, cpuid);
	free(cpuid);
	if (err)
		return err;
	p->run_bytes = (size_t)kvm_ioctl_n(p->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	run = mmap(NULL, p->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, p->cpu_fd, 0);
	if (run == MAP_FAILED)
		return -ENOMEM;
	p->run = run;
	return fill_registers(p);
}

static int make_guest(struct probe *p)
{
	struct kvm_userspace_memory_region r = { .memory_size = MEMORY };
	void *m = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int err;

	if (m == MAP_FAILED)
		return -ENOMEM;
	p->memory = m;
	fill_memory(p);
	p->vm_fd = kvm_ioctl_n(p->kvm_fd, KVM_CREATE_VM, 0);
	if (p->vm_fd < 0)
		return p->vm_fd;
	err = kvm_ioctl_n(p->vm_fd, KVM_SET_TSS_ADDR, 0xfffbd000ul);
	r.userspace_addr = (uintptr_t)m;
	if (!err)
		err = kvm_ioctl(p->vm_fd, KVM_SET_USER_MEMORY_REGION, &r);
	return err ? err : make_cpu(p);
}

static void release(struct probe *p)
{
	if (p->run)
		munmap(p->run, p->run_bytes);
	if (p->cpu_fd >= 0)
		close(p->cpu_fd);
	if (p->vm_fd >= 0)
		close(p->vm_fd);
	if (p->memory)
		munmap(p->memory, MEMORY);
}

/* --- its run ------------------------------------------------------------------------- */

/* Until the guest speaks: at port @port, or something is wrong. */
static int run_to(struct probe *p, uint16_t port)
{
	int n;

	do
		n = ioctl(p->cpu_fd, KVM_RUN, 0);
	while (n < 0 && (errno == EINTR || errno == EAGAIN));
	if (n < 0)
		return -errno;
	return p->run->exit_reason == KVM_EXIT_IO && p->run->io.port == port ? 0 : -EIO;
}

static int timed_run(struct probe *p, uint16_t port, uint64_t *ns)
{
	uint64_t start = p->host->ops->now_ns(p->host->ctx), took;
	int err = run_to(p, port);

	took = p->host->ops->now_ns(p->host->ctx) - start;
	*ns = MIN(*ns, took);
	return err;
}

static int run_round(struct probe *p, struct kvm_speed *s)
{
	int err = run_to(p, PORT_EMPTY);

	for (unsigned i = 0; !err && i < EMPTY_EXITS; i++)
		err = timed_run(p, PORT_EMPTY, &s->exit_ns);
	if (!err)
		err = timed_run(p, PORT_LOOP, &s->loop_ns);
	return err;
}

static int take_interrupt(struct probe *p)
{
	struct kvm_interrupt irq = { .irq = VECTOR };
	int err = kvm_ioctl(p->cpu_fd, KVM_INTERRUPT, &irq);

	return err ? err : run_to(p, PORT_INTERRUPT);
}

static bool is_slow(const struct kvm_speed *s)
{
	return s->loop_ns > s->exit_ns && (s->loop_ns - s->exit_ns) / LOOPS >= NS_PER_LOOP;
}

static int measure(struct probe *p, struct kvm_speed *s)
{
	int err = 0;

	*s = (struct kvm_speed){ .exit_ns = UINT64_MAX, .loop_ns = UINT64_MAX };
	for (unsigned i = 0; !err && i < ROUNDS && (i == 0 || is_slow(s)); i++)
		err = run_round(p, s);
	if (err)
		return err;
	s->ps_per_loop = s->loop_ns > s->exit_ns ? (s->loop_ns - s->exit_ns) * 1000 / LOOPS : 0;
	return take_interrupt(p);
}

int kvm_measure(const struct host *h, int kvm_fd, struct kvm_speed *s)
{
	struct probe p = { .host = h, .kvm_fd = kvm_fd, .vm_fd = -1, .cpu_fd = -1 };
	int err = make_guest(&p);

	if (!err)
		err = measure(&p, s);
	release(&p);
	if (!err)
		s->slow = is_slow(s);
	return err;
}

int kvm_probe(const struct host *h, char *why, size_t why_bytes)
{
	struct kvm_speed s;
	int fd = kvm_open(why, why_bytes), err;

	if (fd < 0)
		return fd;
	err = kvm_measure(h, fd, &s);
	close(fd);
	if (err) {
		snprintf(why, why_bytes, "KVM does not run a test guest: %s: see `alcazar doctor`",
			 strerror(-err));
		return err;
	}
	if (!s.slow)
		return 0;
	snprintf(why, why_bytes,
		 "KVM is emulated here: %llu ns for one turn of a two-instruction loop, where "
		 "virtualisation hardware needs one: take a host with VT-x or AMD-V",
		 (unsigned long long)s.ps_per_loop / 1000);
	return -ENOTSUP;
}
