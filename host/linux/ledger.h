/*
 * ledger.h - who has what on this host: one claim a running machine, in a directory
 * that all machines of a user share (docs/ledger.md).
 *
 * A claim is a file, written by its owner alone and alive exactly while the owner
 * holds its open-file-description lock: however a process ends, its claim ends with
 * it. Plan and claim under ledger_lock(), so that nobody claims between the look and
 * the claim. What is read was written by others: it is checked, and nothing that a
 * file says harms the reader.
 *
 * A struct ledger has at most one claim. Its functions may be called from any thread.
 * Errors are -errno, the line for the user stands in why[].
 */
#ifndef HOST_LINUX_LEDGER_H
#define HOST_LINUX_LEDGER_H

#include "placement/plan.h"

#include <sys/types.h>

#define LEDGER_NAME_MAX   64 /* characters */
#define LEDGER_ENGINE_MAX 15
#define LEDGER_CLAIMS_MAX 4096
#define LEDGER_WHY_BYTES  512

enum ledger_state { LEDGER_STARTING, LEDGER_RUNNING, LEDGER_PAUSED, LEDGER_STATES };

struct ledger_memory {
	unsigned guest_node;
	int host_node; /* OS index where it is bound now, -1: the host has no nodes */
	int born_node; /* where it was bound when the machine started */
	uint64_t bytes;
	uint64_t page_bytes; /* 0: base pages */
};

/* A thread that does I/O for the vCPUs of host node @node. */
struct ledger_io {
	int node;
	unsigned pu;
};

struct ledger_claim {
	char name[LEDGER_NAME_MAX + 1]; /* ledger_name_ok() */
	pid_t pid;
	uint64_t started_ns;                /* CLOCK_BOOTTIME */
	char engine[LEDGER_ENGINE_MAX + 1]; /* empty until it is known */
	enum ledger_state state;
	bool exclusive;       /* nobody may join its PUs */
	struct pu_set pus;    /* its vCPUs' PUs, and siblings it keeps idle */
	struct pu_set shared; /* those of pus that somebody had when it claimed them */
	unsigned nr_vcpus;
	uint16_t vcpu[PLAN_VCPUS_MAX]; /* the PU of each */
	unsigned nr_io;
	struct ledger_io io[PLAN_NODES_MAX];
	unsigned nr_memory;
	struct ledger_memory memory[PLAN_NODES_MAX];
};

/* A claim that is alive and cannot be understood. */
struct ledger_trouble {
	char file[LEDGER_NAME_MAX + 16]; /* printable */
	char why[128];
};

struct ledger_list {
	struct ledger_claim *claim; /* ascending by name */
	unsigned nr;
	struct ledger_trouble *trouble;
	unsigned nr_trouble;
};

struct ledger;

/* 1 to LEDGER_NAME_MAX letters, digits, '.', '_', '-', the first a letter or digit. */
bool ledger_name_ok(const char *name);
const char *ledger_state_name(enum ledger_state state);

/*
 * The runtime directory: $ALCAZAR_RUNTIME_DIR; /run/alcazar for root;
 * $XDG_RUNTIME_DIR/alcazar; /tmp/alcazar-UID. Returns @buf.
 */
const char *ledger_directory(char *buf, size_t bytes);

/*
 * @dir NULL: ledger_directory(). It is made, mode 0700, if @create, otherwise -ENOENT
 * says that nobody has claimed anything yet. A directory that belongs to somebody else
 * or that others may write to is refused with -EPERM.
 */
int ledger_open(const char *dir, bool create, struct ledger **out, char *why, size_t why_bytes);
void ledger_close(struct ledger *l); /* releases its claim; NULL is legal */
/* Beside the claims is room for a machine's other files, such as its socket. */
const char *ledger_path(const struct ledger *l);

/*
 * For planning and claiming; not recursive; in order of arrival. -ETIMEDOUT when patience
 * ends, which is after half a minute; why[] then names the process that has it. Shared,
 * readers keep out only those who plan.
 */
enum ledger_mode { LEDGER_SHARED, LEDGER_EXCLUSIVE };
int ledger_lock(struct ledger *l, enum ledger_mode mode, char *why, size_t why_bytes);
void ledger_unlock(struct ledger *l);
void ledger_set_patience(struct ledger *l, uint64_t ns); /* before others use @l */

/*
 * All live claims, the caller's own too. Under an exclusive lock it also takes away what
 * dead owners left. Without any lock each claim is whole, but they may not fit together.
 */
int ledger_read(struct ledger *l, struct ledger_list *out);
void ledger_list_free(struct ledger_list *list); /* zeroed again */

/* Under an exclusive lock. -EEXIST: the name is taken; -EALREADY: @l has a claim. */
int ledger_claim(struct ledger *l, const struct ledger_claim *c, char *why, size_t why_bytes);
/* The claim as it stands; -ENOENT if there is none. */
int ledger_get(struct ledger *l, struct ledger_claim *out);
/*
 * Puts @c in its place, at once: readers see the old claim or the new one, and after an
 * error the old one stands. Its name stays. Under an exclusive lock if it takes PUs or
 * memory that it did not have. Between ledger_get() and this no other thread updates it.
 */
int ledger_update(struct ledger *l, const struct ledger_claim *c, char *why, size_t why_bytes);
/* Needs no lock. */
void ledger_release(struct ledger *l);

/* A claim for @plan by this process, starting now. */
void ledger_claim_of(const struct plan *plan, const char *name, bool exclusive,
		     struct ledger_claim *out);

/*
 * How much of c->memory[i] the owner has not touched yet, into untouched[i]: it is free
 * on the host, but promised. All of it if the owner cannot be looked at.
 */
void ledger_untouched(const struct ledger_claim *c, uint64_t untouched[PLAN_NODES_MAX]);

#endif
