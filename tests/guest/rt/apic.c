/* apic.c - the local APIC in either of its modes. */
#include "rt.h"

#ifdef __x86_64__
#define APIC_PAGE    0xfee00000ul
#define BASE_ENABLE  0x800
#define BASE_X2      0x400
#define MSR_X2_FIRST 0x800

bool apic_x2(void)
{
	return rdmsr(MSR_APIC_BASE) & BASE_X2;
}

uint32_t apic_read(enum apic_reg r)
{
	if (apic_x2())
		return (uint32_t)rdmsr(MSR_X2_FIRST + r / 16);
	return *(volatile uint32_t *)(APIC_PAGE + r);
}

void apic_write(enum apic_reg r, uint32_t v)
{
	if (apic_x2())
		wrmsr(MSR_X2_FIRST + r / 16, v);
	else
		*(volatile uint32_t *)(APIC_PAGE + r) = v;
}

void apic_icr(uint32_t id, uint32_t command)
{
	/* An x2APIC write of ICR does not order earlier stores (SDM vol. 3, 11.12.3). */
	asm volatile("mfence; lfence" : : : "memory");
	if (apic_x2()) {
		wrmsr(MSR_X2_FIRST + APIC_ICR / 16, (uint64_t)id << 32 | command);
		return;
	}
	apic_write(APIC_ICR2, id << 24);
	apic_write(APIC_ICR, command);
	while (apic_read(APIC_ICR) & 0x1000)
		pause();
}

uint32_t apic_id(void)
{
	return apic_x2() ? apic_read(APIC_ID) : apic_read(APIC_ID) >> 24;
}

void apic_enable(void)
{
	wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | BASE_ENABLE);
	apic_write(APIC_SVR, 0x100 | VECTOR_SPURIOUS);
	apic_write(APIC_TPR, 0);
}

bool apic_enable_x2(void)
{
	if (!(cpuid(1, 0).c & 1u << 21))
		return false;
	wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | BASE_ENABLE | BASE_X2);
	apic_write(APIC_SVR, 0x100 | VECTOR_SPURIOUS);
	return true;
}
#endif
