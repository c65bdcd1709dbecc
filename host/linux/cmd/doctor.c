/* doctor.c - `alcazar doctor`: what this host has for machines, what is amiss, what to do. */
#include "doctor.h"

#include "cmd.h"
#include "host/linux/host_linux.h"
#include "options.h"
#include "report.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

struct doctor_options {
	bool json, help;
};

/* clang-format off */
static const struct option table[] = {
	{ "json", NULL, OPT_SWITCH, offsetof(struct doctor_options, json),
	  .help = "as a JSON document" },
	{ "help", NULL, OPT_SWITCH, offsetof(struct doctor_options, help),
	  .help = "this list" },
};
/* clang-format on */

static const char *const kind_name[] = {
	[FINDING_FACT] = "fact",
	[FINDING_GOOD] = "good",
	[FINDING_PROBLEM] = "problem",
};

void doctor_find(struct doctor *d, const char *area, enum finding_kind kind, const char *remedy,
		 const char *fmt, ...)
{
	char text[400];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	json_array_append_new(d->findings,
			      json_pack("{s:s s:s s:s s:s?}", "area", area, "kind", kind_name[kind],
					"text", text, "remedy", remedy));
}

int doctor_read(const char *path, char *buf, size_t bytes)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), err = 0;
	ssize_t n;

	buf[0] = '\0';
	if (fd < 0)
		return -errno;
	n = read(fd, buf, bytes - 1);
	if (n < 0)
		err = -errno;
	close(fd);
	buf[n > 0 ? n : 0] = '\0';
	buf[strcspn(buf, "\n")] = '\0';
	return err;
}

static const char *text_of(const json_t *finding, const char *key)
{
	return json_string_value(json_object_get(finding, key));
}

static int print_text(const json_t *findings)
{
	const char *area = "", *mark;
	unsigned problems = 0;
	const json_t *f;
	size_t i;

	json_array_foreach(findings, i, f)
	{
		const char *kind = text_of(f, "kind"), *remedy = text_of(f, "remedy");

		if (strcmp(area, text_of(f, "area")) != 0) {
			area = text_of(f, "area");
			printf("%s\n", area);
		}
		mark = !strcmp(kind, "problem") ? "!" : !strcmp(kind, "good") ? "+" : " ";
		problems += *mark == '!';
		printf("  %s %s\n", mark, text_of(f, "text"));
		if (remedy)
			printf("      %s\n", remedy);
	}
	printf("%u problem%s\n", problems, problems == 1 ? "" : "s");
	return finish_output(0);
}

static int examine(const struct doctor_options *o)
{
	struct host host = { 0 };
	struct doctor d = { .host = &host };
	int err = host_linux_create(&host), status;

	if (err)
		return internal_error("cannot use this host: %s", strerror(-err));
	d.findings = json_array();
	doctor_kvm(&d);
	doctor_host(&d);
	if (o->json) {
		status = report_json(json_pack("{s:O}", "findings", d.findings), JSON_INDENT(2), 0);
	} else {
		status = print_text(d.findings);
	}
	json_decref(d.findings);
	host_linux_destroy(&host);
	return status;
}

int cmd_doctor(int argc, char **argv)
{
	struct option_set set = {
		.command = "doctor",
		.summary = "Say what this host has for machines: '+' is good, '!' is a problem, "
			   "with its remedy.",
		.table = table,
		.nr = ARRAY_SIZE(table),
	};
	struct doctor_options o = { 0 };
	int status;

	if (options_take(&set, argc, argv, &o, &o.help, &status))
		status = examine(&o);
	options_free(&set);
	return status;
}
