/*
 * gdbserver.h - a debugger's view of a machine, by the GDB remote protocol.
 *
 * One connection at a time on 127.0.0.1; a machine runs on while none is there and
 * stands while a debugger looks at it. One thread a vCPU, numbered from 1.
 */
#ifndef HOST_LINUX_CMD_GDBSERVER_H
#define HOST_LINUX_CMD_GDBSERVER_H

#include "vmm.h"

struct gdbserver;

/* Listens. 0, or an exit status after the user was told. */
int gdbserver_create(struct gdbserver **out, unsigned port, const char *label);
/* 0 or -errno. */
int gdbserver_start(struct gdbserver *g, struct vm *vm);
/* vmm_config.debug_stop, on a vCPU's thread. */
void gdbserver_stopped(struct gdbserver *g, unsigned vcpu, uint64_t detail);
/* Before the machine is destroyed. NULL is legal. */
void gdbserver_destroy(struct gdbserver *g);

#endif
