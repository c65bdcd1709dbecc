/* ledger_file.h - a claim as a JSON text, and back. Pure. docs/ledger.md documents it. */
#ifndef HOST_LINUX_LEDGER_FILE_H
#define HOST_LINUX_LEDGER_FILE_H

#include "ledger.h"

#define LEDGER_FILE_MAX (64 * 1024) /* bytes; the biggest claim there can be takes half */

/* The whole text, for free(). NULL: no memory, or not a claim. */
char *ledger_file_text(const struct ledger_claim *c);

/* -EINVAL, and why[] says what is wrong with it; *@out is then undefined. */
int ledger_file_parse(const char *text, size_t bytes, struct ledger_claim *out, char *why,
		      size_t why_bytes);

#endif
