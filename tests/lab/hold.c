/*
 * hold.c - keeps the switches in the lab's kernel where machines of KVM put them.
 *
 *	hold		prints "held" and sleeps for ever
 *
 * The first machine, the first vCPU without a local APIC, the first whose local APIC is
 * off: each makes the kernel patch jumps into its own code, the last to go patches them
 * back, some of them in the scheduler. An emulator that translates a piece of code while
 * another CPU stores into it may keep the translation of what was there before: of the
 * INT3 that stands there while the jump is patched. Whoever comes by then takes that
 * exception for ever. So one of each is there all the time, and nothing is patched.
 */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define PINS               24u
#define APIC_BASE_DISABLED 0xfee00100u /* the boot processor's */

static int make(int kvm, int with_apic)
{
	struct kvm_enable_cap split = { .cap = KVM_CAP_SPLIT_IRQCHIP, .args = { PINS } };
	struct kvm_sregs sregs;
	int vm = ioctl(kvm, KVM_CREATE_VM, 0), cpu;

	if (vm < 0 || (with_apic && ioctl(vm, KVM_ENABLE_CAP, &split)))
		return -1;
	cpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	if (cpu < 0 || !with_apic)
		return cpu;
	if (ioctl(cpu, KVM_GET_SREGS, &sregs))
		return -1;
	sregs.apic_base = APIC_BASE_DISABLED;
	return ioctl(cpu, KVM_SET_SREGS, &sregs);
}

int main(void)
{
	int kvm = open("/dev/kvm", O_RDWR);

	if (kvm < 0 || make(kvm, 0) < 0 || make(kvm, 1) < 0) {
		perror("hold");
		return 1;
	}
	puts("held");
	fflush(stdout);
	for (;;)
		pause();
}
