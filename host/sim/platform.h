/*
 * platform.h - the devices of a machine on a simulated host, without processors:
 * what tests of devices and their fuzzer share.
 *
 * Accesses go through the buses, time is the simulated host's. Where a processor
 * would be, messages and the PIC's output are recorded. Two PCI test functions are
 * there beside what every machine has.
 */
#ifndef HOST_SIM_PLATFORM_H
#define HOST_SIM_PLATFORM_H

#include "core/device_core.h"
#include "core/vm.h"
#include "host/sim/sim.h"

#define PLATFORM_MSIS 64 /* the first ones are kept, all are counted */

struct platform_config {
	unsigned vcpus;     /* 0: 1 */
	uint64_t ram_bytes; /* 0: 256 MiB; what lies above 3 GiB starts at 4 GiB */
	struct sim_config sim;
	const struct host *host; /* not NULL: run on this one, which stays the caller's */
};

struct platform {
	struct host host;
	bool simulated;
	struct vm *vm;
	uint8_t *ram; /* what is above 3 GiB in the guest follows directly */
	uint64_t ram_bytes;

	struct {
		uint64_t addr;
		uint32_t data;
	} msi[PLATFORM_MSIS];
	unsigned nr_msis;
	bool extint;         /* the PIC's output */
	unsigned nr_extints; /* how often it rose */

	char output[256];          /* the first console bytes, always terminated */
	size_t output_bytes;       /* all of them */
	_Atomic unsigned nr_ready; /* calls of console_ready */
};

/* Aborts where memory is short. cfg may be NULL. The devices have been reset. */
struct platform *platform_create(const struct platform_config *cfg);
/* What was left behind on the simulated host. */
unsigned platform_destroy(struct platform *p);

struct dev *platform_dev(struct platform *p, const char *name);

uint64_t platform_in(struct platform *p, uint64_t port, unsigned size);
void platform_out(struct platform *p, uint64_t port, unsigned size, uint64_t val);
uint32_t platform_load(struct platform *p, uint64_t gpa);
void platform_store(struct platform *p, uint64_t gpa, uint32_t val);

static inline uint8_t platform_inb(struct platform *p, uint64_t port)
{
	return (uint8_t)platform_in(p, port, 1);
}

static inline void platform_outb(struct platform *p, uint64_t port, uint8_t val)
{
	platform_out(p, port, 1, val);
}

/* What a device has asked of the machine; taken back. */
enum vm_request platform_request(struct platform *p, int *code);

/* All devices, in their order. 0 or -errno. */
int platform_snapshot(struct platform *p, struct snap *s);

#endif
