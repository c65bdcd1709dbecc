/*
 * rtc.c - MC146818 real-time clock and its CMOS memory.
 *
 * Motorola MC146818A data sheet; the century in byte 0x32 and the memory sizes
 * are a PC's customs. The clock starts with the host's wall clock and runs on guest
 * time: the time of day is guest time plus an offset, which setting the clock
 * changes. While it is stopped (SET, or divider not running) the bytes stand for
 * themselves.
 *
 * Interrupt flags are found when somebody looks: each event has a count of how
 * often it has happened by now, and a flag is set when that has changed.
 */
#include "devices/device.h"

#define CMOS_BYTES 128
#define INDEX_MASK 0x7fu

enum cmos {
	SECONDS = 0x00,
	SECONDS_ALARM = 0x01,
	MINUTES = 0x02,
	MINUTES_ALARM = 0x03,
	HOURS = 0x04,
	HOURS_ALARM = 0x05,
	WEEKDAY = 0x06,
	DAY = 0x07,
	MONTH = 0x08,
	YEAR = 0x09,
	REG_A = 0x0a,
	REG_B = 0x0b,
	REG_C = 0x0c,
	REG_D = 0x0d,
	EQUIPMENT = 0x14,
	BASE_KIB = 0x15,     /* 2 bytes */
	EXTENDED_KIB = 0x17, /* 2 bytes: above 1 MiB */
	SUM_FIRST = 0x10,    /* the sum of these ... */
	SUM_LAST = 0x2d,
	SUM = 0x2e,            /* ... high byte first */
	EXTENDED_KIB_2 = 0x30, /* again */
	CENTURY = 0x32,
	ABOVE_16M = 0x34, /* 2 bytes, units of 64 KiB */
	ABOVE_4G = 0x5b,  /* 3 bytes, units of 64 KiB */
	NR_CPUS = 0x5f    /* less one */
};

#define A_UIP         BIT(7)
#define A_DIVIDER     0x70u
#define A_DIVIDER_RUN 0x20u /* 32,768 Hz */
#define A_RATE        0x0fu
#define B_SET         BIT(7)
#define B_PIE         BIT(6)
#define B_AIE         BIT(5)
#define B_UIE         BIT(4)
#define B_ENABLES     (B_PIE | B_AIE | B_UIE)
#define B_BINARY      BIT(2)
#define B_24H         BIT(1)
#define C_IRQF        BIT(7)
#define C_PF          BIT(6)
#define C_AF          BIT(5)
#define C_UF          BIT(4)
#define C_FLAGS       (C_PF | C_AF | C_UF)
#define D_VALID       BIT(7)
#define HOURS_PM      BIT(7)
#define ALARM_ANY     0xc0u /* both bits set: every value matches */

#define EQUIPMENT_FPU BIT(1)

/* From UIP's rise to the end of the update: data sheet, update cycle. */
#define UPDATE_NS     (2228 * NSEC_PER_USEC)
#define FIRST_TICK_NS (NSEC_PER_SEC / 2) /* after the divider starts */

#define DAY_SECONDS  86400
#define OFFSET_MAX_S ((int64_t)1 << 40) /* beyond year 9999 */
#define YEAR_MIN_DAY (-719468)          /* 0000-03-01, counted from 1970-01-01 */

struct rtc {
	uint8_t index;
	uint8_t cmos[CMOS_BYTES];
	int64_t offset_s;   /* UTC less guest time: whole seconds, and */
	uint32_t offset_ns; /* the rest, below one */
	/* How often it had happened when the flags were last brought up to date. */
	uint64_t periods;
	int64_t seconds;
};

struct clock_time {
	int64_t year;                 /* all four digits */
	unsigned month, day, weekday; /* from 1; Sunday is 1 */
	unsigned hour, minute, second;
};

/* --- the calendar ------------------------------------------------------------ */

static int64_t floor_div(int64_t a, int64_t b)
{
	return a / b - (a % b < 0);
}

/* Days since 1970-01-01. A year is counted from March, so that leap days come last. */
static int64_t days_of(int64_t year, unsigned month, unsigned day)
{
	int64_t y = month <= 2 ? year - 1 : year;
	int64_t month_from_march = (month + 9) % 12;

	return y * 365 + floor_div(y, 4) - floor_div(y, 100) + floor_div(y, 400) +
	       (153 * month_from_march + 2) / 5 + day - 1 + YEAR_MIN_DAY;
}

static void date_of(int64_t days, struct clock_time *t)
{
	int64_t year = floor_div((days - YEAR_MIN_DAY) * 400, 146097) + 1; /* or one less */
	int64_t day_of_year, m;

	while (days_of(year, 3, 1) > days)
		year--;
	day_of_year = days - days_of(year, 3, 1);
	m = (5 * day_of_year + 2) / 153; /* months since March */
	t->day = (unsigned)(day_of_year - (153 * m + 2) / 5) + 1;
	t->month = (unsigned)(m < 10 ? m + 3 : m - 9);
	t->year = t->month <= 2 ? year + 1 : year;
	t->weekday = (unsigned)(((days + 4) % 7 + 7) % 7) + 1;
}

static void time_of(int64_t seconds, struct clock_time *t)
{
	int64_t days = floor_div(seconds, DAY_SECONDS);
	unsigned rest = (unsigned)(seconds - days * DAY_SECONDS);

	date_of(days, t);
	t->hour = rest / 3600;
	t->minute = rest / 60 % 60;
	t->second = rest % 60;
}

/* --- bytes and numbers ------------------------------------------------------- */

static uint8_t encode(const struct rtc *r, unsigned v)
{
	return (uint8_t)(r->cmos[REG_B] & B_BINARY ? v : v / 10 << 4 | v % 10);
}

static unsigned decode(const struct rtc *r, uint8_t byte)
{
	return r->cmos[REG_B] & B_BINARY ? byte : (byte >> 4) * 10u + (byte & 15);
}

static uint8_t encode_hour(const struct rtc *r, unsigned hour)
{
	if (r->cmos[REG_B] & B_24H)
		return encode(r, hour);
	return (uint8_t)(encode(r, (hour + 11) % 12 + 1) | (hour >= 12 ? HOURS_PM : 0));
}

static unsigned decode_hour(const struct rtc *r, uint8_t byte)
{
	if (r->cmos[REG_B] & B_24H)
		return decode(r, byte);
	return decode(r, byte & (uint8_t)~HOURS_PM) % 12 + (byte & HOURS_PM ? 12 : 0);
}

static void store_time(struct rtc *r, int64_t seconds)
{
	struct clock_time t;

	time_of(seconds, &t);
	r->cmos[SECONDS] = encode(r, t.second);
	r->cmos[MINUTES] = encode(r, t.minute);
	r->cmos[HOURS] = encode_hour(r, t.hour);
	r->cmos[WEEKDAY] = (uint8_t)t.weekday;
	r->cmos[DAY] = encode(r, t.day);
	r->cmos[MONTH] = encode(r, t.month);
	r->cmos[YEAR] = encode(r, (unsigned)(t.year % 100));
	r->cmos[CENTURY] = encode(r, (unsigned)(t.year / 100 % 100));
}

/* Nonsense gives some time or other, but always one the calendar can take. */
static int64_t load_time(const struct rtc *r)
{
	const uint8_t *c = r->cmos;
	unsigned month = decode(r, c[MONTH]);
	int64_t year = decode(r, c[CENTURY]) % 100 * 100 + decode(r, c[YEAR]) % 100;
	int64_t days = days_of(year, (month + 11) % 12 + 1, decode(r, c[DAY]) % 32);

	return days * DAY_SECONDS + decode_hour(r, c[HOURS]) * 3600 + decode(r, c[MINUTES]) * 60 +
	       decode(r, c[SECONDS]);
}

/* --- time -------------------------------------------------------------------- */

static bool is_running(const struct rtc *r)
{
	return !(r->cmos[REG_B] & B_SET) && (r->cmos[REG_A] & A_DIVIDER) == A_DIVIDER_RUN;
}

/* Counts the seconds of the clock from offset_s on, in nanoseconds. */
static uint64_t rtc_ns(struct dev *d)
{
	struct rtc *r = dev_state(d);

	return dev_now(d) + r->offset_ns;
}

static int64_t rtc_seconds(struct dev *d)
{
	struct rtc *r = dev_state(d);

	return r->offset_s + (int64_t)(rtc_ns(d) / NSEC_PER_SEC);
}

static void set_time(struct dev *d, int64_t seconds, uint64_t phase_ns)
{
	struct rtc *r = dev_state(d);
	uint64_t now = dev_now(d);
	uint64_t rest = (phase_ns + NSEC_PER_SEC - now % NSEC_PER_SEC) % NSEC_PER_SEC;

	r->offset_ns = (uint32_t)rest;
	r->offset_s = seconds - (int64_t)((now + rest) / NSEC_PER_SEC);
}

/* @second lies after offset_s. */
static uint64_t guest_ns_of_second(const struct rtc *r, int64_t second)
{
	return (uint64_t)(second - r->offset_s) * NSEC_PER_SEC - r->offset_ns;
}

/* The period of PF; data sheet, table 5. 0: none. */
static uint64_t period_ns(const struct rtc *r)
{
	unsigned rate = r->cmos[REG_A] & A_RATE;

	if (!rate || (r->cmos[REG_A] & A_DIVIDER) != A_DIVIDER_RUN)
		return 0;
	if (rate <= 2)
		rate += 7;
	return (NSEC_PER_SEC << (rate - 1)) / 32768;
}

static uint64_t periods_now(struct dev *d)
{
	uint64_t ns = period_ns(dev_state(d));

	return ns ? dev_now(d) / ns : 0;
}

/* --- alarm ------------------------------------------------------------------- */

/* The alarm's value of one field, -1 for any. */
static int alarm_field(const struct rtc *r, enum cmos reg)
{
	uint8_t byte = r->cmos[reg];

	if ((byte & ALARM_ANY) == ALARM_ANY)
		return -1;
	return (int)(reg == HOURS_ALARM ? decode_hour(r, byte) : decode(r, byte));
}

static bool matches(int field, int64_t value)
{
	return field < 0 || field == value;
}

/*
 * The first second after @from at which the alarm rings, INT64_MAX if none. Skips
 * whole hours and minutes that do not match, and so takes at most 24 + 60 + 60 steps.
 */
static int64_t next_alarm(const struct rtc *r, int64_t from)
{
	int hour = alarm_field(r, HOURS_ALARM);
	int minute = alarm_field(r, MINUTES_ALARM);
	int second = alarm_field(r, SECONDS_ALARM);
	int64_t s = from + 1;

	if (hour > 23 || minute > 59 || second > 59)
		return INT64_MAX;
	for (;;) {
		int64_t t = s - floor_div(s, DAY_SECONDS) * DAY_SECONDS;

		if (!matches(hour, t / 3600))
			s += 3600 - t % 3600;
		else if (!matches(minute, t / 60 % 60))
			s += 60 - t % 60;
		else if (!matches(second, t % 60))
			s++;
		else
			return s;
	}
}

/* --- flags, line and timer --------------------------------------------------- */

static void count_events(struct dev *d)
{
	struct rtc *r = dev_state(d);
	uint64_t periods = periods_now(d);

	if (periods != r->periods)
		r->cmos[REG_C] |= C_PF;
	r->periods = periods;
	if (is_running(r)) {
		int64_t seconds = rtc_seconds(d);

		if (seconds != r->seconds)
			r->cmos[REG_C] |= C_UF;
		if (seconds > r->seconds && next_alarm(r, r->seconds) <= seconds)
			r->cmos[REG_C] |= C_AF;
		r->seconds = seconds;
	}
}

/* The events that would interrupt; after a change of the clock none of the past count. */
static void forget_events(struct dev *d)
{
	struct rtc *r = dev_state(d);

	r->periods = periods_now(d);
	r->seconds = rtc_seconds(d);
}

static uint64_t next_event(struct dev *d)
{
	struct rtc *r = dev_state(d);
	uint64_t next = HOST_FOREVER;

	if ((r->cmos[REG_B] & B_PIE) && period_ns(r))
		next = (r->periods + 1) * period_ns(r);
	if (!is_running(r))
		return next;
	if (r->cmos[REG_B] & B_UIE)
		next = MIN(next, guest_ns_of_second(r, r->seconds + 1));
	if (r->cmos[REG_B] & B_AIE) {
		int64_t alarm = next_alarm(r, r->seconds);

		if (alarm != INT64_MAX)
			next = MIN(next, guest_ns_of_second(r, alarm));
	}
	return next;
}

/*
 * The line follows the flags that are enabled, and only reading them takes it
 * back: as long as it is asserted there is nothing to wait for.
 */
static void rtc_update(struct dev *d)
{
	struct rtc *r = dev_state(d);
	bool asserted;

	count_events(d);
	asserted = r->cmos[REG_C] & r->cmos[REG_B] & B_ENABLES;
	dev_irq(d, asserted);
	dev_timer_set(d, asserted ? HOST_FOREVER : next_event(d));
}

/* --- registers --------------------------------------------------------------- */

static bool is_time(unsigned reg)
{
	return reg == CENTURY ||
	       (reg <= YEAR && reg != SECONDS_ALARM && reg != MINUTES_ALARM && reg != HOURS_ALARM);
}

static void refresh(struct dev *d)
{
	struct rtc *r = dev_state(d);

	if (is_running(r))
		store_time(r, rtc_seconds(d));
}

/* The time in the bytes is the time from now on, @phase_ns into the second. */
static void adopt_time(struct dev *d, uint64_t phase_ns)
{
	set_time(d, load_time(dev_state(d)), phase_ns);
	forget_events(d);
}

static void write_time(struct dev *d, unsigned reg, uint8_t val)
{
	struct rtc *r = dev_state(d);

	refresh(d);
	r->cmos[reg] = val;
	if (is_running(r))
		adopt_time(d, rtc_ns(d) % NSEC_PER_SEC);
}

/* A or B decide whether the clock runs and in which form its bytes are. */
static void write_mode(struct dev *d, unsigned reg, uint8_t val)
{
	struct rtc *r = dev_state(d);
	bool was_running = is_running(r);
	bool divider_ran = (r->cmos[REG_A] & A_DIVIDER) == A_DIVIDER_RUN;

	refresh(d);
	r->cmos[reg] = val;
	if (!was_running && is_running(r))
		adopt_time(d, divider_ran ? 0 : NSEC_PER_SEC - FIRST_TICK_NS);
	r->periods = periods_now(d);
}

static void write_reg(struct dev *d, unsigned reg, uint8_t val)
{
	struct rtc *r = dev_state(d);

	switch (reg) {
	case REG_A:
		write_mode(d, reg, val & (uint8_t)~A_UIP);
		break;
	case REG_B:
		write_mode(d, reg, val & B_SET ? val & (uint8_t)~B_UIE : val);
		break;
	case REG_C:
	case REG_D: /* read-only */
		break;
	default:
		if (is_time(reg))
			write_time(d, reg, val);
		else
			r->cmos[reg] = val;
		break;
	}
}

static uint8_t read_flags(struct rtc *r)
{
	uint8_t flags = r->cmos[REG_C];

	r->cmos[REG_C] = 0;
	return (uint8_t)(flags | (flags & r->cmos[REG_B] & B_ENABLES ? C_IRQF : 0));
}

static bool update_in_progress(struct dev *d)
{
	return is_running(dev_state(d)) && rtc_ns(d) % NSEC_PER_SEC >= NSEC_PER_SEC - UPDATE_NS;
}

static uint8_t read_reg(struct dev *d, unsigned reg)
{
	struct rtc *r = dev_state(d);

	switch (reg) {
	case REG_A:
		return (uint8_t)(r->cmos[REG_A] | (update_in_progress(d) ? A_UIP : 0));
	case REG_C:
		return read_flags(r);
	case REG_D:
		return D_VALID;
	default:
		if (is_time(reg))
			refresh(d);
		return r->cmos[reg];
	}
}

static uint64_t rtc_read(struct dev *d, uint64_t off, unsigned size)
{
	struct rtc *r = dev_state(d);
	uint8_t val;

	if (off == 0)
		return UINT64_MAX; /* the index is write-only */
	count_events(d);
	val = read_reg(d, r->index);
	rtc_update(d);
	return val;
}

static void rtc_write(struct dev *d, uint64_t off, unsigned size, uint64_t val)
{
	struct rtc *r = dev_state(d);

	if (off == 0) {
		r->index = val & INDEX_MASK; /* bit 7 masks NMI: there is no source */
		return;
	}
	count_events(d);
	write_reg(d, r->index, (uint8_t)val);
	rtc_update(d);
}

/* --- beginning --------------------------------------------------------------- */

static void put(struct rtc *r, unsigned reg, unsigned bytes, uint64_t val)
{
	for (unsigned i = 0; i < bytes; i++)
		r->cmos[reg + i] = (uint8_t)(val >> (i * 8));
}

static void fill_memory(struct dev *d)
{
	struct rtc *r = dev_state(d);
	uint64_t low = dev_low_ram_bytes(d);
	uint64_t extended = low > MIB(1) ? MIN(low - MIB(1), MIB(63)) : 0;
	unsigned sum = 0;

	put(r, EQUIPMENT, 1, EQUIPMENT_FPU);
	put(r, BASE_KIB, 2, 640);
	put(r, EXTENDED_KIB, 2, extended / KIB(1));
	put(r, EXTENDED_KIB_2, 2, extended / KIB(1));
	put(r, ABOVE_16M, 2, low > MIB(16) ? (low - MIB(16)) / KIB(64) : 0);
	put(r, ABOVE_4G, 3, (dev_ram_bytes(d) - low) / KIB(64));
	put(r, NR_CPUS, 1, MIN(dev_vcpus(d), 256) - 1);
	for (unsigned i = SUM_FIRST; i <= SUM_LAST; i++)
		sum += r->cmos[i];
	r->cmos[SUM] = (uint8_t)(sum >> 8);
	r->cmos[SUM + 1] = (uint8_t)sum;
}

static int rtc_init(struct dev *d)
{
	struct rtc *r = dev_state(d);
	uint64_t wall = dev_wall_ns(d);

	r->cmos[REG_A] = A_DIVIDER_RUN | 6; /* what firmware leaves: 1,024 Hz, 24 hours, BCD */
	r->cmos[REG_B] = B_24H;
	set_time(d, (int64_t)(wall / NSEC_PER_SEC), wall % NSEC_PER_SEC);
	fill_memory(d);
	forget_events(d);
	return 0;
}

/* The battery keeps time and memory; the reset pin clears enables and flags. */
static void rtc_reset(struct dev *d)
{
	struct rtc *r = dev_state(d);

	r->index = 0;
	r->cmos[REG_B] &= (uint8_t)~B_ENABLES;
	r->cmos[REG_C] = 0;
	forget_events(d);
	rtc_update(d);
}

/* What was loaded must not make arithmetic overflow, nor lie ahead of the time. */
static void check_loaded(struct dev *d)
{
	struct rtc *r = dev_state(d);
	int64_t now;

	r->index &= INDEX_MASK;
	r->cmos[REG_A] &= (uint8_t)~A_UIP;
	r->cmos[REG_C] &= C_FLAGS;
	r->offset_s = MAX(MIN(r->offset_s, OFFSET_MAX_S), -OFFSET_MAX_S);
	r->offset_ns %= NSEC_PER_SEC;
	now = rtc_seconds(d);
	if (r->seconds > now || r->seconds < now - DAY_SECONDS)
		r->seconds = now;
	r->periods = MIN(r->periods, periods_now(d));
}

static int rtc_snapshot(struct dev *d, struct snap *s)
{
	struct rtc *r = dev_state(d);
	uint64_t offset, seconds;

	if (!snap_loading(s))
		count_events(d);
	offset = (uint64_t)r->offset_s;
	seconds = (uint64_t)r->seconds;
	snap_u8(s, &r->index);
	snap_bytes(s, r->cmos, sizeof(r->cmos));
	snap_u64(s, &offset);
	snap_u32(s, &r->offset_ns);
	snap_u64(s, &r->periods);
	snap_u64(s, &seconds);
	if (!snap_loading(s))
		return snap_error(s);
	r->offset_s = (int64_t)offset;
	r->seconds = (int64_t)seconds;
	check_loaded(d);
	rtc_update(d);
	return snap_error(s);
}

const struct device_type rtc_type = {
	.name = "rtc",
	.state_size = sizeof(struct rtc),
	.region = { { BUS_PIO, 0x70, 2 } },
	.min_access = 1,
	.max_access = 1,
	.gsi = { 8, -1, -1, -1 },
	.init = rtc_init,
	.reset = rtc_reset,
	.read = rtc_read,
	.write = rtc_write,
	.timer = rtc_update,
	.snapshot = rtc_snapshot,
};
