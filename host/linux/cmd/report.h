/* report.h - what the commands tell: the plan, counters, the result; as text and as JSON. */
#ifndef HOST_LINUX_CMD_REPORT_H
#define HOST_LINUX_CMD_REPORT_H

#include "vmm.h"

#include <jansson.h>
#include <stdio.h>

void report_plan(FILE *out, const char *name, const struct machine_model *m, const struct plan *p);
/* The terms of its cost, and what was rejected. */
void report_explanation(FILE *out, const struct plan *p);
/* docs/placement.md documents it. */
json_t *report_plan_json(const struct machine_model *m, const struct plan *p);

void report_stats(FILE *out, struct vm *vm);
json_t *report_stats_json(struct vm *vm);
json_t *report_populated_json(const struct vm *vm);
/* The same table from such a document, whoever wrote it. */
void report_counters(FILE *out, const json_t *vcpus);

/*
 * report_kvm.c: exits by reason, and which accelerations are active and why, of a machine
 * under KVM; nothing and NULL with another engine.
 */
void report_kvm(FILE *out, struct vm *vm);
json_t *report_kvm_json(struct vm *vm);
/* The same text from such a document, whoever wrote it; NULL: nothing. */
void report_accelerations(FILE *out, const json_t *kvm);

const char *report_end_name(enum vmm_end end);

/* One document on standard output, freed; @flags as of json_dumpf(). An exit status. */
int report_json(json_t *doc, size_t flags, int status);

#endif
