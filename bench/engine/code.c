/*
 * code.c - workloads of control flow: calls, returns, and jumps whose target is data.
 */
#include "work.h"

static __attribute__((noinline)) uint64_t fib(uint64_t n)
{
	return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

static uint64_t run_fib(uint64_t ops)
{
	uint64_t sum = 0;

	while (ops--)
		sum += fib(18 + (ops & 1));
	return sum;
}

static __attribute__((noinline)) unsigned queens(unsigned columns, unsigned left, unsigned right)
{
	unsigned count = 0, free = ~(columns | left | right) & 255;

	if (columns == 255)
		return 1;
	while (free) {
		unsigned bit = free & -free;

		free ^= bit;
		count += queens(columns | bit, (left | bit) << 1, (right | bit) >> 1);
	}
	return count;
}

/* The 92 ways of 8 queens. */
static uint64_t run_queens(uint64_t ops)
{
	uint64_t sum = 0;

	while (ops--)
		sum += queens(0, 0, 0);
	return sum;
}

typedef uint64_t leaf(uint64_t x);

#define LEAF(n, e)                                                                                 \
	static __attribute__((noinline)) uint64_t leaf##n(uint64_t x)                              \
	{                                                                                          \
		return e;                                                                          \
	}

LEAF(0, x + 1)
LEAF(1, x ^ x >> 3)
LEAF(2, x * 3)
LEAF(3, x - 7)
LEAF(4, x << 1 | x >> 63)
LEAF(5, ~x)
LEAF(6, x + (x >> 9))
LEAF(7, x ^ 0x5555)

static leaf *const leaves[8] = { leaf0, leaf1, leaf2, leaf3, leaf4, leaf5, leaf6, leaf7 };

/* Calls through a table in an order of period 256, which native hardware learns. */
static uint64_t run_icall(uint64_t ops)
{
	static uint8_t order[256];
	uint64_t x = 1, r = 7;

	for (unsigned i = 0; i < 256; i++)
		order[i] = (uint8_t)(work_random(&r) >> 61);
	while (ops--)
		x = leaves[order[ops & 255]](x);
	return x;
}

enum opcode { OP_ADD, OP_SUB, OP_XOR, OP_SHIFT, OP_LOAD, OP_STORE, OP_MUL, OP_LOOP };

/* A bytecode machine: a switch that compilers make a jump through a table. */
static uint64_t run_vm(uint64_t ops)
{
	static const uint8_t code[] = { OP_ADD,   OP_XOR, OP_LOAD,  OP_SHIFT, OP_MUL, OP_STORE,
					OP_SUB,   OP_ADD, OP_STORE, OP_LOAD,  OP_XOR, OP_MUL,
					OP_SHIFT, OP_ADD, OP_LOAD,  OP_SUB,   OP_LOOP };
	uint64_t a = 1, b = 3, memory[8] = { 5, 4, 3, 2, 1 };
	const uint8_t *pc = code;

	while (ops) {
		switch (*pc++) {
		case OP_ADD:
			a += b;
			break;
		case OP_SUB:
			b -= a >> 1;
			break;
		case OP_XOR:
			a ^= b << 3;
			break;
		case OP_SHIFT:
			b >>= 2;
			break;
		case OP_LOAD:
			b += memory[a & 7];
			break;
		case OP_STORE:
			memory[b & 7] = a;
			break;
		case OP_MUL:
			a *= 0x9e3779b97f4a7c15ull;
			break;
		case OP_LOOP:
			pc = code;
			ops--;
			break;
		}
	}
	return a + b;
}

const struct work works_code[] = {
	{ "fib", "recursion of some 4,000 or 7,000 calls", 10000, NULL, run_fib, NULL },
	{ "queens", "8 queens, some 2,000 calls", 14000, NULL, run_queens, NULL },
	{ "icall", "call by pointer", 50000000, NULL, run_icall, NULL },
	{ "vm", "17 switched bytecodes", 3000000, NULL, run_vm, NULL },
	{ 0 },
};
