/*
 * integer.c - workloads of plain integer code: arithmetic, branches, and loads and
 * stores that hit the first cache. Most of what most programs do.
 */
#include "work.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* A place the compiler may not see through, so that a branch stays a branch. */
#define BARRIER(x) __asm__("" : "+r"(x))

#define TEXT_BYTES (64u * 1024)

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
			BARRIER(n);
		}
		if (ops & 4) {
			n ^= x;
			BARRIER(n);
		} else if (ops & 2) {
			n -= 7;
			BARRIER(n);
		}
		if (n & 1ull << 40) {
			n += x >> 20;
			BARRIER(n);
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
				BARRIER(n);
			} else {
				n >>= 1;
				BARRIER(n);
			}
		}
	}
	return steps;
}

#define SIEVE_SIZE 16384

static uint64_t run_sieve(uint64_t ops)
{
	static uint8_t composite[SIEVE_SIZE];
	uint64_t primes = 0;

	while (ops--) {
		memset(composite, 0, sizeof(composite));
		for (unsigned i = 2; i < SIEVE_SIZE; i++) {
			if (composite[i])
				continue;
			primes++;
			for (unsigned j = 2 * i; j < SIEVE_SIZE; j += i)
				composite[j] = 1;
		}
	}
	return primes;
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

static uint8_t text[TEXT_BYTES];
static uint32_t crc_table[256];

static void setup_text(void)
{
	work_text(text, sizeof(text));
}

static void setup_crc(void)
{
	setup_text();
	for (uint32_t i = 0; i < 256; i++) {
		uint32_t c = i;

		for (int k = 0; k < 8; k++)
			c = c & 1 ? 0xedb88320u ^ c >> 1 : c >> 1;
		crc_table[i] = c;
	}
}

static uint64_t run_crc(uint64_t ops)
{
	uint32_t crc = ~0u;

	for (uint64_t i = 0; i < ops; i++)
		crc = crc_table[(crc ^ text[i % TEXT_BYTES]) & 255] ^ crc >> 8;
	return crc;
}

/* Words, numbers and lines of the text: a scanner as by hand. */
static uint64_t run_parse(uint64_t ops)
{
	uint64_t words = 0, lines = 0, value = 0, number = 0;
	bool in_word = false;

	for (uint64_t i = 0; i < ops; i++) {
		unsigned c = text[i % TEXT_BYTES];

		if (c >= 'a' && c <= 'z') {
			if (!in_word)
				words++;
			in_word = true;
			BARRIER(words);
			continue;
		}
		in_word = false;
		if (c >= '0' && c <= '9') {
			number = number * 10 + (c - '0');
			continue;
		}
		if (c == '\n')
			lines++;
		value += number;
		number = 0;
	}
	return words + (lines << 20) + (value << 32);
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

static uint32_t sha_k[64];

/* The constants are fractions of cube roots: found by search, in integers. */
static void setup_sha(void)
{
	unsigned p = 2;

	setup_text();
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
		sha_block(hash, text + i * 64 % TEXT_BYTES);
	return (uint64_t)hash[0] << 32 | hash[7];
}

#define EDIT_LEN 256

/* Levenshtein's distance of two pieces of the text. */
static uint64_t run_edit(uint64_t ops)
{
	unsigned row[EDIT_LEN + 1];
	uint64_t sum = 0;

	while (ops--) {
		const uint8_t *a = text + ops % 1024 * 32, *b = text + (ops + 77) % 1024 * 32;

		for (unsigned j = 0; j <= EDIT_LEN; j++)
			row[j] = j;
		for (unsigned i = 0; i < EDIT_LEN; i++) {
			unsigned diagonal = i;

			row[0] = i + 1;
			for (unsigned j = 0; j < EDIT_LEN; j++) {
				unsigned best = diagonal + (a[i] != b[j]);

				if (row[j] + 1 < best)
					best = row[j] + 1;
				if (row[j + 1] + 1 < best)
					best = row[j + 1] + 1;
				diagonal = row[j + 1];
				row[j + 1] = best;
			}
		}
		sum += row[EDIT_LEN];
	}
	return sum;
}

#define SORT_LEN 4096

static uint32_t unsorted[SORT_LEN], sorted[SORT_LEN];

static void setup_sort(void)
{
	for (unsigned i = 0; i < SORT_LEN; i++)
		unsorted[i] = (uint32_t)(work_random(&state) >> 32);
}

static void sift(uint32_t *a, unsigned root, unsigned end)
{
	uint32_t value = a[root];

	for (unsigned child; (child = 2 * root + 1) < end; root = child) {
		if (child + 1 < end && a[child] < a[child + 1])
			child++;
		if (a[child] <= value)
			break;
		a[root] = a[child];
	}
	a[root] = value;
}

/* An operation is an array of 4,096 numbers. */
static uint64_t run_heap(uint64_t ops)
{
	uint64_t sum = 0;

	while (ops--) {
		memcpy(sorted, unsorted, sizeof(sorted));
		for (unsigned i = SORT_LEN / 2; i-- > 0;)
			sift(sorted, i, SORT_LEN);
		for (unsigned end = SORT_LEN - 1; end > 0; end--) {
			uint32_t top = sorted[0];

			sorted[0] = sorted[end];
			sorted[end] = top;
			sift(sorted, 0, end);
		}
		unsorted[ops % SORT_LEN] += sorted[SORT_LEN / 2];
		sum += sorted[ops % SORT_LEN];
	}
	return sum;
}

static int by_number(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

static uint64_t run_qsort(uint64_t ops)
{
	uint64_t sum = 0;

	while (ops--) {
		memcpy(sorted, unsorted, sizeof(sorted));
		qsort(sorted, SORT_LEN, sizeof(sorted[0]), by_number);
		sum += sorted[ops % SORT_LEN];
		unsorted[ops % SORT_LEN] += sorted[SORT_LEN / 2];
	}
	return sum;
}

/* Binary search: the branches nobody predicts. */
static uint64_t run_search(uint64_t ops)
{
	uint64_t r = state, sum = 0;

	qsort(unsorted, SORT_LEN, sizeof(unsorted[0]), by_number);
	while (ops--) {
		uint32_t key = (uint32_t)(work_random(&r) >> 32);
		unsigned low = 0, high = SORT_LEN;

		while (low < high) {
			unsigned mid = (low + high) / 2;

			if (unsorted[mid] < key)
				low = mid + 1;
			else
				high = mid;
		}
		sum += low;
	}
	state = r;
	return sum;
}

#define HASH_SLOTS 16384

static uint64_t slots[HASH_SLOTS];

/* Insert and look up in an open table that is half full. */
static uint64_t run_hash(uint64_t ops)
{
	uint64_t r = state, sum = 0;

	for (; ops; ops--) {
		uint64_t key = work_random(&r) % (HASH_SLOTS / 2) + 1;
		unsigned i = (unsigned)((key * 0x9e3779b97f4a7c15ull) >> 50);

		while (slots[i] && slots[i] != key)
			i = (i + 1) % HASH_SLOTS;
		sum += slots[i] == key;
		slots[i] = key;
	}
	state = r;
	return sum;
}

#define LZ_HASH  4096
#define LZ_MATCH 4

static uint8_t packed[TEXT_BYTES + TEXT_BYTES / 64 + 64], unpacked[TEXT_BYTES];
static size_t packed_bytes;

static uint32_t load32(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static uint8_t *lz_literals(uint8_t *out, const uint8_t *from, const uint8_t *to)
{
	while (from < to) {
		size_t n = to - from < 128 ? (size_t)(to - from) : 128;

		*out++ = (uint8_t)(n - 1);
		for (size_t i = 0; i < n; i++)
			*out++ = *from++;
	}
	return out;
}

/*
 * Runs of literals, 0..127: length less one; matches: 0x80 | length - 4, and the
 * distance in two bytes.
 */
static size_t lz_pack(uint8_t *out, const uint8_t *in, size_t bytes)
{
	static uint16_t heads[LZ_HASH];
	const uint8_t *p = in, *literals = in, *end = in + bytes;
	uint8_t *start = out;

	memset(heads, 0, sizeof(heads));
	while (p + LZ_MATCH < end) {
		uint32_t h = load32(p) * 2654435761u >> 20;
		const uint8_t *m = in + heads[h];
		size_t length = 0, limit = (size_t)(end - p) < 131 ? (size_t)(end - p) : 131;

		heads[h] = (uint16_t)(p - in);
		if (m >= p || load32(m) != load32(p)) {
			p++;
			continue;
		}
		while (length < limit && m[length] == p[length])
			length++;
		out = lz_literals(out, literals, p);
		*out++ = (uint8_t)(0x80 | (length - LZ_MATCH));
		*out++ = (uint8_t)(p - m);
		*out++ = (uint8_t)((p - m) >> 8);
		p += length;
		literals = p;
	}
	return (size_t)(lz_literals(out, literals, end) - start);
}

static size_t lz_unpack(uint8_t *out, const uint8_t *in, size_t bytes)
{
	const uint8_t *end = in + bytes;
	uint8_t *start = out;

	while (in < end) {
		unsigned n = *in++;
		const uint8_t *from = in;

		if (n & 0x80) {
			from = out - (in[0] | in[1] << 8);
			n = (n & 0x7f) + LZ_MATCH;
			in += 2;
		} else {
			in += ++n;
		}
		/* Byte by byte: a match may overlap what it writes. */
		while (n--) {
			*out++ = *from++;
			__asm__ volatile("" ::: "memory");
		}
	}
	return (size_t)(out - start);
}

static void setup_lz(void)
{
	setup_text();
	packed_bytes = lz_pack(packed, text, TEXT_BYTES);
}

static uint64_t run_lz(uint64_t ops)
{
	uint64_t sum = 0;

	while (ops--) {
		sum += lz_pack(packed, text, TEXT_BYTES);
		text[ops % TEXT_BYTES]++;
	}
	return sum;
}

static uint64_t run_unlz(uint64_t ops)
{
	uint64_t sum = 0;

	while (ops--)
		sum += lz_unpack(unpacked, packed, packed_bytes) + unpacked[ops % TEXT_BYTES];
	if (memcmp(unpacked, text, TEXT_BYTES))
		work_die("unlz: not what was packed");
	return sum;
}

const struct work works_integer[] = {
	{ "alu", "round of 12 dependent instructions", 30000000, NULL, run_alu, NULL },
	{ "branch", "round with three branches", 16000000, NULL, run_branch, NULL },
	{ "collatz", "sequence", 400000, NULL, run_collatz, NULL },
	{ "sieve", "sieve of 16,384", 3500, NULL, run_sieve, NULL },
	{ "life", "generation of 64 x 64 cells", 250000, setup_life, run_life, NULL },
	{ "crc", "byte, by table", 32000000, setup_crc, run_crc, NULL },
	{ "parse", "byte of text", 36000000, setup_text, run_parse, NULL },
	{ "bigmul", "product of 2048-bit numbers", 80000, setup_big, run_bigmul, NULL },
	{ "sha256", "block of 64 bytes, portable code", 170000, setup_sha, run_sha, NULL },
	{ "edit", "distance of two strings of 256", 600, setup_text, run_edit, NULL },
	{ "heap", "sorted array of 4,096", 300, setup_sort, run_heap, NULL },
	{ "qsort", "sorted array of 4,096, by qsort()", 240, setup_sort, run_qsort, NULL },
	{ "search", "binary search in 4,096", 1100000, setup_sort, run_search, NULL },
	{ "hash", "insertion or hit", 28000000, NULL, run_hash, NULL },
	{ "lz", "64 KiB packed", 450, setup_text, run_lz, NULL },
	{ "unlz", "64 KiB unpacked", 700, setup_lz, run_unlz, NULL },
	{ 0 },
};
