/*
 * integer.c - workloads of plain integer code: arithmetic and branches, few loads and
 * stores. Most of what most programs do.
 */
#include "work.h"

#include <string.h>

static uint64_t state = 88172645463325252ull;

static uint64_t run_alu(uint64_t ops)
{
	uint64_t a = state, b = 1, c = 2;

	while (ops--) {
		a ^= a << 13;
		b += a >> 7;
		c = (c << 5 | c >> 59) ^ b;
		a = a * 5 + (c & 0xffff);
		b -= c ^ (a >> 3);
	}
	state = a;
	return a + b + c;
}

static uint64_t run_branch(uint64_t ops)
{
	uint64_t x = state, n = 0;

	while (ops--) {
		x = x * 6364136223846793005ull + 1442695040888963407ull;
		if (x >> 61) {
			n += 3;
			work_opaque(n);
		}
		if (ops & 4) {
			n ^= x;
			work_opaque(n);
		} else if (ops & 2) {
			n -= 7;
			work_opaque(n);
		}
		if (n & 1ull << 40) {
			n += x >> 20;
			work_opaque(n);
		}
	}
	state = x;
	return n;
}

static uint64_t run_collatz(uint64_t ops)
{
	static uint64_t from = 3;
	uint64_t steps = 0;

	while (ops--) {
		for (uint64_t n = from++; n != 1; steps++) {
			if (n & 1) {
				n = 3 * n + 1;
				work_opaque(n);
			} else {
				n >>= 1;
				work_opaque(n);
			}
		}
	}
	return steps;
}

/* Stein's greatest common divisor of two random numbers: shifts, not divisions. */
static uint64_t run_gcd(uint64_t ops)
{
	uint64_t r = state, sum = 0;

	while (ops--) {
		uint64_t a = work_random(&r) | 1, b = work_random(&r) | 1;

		while (a != b) {
			if (a < b) {
				uint64_t t = a;

				a = b;
				b = t;
				work_opaque(a);
			}
			a -= b;
			a >>= __builtin_ctzll(a);
		}
		sum += a;
	}
	state = r;
	return sum;
}

/* Reverse a word's bits and count them, by shifts and masks. */
static uint64_t run_bits(uint64_t ops)
{
	uint64_t x = state, sum = 0;

	while (ops--) {
		uint64_t v = x, n = x;

		v = (v >> 1 & 0x5555555555555555) | (v & 0x5555555555555555) << 1;
		v = (v >> 2 & 0x3333333333333333) | (v & 0x3333333333333333) << 2;
		v = (v >> 4 & 0x0f0f0f0f0f0f0f0f) | (v & 0x0f0f0f0f0f0f0f0f) << 4;
		v = __builtin_bswap64(v);
		n -= n >> 1 & 0x5555555555555555;
		n = (n & 0x3333333333333333) + (n >> 2 & 0x3333333333333333);
		n = (n + (n >> 4)) & 0x0f0f0f0f0f0f0f0f;
		n = n * 0x0101010101010101 >> 56;
		sum += n;
		x = v + n + (x << 1);
	}
	state = x;
	return sum;
}

#define LIFE_ROWS 64

static uint64_t board[LIFE_ROWS];

static void setup_life(void)
{
	for (unsigned i = 0; i < LIFE_ROWS; i++)
		board[i] = work_random(&state);
}

/* Add one neighbour to 64 counters of three bits that stick at 4 and above. */
static inline void add(uint64_t count[3], uint64_t neighbour)
{
	uint64_t carry0 = count[0] & neighbour, carry1 = count[1] & carry0;

	count[0] ^= neighbour;
	count[1] ^= carry0;
	count[2] |= carry1;
}

/* One operation is a generation: 64 cells a word, by counters in bit slices. */
static uint64_t run_life(uint64_t ops)
{
	uint64_t next[LIFE_ROWS], sum = 0;

	while (ops--) {
		for (unsigned y = 0; y < LIFE_ROWS; y++) {
			uint64_t up = board[(y - 1) % LIFE_ROWS], down = board[(y + 1) % LIFE_ROWS];
			uint64_t here = board[y], count[3] = { 0 };

			add(count, up << 1 | up >> 63);
			add(count, up);
			add(count, up >> 1 | up << 63);
			add(count, here << 1 | here >> 63);
			add(count, here >> 1 | here << 63);
			add(count, down << 1 | down >> 63);
			add(count, down);
			add(count, down >> 1 | down << 63);
			next[y] = ~count[2] & count[1] & (count[0] | here);
		}
		for (unsigned y = 0; y < LIFE_ROWS; y++) {
			board[y] = next[y];
			sum += next[y];
		}
	}
	return sum;
}

#define BIG_WORDS 32

static uint64_t big[3][2 * BIG_WORDS];

static void setup_big(void)
{
	for (unsigned i = 0; i < BIG_WORDS; i++) {
		big[0][i] = work_random(&state);
		big[1][i] = work_random(&state);
	}
}

/* 2048 by 2048 bits, as a schoolbook has it. */
static uint64_t run_bigmul(uint64_t ops)
{
	uint64_t *product = big[2];

	while (ops--) {
		memset(product, 0, sizeof(big[2]));
		for (unsigned i = 0; i < BIG_WORDS; i++) {
			uint64_t carry = 0;

			for (unsigned j = 0; j < BIG_WORDS; j++) {
				unsigned __int128 t = (unsigned __int128)big[0][i] * big[1][j];

				t += product[i + j];
				t += carry;
				product[i + j] = (uint64_t)t;
				carry = (uint64_t)(t >> 64);
			}
			product[i + BIG_WORDS] = carry;
		}
		big[0][ops % BIG_WORDS] ^= product[BIG_WORDS];
	}
	return product[BIG_WORDS] + product[0];
}

static inline uint32_t ror(uint32_t x, unsigned n)
{
	return x >> n | x << (32 - n);
}

#define MESSAGE_BYTES 16384u

static uint8_t message[MESSAGE_BYTES];
static uint32_t sha_k[64];

/* The constants are fractions of cube roots: found by search, in integers. */
static void setup_sha(void)
{
	unsigned p = 2;

	work_text(message, MESSAGE_BYTES);
	for (unsigned n = 0; n < 64; p++) {
		unsigned d = 2;
		unsigned __int128 low = 0, high = (unsigned __int128)8 << 32;

		while (d < p && p % d)
			d++;
		if (d < p)
			continue;
		/* The largest r with r^3 <= p * 2^96 holds the root's 32 bits of fraction. */
		while (high - low > 1) {
			unsigned __int128 mid = (low + high) / 2;

			if (mid * mid * mid <= (unsigned __int128)p << 96)
				low = mid;
			else
				high = mid;
		}
		sha_k[n++] = (uint32_t)low;
	}
}

static void sha_block(uint32_t hash[8], const uint8_t *block)
{
	uint32_t w[64], s[8];

	for (unsigned i = 0; i < 16; i++) {
		memcpy(&w[i], block + 4 * i, 4);
		w[i] = __builtin_bswap32(w[i]);
	}
	for (unsigned i = 16; i < 64; i++) {
		uint32_t x = w[i - 15], y = w[i - 2];

		w[i] = w[i - 16] + (ror(x, 7) ^ ror(x, 18) ^ x >> 3) + w[i - 7] +
		       (ror(y, 17) ^ ror(y, 19) ^ y >> 10);
	}
	memcpy(s, hash, sizeof(s));
	for (unsigned i = 0; i < 64; i++) {
		uint32_t e = s[4], a = s[0];
		uint32_t t1 = s[7] + (ror(e, 6) ^ ror(e, 11) ^ ror(e, 25)) +
			      ((e & s[5]) ^ (~e & s[6])) + sha_k[i] + w[i];
		uint32_t t2 = (ror(a, 2) ^ ror(a, 13) ^ ror(a, 22)) +
			      ((a & s[1]) ^ (a & s[2]) ^ (s[1] & s[2]));

		for (unsigned k = 7; k > 0; k--)
			s[k] = s[k - 1];
		s[4] += t1;
		s[0] = t1 + t2;
	}
	for (unsigned i = 0; i < 8; i++)
		hash[i] += s[i];
}

/* SHA-256 without SHA instructions. */
static uint64_t run_sha(uint64_t ops)
{
	uint32_t hash[8] = { 0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
			     0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19 };

	for (uint64_t i = 0; i < ops; i++)
		sha_block(hash, message + i * 64 % MESSAGE_BYTES);
	return (uint64_t)hash[0] << 32 | hash[7];
}

const struct work works_integer[] = {
	{ "alu", "round of 12 dependent instructions", 30000000, NULL, run_alu, NULL },
	{ "branch", "round with three branches", 16000000, NULL, run_branch, NULL },
	{ "collatz", "sequence", 400000, NULL, run_collatz, NULL },
	{ "gcd", "greatest common divisor", 300000, NULL, run_gcd, NULL },
	{ "bits", "word reversed and its bits counted", 12000000, NULL, run_bits, NULL },
	{ "life", "generation of 64 x 64 cells", 250000, setup_life, run_life, NULL },
	{ "bigmul", "product of 2048-bit numbers", 80000, setup_big, run_bigmul, NULL },
	{ "sha256", "block of 64 bytes, portable code", 170000, setup_sha, run_sha, NULL },
	{ 0 },
};
