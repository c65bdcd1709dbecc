/* print.c - text and results on the debug console, and the way out. */
#include "rt.h"

#include <stdarg.h>

#define CONSOLE_PORT 0xe9
#define EXIT_PORT    0xf4

extern uint32_t boot_info;

static unsigned results, failures;
static volatile uint8_t console_lock;

static void lock(void)
{
	while (__atomic_test_and_set(&console_lock, __ATOMIC_ACQUIRE))
		pause();
}

static void unlock(void)
{
	__atomic_clear(&console_lock, __ATOMIC_RELEASE);
}

static void put(char c)
{
	outb(CONSOLE_PORT, (uint8_t)c);
}

static void put_string(const char *s)
{
	while (*s)
		put(*s++);
}

static void put_decimal(unsigned long v)
{
	if (v >= 10)
		put_decimal(v / 10);
	put((char)('0' + v % 10));
}

static void put_hex(unsigned long long v)
{
	if (v >= 16)
		put_hex(v >> 4);
	put("0123456789abcdef"[v & 15]);
}

static void put_signed(long v)
{
	if (v < 0)
		put('-');
	put_decimal(v < 0 ? 0 - (unsigned long)v : (unsigned long)v);
}

static unsigned long long integer(va_list *ap, unsigned longs)
{
	switch (longs) {
	case 0:
		return va_arg(*ap, unsigned int);
	case 1:
		return va_arg(*ap, unsigned long);
	default:
		return va_arg(*ap, unsigned long long);
	}
}

static void format(const char *fmt, va_list *ap)
{
	for (; *fmt; fmt++) {
		unsigned longs = 0;

		if (*fmt != '%') {
			put(*fmt);
			continue;
		}
		for (fmt++; *fmt == 'l'; fmt++)
			longs++;
		switch (*fmt) {
		case 's':
			put_string(va_arg(*ap, const char *));
			break;
		case 'c':
			put((char)va_arg(*ap, int));
			break;
		case 'd':
			put_signed(longs ? va_arg(*ap, long) : va_arg(*ap, int));
			break;
		case 'u':
			put_decimal((unsigned long)integer(ap, longs));
			break;
		case 'p':
			put_hex((unsigned long)va_arg(*ap, void *));
			break;
		case 'x':
			put_hex(integer(ap, longs));
			break;
		default:
			put(*fmt);
		}
	}
}

void print(const char *fmt, ...)
{
	va_list ap;

	lock();
	va_start(ap, fmt);
	format(fmt, &ap);
	va_end(ap);
	unlock();
}

void note(const char *fmt, ...)
{
	va_list ap;

	lock();
	put_string("# ");
	va_start(ap, fmt);
	format(fmt, &ap);
	va_end(ap);
	put('\n');
	unlock();
}

/* The caller holds the lock, and ends the line. */
static void result(bool good)
{
	results++;
	failures += !good;
	put_string(good ? "ok " : "not ok ");
	put_decimal(results);
	put_string(" - ");
}

bool ok(bool good, const char *fmt, ...)
{
	va_list ap;

	lock();
	result(good);
	va_start(ap, fmt);
	format(fmt, &ap);
	va_end(ap);
	put('\n');
	unlock();
	return good;
}

bool same(uint64_t found, uint64_t wanted, const char *what)
{
	if (found == wanted)
		return ok(true, "%s", what);
	return ok(false, "%s: found 0x%llx, wanted 0x%llx", what, (unsigned long long)found,
		  (unsigned long long)wanted);
}

void skip(const char *what, const char *why)
{
	ok(true, "%s # SKIP %s", what, why);
}

void guest_exit(uint8_t value)
{
	outb(EXIT_PORT, value);
	for (;;)
		asm volatile("cli; hlt");
}

void finish(void)
{
	print("1..%u\n", results);
	guest_exit(failures != 0);
}

bool lax_machine(void)
{
	struct cpuid r = cpuid(0x40000000, 0);

	return cpuid(1, 0).c >> 31 && !memcmp(&r.b, "TCGT", 4);
}

const char *command_line(void)
{
	const uint32_t *info = (const uint32_t *)(uintptr_t)boot_info;

	return info[0] & 4 ? (const char *)(uintptr_t)info[4] : "";
}

unsigned long arg(const char *name, unsigned long otherwise)
{
	size_t n = strlen(name);
	unsigned long v = 0;
	const char *s;

	for (s = command_line(); *s; s++)
		if (!strncmp(s, name, n) && s[n] == '=')
			break;
	if (!*s)
		return otherwise;
	for (s += n + 1; *s >= '0' && *s <= '9'; s++)
		v = v * 10 + (unsigned long)(*s - '0');
	return v;
}

size_t strlen(const char *s)
{
	size_t n = 0;

	while (s[n])
		n++;
	return n;
}

int strncmp(const char *a, const char *b, size_t n)
{
	for (; n && *a && *a == *b; n--)
		a++, b++;
	return n ? *a - *b : 0;
}

void *memset(void *p, int c, size_t n)
{
	void *to = p;

	asm volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(c) : "memory");
	return p;
}

void *memcpy(void *to, const void *from, size_t n)
{
	void *p = to;

	asm volatile("rep movsb" : "+D"(p), "+S"(from), "+c"(n) : : "memory");
	return to;
}

int memcmp(const void *a, const void *b, size_t n)
{
	const uint8_t *x = a, *y = b;

	for (size_t i = 0; i < n; i++)
		if (x[i] != y[i])
			return x[i] - y[i];
	return 0;
}
