/*
 * clock.c - monotonic time, and the counter that guests' TSCs derive from.
 *
 * The counter is the TSC where the kernel itself trusts it, else nanoseconds. Its
 * rate is measured between the host's creation and the first question, which
 * start-up spends on other things anyway; a rate that the processor or a
 * hypervisor states is preferred when the measurement confirms it.
 */
#include "linux.h"

#include <cpuid.h>
#include <fcntl.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

#define CALIBRATION_NS (5 * NSEC_PER_MSEC) /* 20 ns of jitter at either end: 8 ppm */
#define SAMPLE_TRIES   16
#define STATED_PPM_MAX 500 /* further off than this, a stated rate is wrong */

struct timespec ns_to_timespec(uint64_t ns)
{
	return (struct timespec){
		.tv_sec = (time_t)(ns / NSEC_PER_SEC),
		.tv_nsec = (long)(ns % NSEC_PER_SEC),
	};
}

static uint64_t read_clock(clockid_t id)
{
	struct timespec ts;

	clock_gettime(id, &ts);
	return (uint64_t)ts.tv_sec * NSEC_PER_SEC + (uint64_t)ts.tv_nsec;
}

uint64_t linux_clock_mono_ns(void *ctx)
{
	return read_clock(CLOCK_MONOTONIC);
}

uint64_t linux_clock_wall_ns(void *ctx)
{
	return read_clock(CLOCK_REALTIME);
}

/* Up to bytes - 1 characters from the start of a small file. */
static bool read_head(const char *path, char *buf, size_t bytes)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return false;
	n = read(fd, buf, bytes - 1);
	close(fd);
	buf[n > 0 ? n : 0] = '\0';
	return n > 0;
}

static bool tsc_is_invariant(void)
{
	unsigned eax, ebx, ecx, edx;
	char cpuinfo[4096]; /* the first processor's entry fits */

	if (__get_cpuid(0x80000007, &eax, &ebx, &ecx, &edx) && (edx & BIT(8)))
		return true;
	return read_head("/proc/cpuinfo", cpuinfo, sizeof(cpuinfo)) &&
	       strstr(cpuinfo, " constant_tsc") && strstr(cpuinfo, " nonstop_tsc");
}

/* The kernel drops the TSC as clock source when it finds it unsteady or unsynchronised. */
static bool tsc_is_trusted(void)
{
	char source[32];

	if (!read_head("/sys/devices/system/clocksource/clocksource0/current_clocksource", source,
		       sizeof(source)))
		return false;
	return !strcmp(source, "tsc\n") || !strcmp(source, "kvm-clock\n");
}

/* Both clocks at one instant: the try that was least disturbed. */
static struct clock_sample take_sample(void)
{
	struct clock_sample best = { 0 };
	uint64_t best_width = UINT64_MAX;

	for (unsigned i = 0; i < SAMPLE_TRIES; i++) {
		uint64_t before = __rdtsc();
		uint64_t ns = read_clock(CLOCK_MONOTONIC);
		uint64_t width = __rdtsc() - before;

		if (width < best_width) {
			best_width = width;
			best = (struct clock_sample){ .tsc = before + width / 2, .ns = ns };
		}
	}
	return best;
}

void linux_tick_init(struct linux_host *h)
{
	h->tsc_usable = tsc_is_invariant() && tsc_is_trusted();
	if (h->tsc_usable)
		h->tsc_start = take_sample();
	else
		atomic_init(&h->tsc_khz, NSEC_PER_SEC / 1000);
}

uint64_t linux_tick_count(void *ctx)
{
	const struct linux_host *h = ctx;

	return h->tsc_usable ? __rdtsc() : read_clock(CLOCK_MONOTONIC);
}

/* SDM vol. 2, CPUID leaf 15H; leaf 40000010H is the hypervisors' convention. 0: not stated. */
static uint64_t stated_khz(void)
{
	unsigned eax, ebx, ecx, edx;

	if (__get_cpuid(0x15, &eax, &ebx, &ecx, &edx) && eax && ebx && ecx)
		return mul_div_u64(ecx, ebx, (uint64_t)eax * 1000);
	__cpuid(1, eax, ebx, ecx, edx);
	if (!(ecx & BIT(31)))
		return 0;
	__cpuid(0x40000000, eax, ebx, ecx, edx);
	if (eax < 0x40000010 || eax > 0x400000ff)
		return 0;
	__cpuid(0x40000010, eax, ebx, ecx, edx);
	return eax;
}

static uint64_t measure_khz(const struct clock_sample *start)
{
	uint64_t elapsed = read_clock(CLOCK_MONOTONIC) - start->ns;
	struct clock_sample end;
	struct timespec rest;

	if (elapsed < CALIBRATION_NS) {
		rest = ns_to_timespec(CALIBRATION_NS - elapsed);
		nanosleep(&rest, NULL);
	}
	do {
		end = take_sample();
	} while (end.ns - start->ns < CALIBRATION_NS);
	return mul_div_u64(end.tsc - start->tsc, 1000000, end.ns - start->ns);
}

static bool within_ppm(uint64_t a, uint64_t b, uint64_t ppm)
{
	uint64_t diff = a > b ? a - b : b - a;

	return diff <= mul_div_u64(b, ppm, 1000000);
}

uint64_t linux_tick_khz(void *ctx)
{
	struct linux_host *h = ctx;
	uint64_t khz = atomic_load(&h->tsc_khz);

	if (khz)
		return khz;
	pthread_mutex_lock(&h->lock);
	khz = atomic_load(&h->tsc_khz);
	if (!khz) {
		uint64_t measured = measure_khz(&h->tsc_start);
		uint64_t stated = stated_khz();

		khz = within_ppm(stated, measured, STATED_PPM_MAX) ? stated : measured;
		atomic_store(&h->tsc_khz, khz);
	}
	pthread_mutex_unlock(&h->lock);
	return khz;
}
