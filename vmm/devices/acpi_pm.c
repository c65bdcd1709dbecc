/*
 * acpi_pm.c - ACPI power management: PM1a event and control blocks, PM timer.
 *
 * ACPI 6.4, 4.8.3. The machine is always in ACPI mode (SCI_EN reads 1). The only
 * event is the timer's carry, and the only sleep state soft-off.
 */
#include "devices/device.h"

enum pm_reg { PM1_STATUS = 0, PM1_ENABLE = 2, PM1_CONTROL = 4, PM_TIMER = 8 };

#define PM_BYTES 12

#define TMR_STS BIT(0)
#define PM1_EN_BITS                                                                                \
	(BIT(0) | BIT(5) | BIT(8) | BIT(9) | BIT(10)) /* timer, global, buttons, RTC               \
						       */

#define SCI_EN        BIT(0)
#define BM_RLD        BIT(1)
#define SLP_EN        BIT(13) /* reads 0 */
#define SLP_TYP       (7u << 10)
#define SLP_TYP_S5    (5u << 10) /* as \_S5 says */
#define TIMER_HZ      3579545ull
#define TIMER_CARRIES 31 /* a change of this bit sets TMR_STS */

struct acpi_pm {
	uint16_t status, enable, control;
	uint64_t carries; /* of the timer, as far as status knows */
};

static uint64_t pm_ticks(struct dev *d)
{
	return mul_div_u64(dev_now(d), TIMER_HZ, NSEC_PER_SEC);
}

/* Bring status up to now, and the SCI and the timer into line with it. */
static void pm_update(struct dev *d)
{
	struct acpi_pm *p = dev_state(d);
	uint64_t carries = pm_ticks(d) >> TIMER_CARRIES;
	bool asserted;

	if (carries != p->carries)
		p->status |= TMR_STS;
	p->carries = carries;
	asserted = p->status & p->enable;
	dev_irq(d, asserted);
	if ((p->enable & TMR_STS) && !asserted)
		dev_timer_set(
			d, mul_div_u64((carries + 1) << TIMER_CARRIES, NSEC_PER_SEC, TIMER_HZ) + 1);
	else
		dev_timer_cancel(d);
}

static uint16_t read_word(struct dev *d, uint64_t off)
{
	struct acpi_pm *p = dev_state(d);

	switch (off) {
	case PM1_STATUS:
		pm_update(d);
		return p->status;
	case PM1_ENABLE:
		return p->enable;
	case PM1_CONTROL:
		return p->control | SCI_EN;
	default:
		return 0;
	}
}

static void write_control(struct dev *d, uint16_t val)
{
	struct acpi_pm *p = dev_state(d);

	p->control = val & (BM_RLD | SLP_TYP);
	if (!(val & SLP_EN))
		return;
	if ((val & SLP_TYP) == SLP_TYP_S5)
		dev_request_poweroff(d);
	else
		dev_log(d, LOG_WARN, "sleep type %u is not offered: ignored",
			(val & SLP_TYP) / (SLP_TYP & -SLP_TYP));
}

static void write_word(struct dev *d, uint64_t off, uint16_t val)
{
	struct acpi_pm *p = dev_state(d);

	switch (off) {
	case PM1_STATUS: /* ones clear */
		pm_update(d);
		p->status &= (uint16_t)~val;
		pm_update(d);
		break;
	case PM1_ENABLE:
		p->enable = val & PM1_EN_BITS;
		pm_update(d);
		break;
	case PM1_CONTROL:
		write_control(d, val);
		break;
	default:
		break;
	}
}

static uint64_t pm_read(struct dev *d, uint64_t off, unsigned size)
{
	uint64_t val;

	if (off >= PM_TIMER)
		val = (uint32_t)pm_ticks(d);
	else
		val = read_word(d, off & ~3ull) | (uint64_t)read_word(d, (off & ~3ull) + 2) << 16;
	return val >> (off % 4 * 8);
}

/* A byte written alone leaves the other one of its register as it is. */
static void write_byte(struct dev *d, uint64_t off, uint8_t val)
{
	unsigned shift = (unsigned)(off & 1) * 8;
	uint64_t reg = off & ~1ull;
	unsigned word = reg == PM1_STATUS ? 0 : read_word(d, reg);

	write_word(d, reg, (uint16_t)((word & ~(0xffu << shift)) | (unsigned)val << shift));
}

static void pm_write(struct dev *d, uint64_t off, unsigned size, uint64_t val)
{
	if (size == 1)
		write_byte(d, off, (uint8_t)val);
	for (unsigned i = 0; i + 2 <= size; i += 2)
		write_word(d, off + i, (uint16_t)(val >> (i * 8)));
}

static void pm_reset(struct dev *d)
{
	struct acpi_pm *p = dev_state(d);

	*p = (struct acpi_pm){ .carries = pm_ticks(d) >> TIMER_CARRIES };
	pm_update(d);
}

static int pm_snapshot(struct dev *d, struct snap *s)
{
	struct acpi_pm *p = dev_state(d);

	if (!snap_loading(s))
		pm_update(d);
	snap_u16(s, &p->status);
	snap_u16(s, &p->enable);
	snap_u16(s, &p->control);
	snap_u64(s, &p->carries);
	if (!snap_loading(s))
		return snap_error(s);
	p->status &= TMR_STS;
	p->enable &= PM1_EN_BITS;
	p->control &= BM_RLD | SLP_TYP;
	pm_update(d);
	return snap_error(s);
}

const struct device_type acpi_pm_type = {
	.name = "acpi_pm",
	.state_size = sizeof(struct acpi_pm),
	.region = { { BUS_PIO, 0x600, PM_BYTES } },
	.min_access = 1,
	.max_access = 4,
	.gsi = { 9, -1, -1, -1 },
	.reset = pm_reset,
	.read = pm_read,
	.write = pm_write,
	.timer = pm_update,
	.snapshot = pm_snapshot,
};
