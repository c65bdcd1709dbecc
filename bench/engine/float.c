/*
 * float.c - workloads of floating point, vectors and AES. Where CPUID offers more
 * than the baseline, "best" variants take it; all variants yield the same sums.
 */
#include "work.h"

#include <immintrin.h>
#include <string.h>

struct body {
	double at[3], speed[3], mass;
};

#define BODIES 5

static struct body bodies[BODIES];

static void setup_nbody(void)
{
	for (unsigned i = 0; i < BODIES; i++)
		for (unsigned k = 0; k < 3; k++) {
			bodies[i].at[k] = (double)(i * 3 + k * 7 % 5);
			bodies[i].speed[k] = 0.01 * (double)(k + i);
			bodies[i].mass = 1.0 / (1 + i);
		}
}

/* One operation is a step of five bodies: scalar SSE2 with a root and a division. */
static uint64_t run_nbody(uint64_t ops)
{
	const double dt = 0.0001;
	uint64_t bits;

	while (ops--) {
		for (unsigned i = 0; i < BODIES; i++)
			for (unsigned j = i + 1; j < BODIES; j++) {
				struct body *a = &bodies[i], *b = &bodies[j];
				double d[3], square = 0.01, force;

				for (unsigned k = 0; k < 3; k++) {
					d[k] = a->at[k] - b->at[k];
					square += d[k] * d[k];
				}
				force = dt / (square * __builtin_sqrt(square));
				for (unsigned k = 0; k < 3; k++) {
					a->speed[k] -= d[k] * b->mass * force;
					b->speed[k] += d[k] * a->mass * force;
				}
			}
		for (unsigned i = 0; i < BODIES; i++)
			for (unsigned k = 0; k < 3; k++)
				bodies[i].at[k] += dt * bodies[i].speed[k];
	}
	memcpy(&bits, &bodies[0].at[0], sizeof(bits));
	return bits;
}

/* Points of Mandelbrot's set: scalar, in registers. */
static uint64_t run_mandel(uint64_t ops)
{
	uint64_t sum = 0;

	for (uint64_t n = 0; n < ops; n++) {
		double cr = (double)(n % 61) / 30 - 1.5, ci = (double)(n % 37) / 18 - 1;
		double r = 0, i = 0;
		unsigned steps = 0;

		while (steps < 100 && r * r + i * i < 4) {
			double t = r * r - i * i + cr;

			i = 2 * r * i + ci;
			r = t;
			steps++;
		}
		sum += steps;
	}
	return sum;
}

typedef float v4sf __attribute__((vector_size(16)));
typedef int v4si __attribute__((vector_size(16)));

#define VECTORS 1024

static v4sf vectors[VECTORS];

static void setup_poly(void)
{
	for (unsigned i = 0; i < VECTORS; i++)
		for (unsigned k = 0; k < 4; k++)
			vectors[i][k] = (float)(i + k) / (VECTORS * 4);
}

/* A polynomial over 4,096 floats, SSE2: one operation is a pass. */
static uint64_t run_poly(uint64_t ops)
{
	v4sf sum = { 0 };

	while (ops--)
		for (unsigned i = 0; i < VECTORS; i++) {
			v4sf x = vectors[i], y = x * 0.25f + 0.5f;

			y = y * x + 0.125f;
			y = y * x - 0.75f;
			y = y * x + 1.0f;
			sum = sum * 0.5f + y;
		}
	return (uint64_t)(sum[0] * 65536 + sum[3]);
}

static uint8_t pixels[3][16384];

static void setup_blend(void)
{
	for (unsigned i = 0; i < 3; i++)
		work_text(pixels[i], sizeof(pixels[i]));
}

/* Integer vectors, SSE2: average, saturated sum, difference, and their sum. */
static uint64_t run_blend(uint64_t ops)
{
	__m128i sum = _mm_setzero_si128();

	while (ops--)
		for (unsigned i = 0; i < sizeof(pixels[0]); i += 16) {
			__m128i a = _mm_loadu_si128((const __m128i *)(pixels[0] + i));
			__m128i b = _mm_loadu_si128((const __m128i *)(pixels[1] + i));
			__m128i c = _mm_adds_epu8(_mm_avg_epu8(a, b), _mm_set1_epi8(3));

			sum = _mm_add_epi64(sum, _mm_sad_epu8(c, _mm_unpacklo_epi8(a, b)));
			_mm_storeu_si128((__m128i *)(pixels[2] + i), c);
		}
	return (uint64_t)_mm_cvtsi128_si64(sum) + pixels[2][7];
}

#define SIDE 96

static float left[SIDE][SIDE] __attribute__((aligned(64)));
static float right[SIDE][SIDE] __attribute__((aligned(64)));
static float product[SIDE][SIDE] __attribute__((aligned(64)));

/* Small whole numbers: no order of additions rounds. */
static void setup_matrix(void)
{
	for (unsigned i = 0; i < SIDE; i++)
		for (unsigned k = 0; k < SIDE; k++) {
			left[i][k] = (float)((i * 7 + k) % 11);
			right[i][k] = (float)((i + k * 5) % 13);
		}
}

static void multiply_sse2(void)
{
	for (unsigned i = 0; i < SIDE; i++)
		for (unsigned j = 0; j < SIDE; j += 8) {
			v4sf a = { 0 }, b = { 0 };

			for (unsigned k = 0; k < SIDE; k++) {
				float f = left[i][k];

				a += f * *(v4sf *)&right[k][j];
				b += f * *(v4sf *)&right[k][j + 4];
			}
			*(v4sf *)&product[i][j] = a;
			*(v4sf *)&product[i][j + 4] = b;
		}
}

static __attribute__((target("avx2,fma"))) void multiply_avx2(void)
{
	for (unsigned i = 0; i < SIDE; i++)
		for (unsigned j = 0; j < SIDE; j += 16) {
			__m256 a = _mm256_setzero_ps(), b = a;

			for (unsigned k = 0; k < SIDE; k++) {
				__m256 f = _mm256_set1_ps(left[i][k]);

				a = _mm256_fmadd_ps(f, _mm256_load_ps(&right[k][j]), a);
				b = _mm256_fmadd_ps(f, _mm256_load_ps(&right[k][j + 8]), b);
			}
			_mm256_store_ps(&product[i][j], a);
			_mm256_store_ps(&product[i][j + 8], b);
		}
}

static int have_avx2(void)
{
	return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

static const char *variant_matmul(void)
{
	return have_avx2() ? "avx2" : "sse2";
}

static uint64_t multiply(uint64_t ops, void (*once)(void))
{
	while (ops--) {
		once();
		__asm__ volatile("" ::: "memory");
	}
	return (uint64_t)product[5][7] + ((uint64_t)product[SIDE - 1][SIDE - 1] << 32);
}

static uint64_t run_matmul(uint64_t ops)
{
	return multiply(ops, multiply_sse2);
}

static uint64_t run_matmul_best(uint64_t ops)
{
	return multiply(ops, have_avx2() ? multiply_avx2 : multiply_sse2);
}

/* An eight-term series in the x87's registers. */
static uint64_t run_x87(uint64_t ops)
{
	long double sum = 0, x = 0.5L;

	while (ops--) {
		long double term = x, square = x * x;

		for (int n = 1; n < 8; n++) {
			sum += term;
			term *= square;
			term -= sum * 0x1p-20L;
		}
		x = x * 0.75L + 0.1L;
	}
	return (uint64_t)(sum * 1024);
}

static uint8_t sbox[256], blocks[64][16], round_keys[11][16];

static uint8_t times2(uint8_t x)
{
	return (uint8_t)(x << 1 ^ (x & 0x80 ? 0x1b : 0));
}

static uint8_t gf_multiply(uint8_t a, uint8_t b)
{
	uint8_t p = 0;

	for (; b; b >>= 1, a = times2(a))
		if (b & 1)
			p ^= a;
	return p;
}

/* FIPS 197, 5.1.1: the inverse in GF(2^8), then the affine map. */
static void setup_aes(void)
{
	for (unsigned x = 0; x < 256; x++) {
		uint8_t inverse = 0, y;

		for (unsigned c = 1; c < 256; c++)
			if (gf_multiply((uint8_t)x, (uint8_t)c) == 1)
				inverse = (uint8_t)c;
		y = inverse;
		for (int i = 1; i < 5; i++)
			y ^= (uint8_t)(inverse << i | inverse >> (8 - i));
		sbox[x] = y ^ 0x63;
	}
	work_text(round_keys[0], sizeof(round_keys));
	work_text(blocks[0], sizeof(blocks));
}

/* As AESENC and AESENCLAST: shift rows, substitute, mix columns but for the last, add the key. */
static void aes_round(uint8_t s[16], const uint8_t key[16], int last)
{
	uint8_t t[16];

	for (unsigned i = 0; i < 16; i++)
		t[i] = sbox[s[(i + 4 * (i % 4)) % 16]];
	for (unsigned c = 0; c < 16; c += 4)
		for (unsigned i = 0; i < 4; i++) {
			uint8_t a = t[c + i], b = t[c + (i + 1) % 4];

			s[c + i] =
				last ? a
				     : times2(a ^ b) ^ b ^ t[c + (i + 2) % 4] ^ t[c + (i + 3) % 4];
			s[c + i] ^= key[c + i];
		}
}

static void aes_portable(void)
{
	for (unsigned b = 0; b < 64; b++)
		for (unsigned i = 1; i <= 10; i++)
			aes_round(blocks[b], round_keys[i], i == 10);
}

static __attribute__((target("aes"))) void aes_instructions(void)
{
	__m128i keys[11];

	memcpy(keys, round_keys, sizeof(keys));
	for (unsigned b = 0; b < 64; b += 4) {
		__m128i *s = (__m128i *)blocks[b], x[4];

		for (unsigned k = 0; k < 4; k++)
			x[k] = _mm_loadu_si128(s + k);
		for (unsigned i = 1; i < 10; i++)
			for (unsigned k = 0; k < 4; k++)
				x[k] = _mm_aesenc_si128(x[k], keys[i]);
		for (unsigned k = 0; k < 4; k++)
			_mm_storeu_si128(s + k, _mm_aesenclast_si128(x[k], keys[10]));
	}
}

static int have_aes(void)
{
	return __builtin_cpu_supports("aes");
}

static const char *variant_aes(void)
{
	return have_aes() ? "aes" : "table";
}

static uint64_t run_aes(uint64_t ops)
{
	void (*once)(void) = have_aes() ? aes_instructions : aes_portable;
	uint64_t bits;

	while (ops--)
		once();
	memcpy(&bits, blocks[63], sizeof(bits));
	return bits;
}

const struct work works_float[] = {
	{ "nbody", "step of five bodies", 1600000, setup_nbody, run_nbody, NULL },
	{ "mandel", "point", 450000, NULL, run_mandel, NULL },
	{ "poly", "polynomial of 4,096 floats, SSE2", 34000, setup_poly, run_poly, NULL },
	{ "blend", "16 KiB of bytes combined, SSE2", 100000, setup_blend, run_blend, NULL },
	{ "matmul", "product of 96 x 96 floats, SSE2", 1300, setup_matrix, run_matmul, NULL },
	{ "matmul-best", "the same with the best that CPUID offers", 2000, setup_matrix,
	  run_matmul_best, variant_matmul },
	{ "x87", "series of eight terms", 3400000, NULL, run_x87, NULL },
	{ "aes", "1 KiB encrypted", 200000, setup_aes, run_aes, variant_aes },
	{ 0 },
};
