/* gdb_regs.h - the registers of a vCPU in GDB's order and form. */
#ifndef HOST_LINUX_CMD_GDB_REGS_H
#define HOST_LINUX_CMD_GDB_REGS_H

#include "core/cpu_state.h"

#define GDB_REG_BYTES_MAX 16

unsigned gdb_regs_count(void);
/* Little-endian bytes of register @n into @out; returns how many. */
size_t gdb_reg_get(const struct cpu_state *s, unsigned n, uint8_t out[GDB_REG_BYTES_MAX]);
size_t gdb_reg_bytes(unsigned n);
void gdb_reg_set(struct cpu_state *s, unsigned n, const uint8_t in[GDB_REG_BYTES_MAX]);

/* The target description; the caller frees it. NULL: out of memory. */
char *gdb_regs_xml(void);

#endif
