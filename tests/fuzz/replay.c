/*
 * replay.c - runs a fuzz target as a plain test: the same inputs every time.
 *
 *	replay_NAME		random inputs from a fixed seed, reported in TAP
 *	replay_NAME FILE...	these inputs, such as a fuzzer found
 */
#include "core/util.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define INPUTS      2000
#define INPUT_BYTES 2048

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

/* splitmix64 */
static uint64_t next_random(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return z ^ z >> 31;
}

/* An exact allocation, so that the address sanitizer sees reads behind the end. */
static void run_random(uint64_t *state)
{
	size_t bytes = next_random(state) % (INPUT_BYTES + 1);
	uint8_t *data = malloc(bytes ? bytes : 1);

	for (size_t i = 0; data && i < bytes; i++)
		data[i] = (uint8_t)next_random(state);
	if (data)
		LLVMFuzzerTestOneInput(data, bytes);
	free(data);
}

static void run_file(const char *path)
{
	FILE *f = fopen(path, "rb");
	uint8_t *data = NULL;
	long bytes = -1;

	if (f && !fseek(f, 0, SEEK_END))
		bytes = ftell(f);
	if (bytes >= 0)
		data = malloc((size_t)bytes + 1);
	if (!data || fseek(f, 0, SEEK_SET) || fread(data, 1, (size_t)bytes, f) != (size_t)bytes) {
		fprintf(stderr, "%s: %s\n", path, strerror(errno));
		exit(2);
	}
	fclose(f);
	LLVMFuzzerTestOneInput(data, (size_t)bytes);
	free(data);
}

int main(int argc, char **argv)
{
	uint64_t state = 1;

	for (int i = 1; i < argc; i++)
		run_file(argv[i]);
	if (argc > 1)
		return 0;
	for (unsigned i = 0; i < INPUTS; i++)
		run_random(&state);
	printf("ok 1 - %u random inputs\n1..1\n", INPUTS);
	return 0;
}
