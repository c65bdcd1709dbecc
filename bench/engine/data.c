/*
 * data.c - workloads of integer code over tables, text and arrays that fit the caches
 * next to the core: sorting, searching, hashing, packing.
 */
#include "work.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define TEXT_BYTES (64u * 1024)

static uint64_t state = 88172645463325252ull;

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
			work_opaque(words);
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

/* Insertion sort of 32 pieces of 128 numbers. */
static uint64_t run_insert(uint64_t ops)
{
	uint64_t sum = 0;

	while (ops--) {
		memcpy(sorted, unsorted, sizeof(sorted));
		for (unsigned from = 0; from < SORT_LEN; from += 128)
			for (unsigned i = from + 1; i < from + 128; i++) {
				uint32_t value = sorted[i];
				unsigned j = i;

				for (; j > from && sorted[j - 1] > value; j--)
					sorted[j] = sorted[j - 1];
				sorted[j] = value;
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

#define MAZE_SIDE 64u
#define MAZE_SIZE (MAZE_SIDE * MAZE_SIDE)

static bool wall[MAZE_SIZE];

static void setup_maze(void)
{
	for (unsigned i = 0; i < MAZE_SIZE; i++)
		wall[i] = work_random(&state) % 4 == 0;
}

/* Breadth-first search from one place of a maze, whose sides meet, to all others. */
static uint64_t run_maze(uint64_t ops)
{
	static const unsigned steps[4] = { 1, MAZE_SIZE - 1, MAZE_SIDE, MAZE_SIZE - MAZE_SIDE };
	static uint16_t distance[MAZE_SIZE], queue[MAZE_SIZE];
	uint64_t sum = 0;

	while (ops--) {
		unsigned head = 0, tail = 0;

		memset(distance, 0, sizeof(distance));
		queue[tail++] = (uint16_t)(ops % MAZE_SIZE);
		distance[ops % MAZE_SIZE] = 1;
		while (head < tail) {
			unsigned at = queue[head++];

			for (unsigned k = 0; k < 4; k++) {
				unsigned next = (at + steps[k]) % MAZE_SIZE;

				if (wall[next] || distance[next])
					continue;
				distance[next] = (uint16_t)(distance[at] + 1);
				queue[tail++] = (uint16_t)next;
			}
		}
		sum += tail + distance[queue[tail - 1]];
	}
	return sum;
}

/* Find all places of a word in the text, by Horspool's method. */
static uint64_t run_find(uint64_t ops)
{
	static const uint8_t word[] = "memory register";
	enum { LENGTH = sizeof(word) - 1 };
	uint8_t skip[256];
	uint64_t found = 0;

	memset(skip, LENGTH, sizeof(skip));
	for (unsigned i = 0; i + 1 < LENGTH; i++)
		skip[word[i]] = (uint8_t)(LENGTH - 1 - i);
	while (ops--) {
		for (unsigned at = ops % 64; at + LENGTH <= TEXT_BYTES;) {
			unsigned i = LENGTH;

			while (i > 0 && text[at + i - 1] == word[i - 1])
				i--;
			found += i == 0;
			at += skip[text[at + LENGTH - 1]];
		}
	}
	return found;
}

const struct work works_data[] = {
	{ "sieve", "sieve of 16,384", 3500, NULL, run_sieve, NULL },
	{ "crc", "byte, by table", 32000000, setup_crc, run_crc, NULL },
	{ "parse", "byte of text", 36000000, setup_text, run_parse, NULL },
	{ "edit", "distance of two strings of 256", 600, setup_text, run_edit, NULL },
	{ "heap", "sorted array of 4,096", 300, setup_sort, run_heap, NULL },
	{ "insert", "sorted 32 arrays of 128, by insertion", 800, setup_sort, run_insert, NULL },
	{ "qsort", "sorted array of 4,096, by qsort()", 240, setup_sort, run_qsort, NULL },
	{ "search", "binary search in 4,096", 1100000, setup_sort, run_search, NULL },
	{ "maze", "search of a maze of 64 x 64", 2000, setup_maze, run_maze, NULL },
	{ "find", "search of a word in 64 KiB", 2000, setup_text, run_find, NULL },
	{ "hash", "insertion or hit", 28000000, NULL, run_hash, NULL },
	{ "lz", "64 KiB packed", 450, setup_text, run_lz, NULL },
	{ "unlz", "64 KiB unpacked", 700, setup_lz, run_unlz, NULL },
	{ 0 },
};
