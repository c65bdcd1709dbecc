/*
 * replay.c - a fuzz target as a plain test: every file of its corpus, mutations of
 * them, and random bytes, the same ones each time.
 *
 * Linked with one fuzz_NAME.c; the corpus is tests/fuzz/corpus/NAME/. A target tells
 * what is wrong by dying, preferably in a sanitizer.
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define INPUT_MAX     65536
#define FILES_MAX     256
#define MUTATIONS     64 /* a file */
#define RANDOM_INPUTS 2000
#define SECONDS_MAX   20

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static uint64_t seed = 0x9e3779b97f4a7c15;
static uint8_t file[INPUT_MAX], input[INPUT_MAX];
static unsigned long inputs;

static uint32_t draw(uint32_t below)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (uint32_t)((seed >> 32) % below);
}

/* On the heap and of the exact size, so that a sanitizer sees one byte too much. */
static void run(const uint8_t *data, size_t bytes)
{
	uint8_t *copy = malloc(bytes ? bytes : 1);

	if (!copy)
		abort();
	memcpy(copy, data, bytes);
	LLVMFuzzerTestOneInput(copy, bytes);
	free(copy);
	inputs++;
}

static size_t mutate(size_t bytes)
{
	unsigned changes = 1 + draw(8);

	memcpy(input, file, bytes);
	if (!draw(4))
		bytes = draw((uint32_t)bytes + 1);
	for (unsigned i = 0; bytes && i < changes; i++)
		input[draw((uint32_t)bytes)] = (uint8_t)(draw(3) ? draw(256) : 0xff * draw(2));
	return bytes;
}

static void run_file(const char *path)
{
	FILE *f = fopen(path, "r");
	size_t bytes;

	if (!f)
		return;
	bytes = fread(file, 1, sizeof(file), f);
	fclose(f);
	run(file, bytes);
	for (unsigned i = 0; i < MUTATIONS; i++) {
		size_t changed = mutate(bytes);

		run(input, changed);
	}
}

static void run_corpus(const char *name)
{
	char dir[256], path[1024];
	struct dirent **entry;
	int n;

	snprintf(dir, sizeof(dir), "tests/fuzz/corpus/%s", name);
	n = scandir(dir, &entry, NULL, alphasort);
	for (int i = 0; i < n; i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, entry[i]->d_name);
		if (entry[i]->d_name[0] != '.')
			run_file(path);
		free(entry[i]);
	}
	if (n >= 0)
		free(entry);
}

static void run_random(void)
{
	clock_t end = clock() + SECONDS_MAX * CLOCKS_PER_SEC;

	for (unsigned i = 0; i < RANDOM_INPUTS && clock() < end; i++) {
		size_t bytes = draw(draw(8) ? 256 : INPUT_MAX);

		for (size_t j = 0; j < bytes; j++)
			input[j] = (uint8_t)draw(256);
		run(input, bytes);
	}
}

int main(int argc, char **argv)
{
	const char *name = strstr(argv[0], "replay_");

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (name)
		run_corpus(name + strlen("replay_"));
	run_random();
	printf("ok 1 - %lu inputs\n1..1\n", inputs);
	return 0;
}
