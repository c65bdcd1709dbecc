/*
 * threads.c - a process with named threads and some memory, for tests of what looks at
 * other processes.
 *
 *	threads FORMAT COUNT SECONDS [MIB]	"CPU %d/KVM" 4 20 64
 *
 * Prints "ready" when all threads have their names.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

static char name_format[16];
static pthread_barrier_t named;

/* A name has one number where the format has %d. */
static void *thread_main(void *arg)
{
	char name[16], *at = strstr(name_format, "%d");

	if (at)
		snprintf(name, sizeof(name), "%.*s%d%s", (int)(at - name_format), name_format,
			 *(int *)arg, at + 2);
	else
		snprintf(name, sizeof(name), "%s", name_format);
	prctl(PR_SET_NAME, name);
	pthread_barrier_wait(&named);
	for (;;)
		usleep(20000);
	return NULL;
}

int main(int argc, char **argv)
{
	int count = argc > 2 ? atoi(argv[2]) : 1;
	size_t bytes = argc > 4 ? (size_t)atoi(argv[4]) << 20 : 0;
	int *number = calloc((size_t)count + 1, sizeof(*number));
	char *memory = malloc(bytes + 1);
	pthread_t thread;

	if (argc < 4 || !number || !memory)
		return 2;
	snprintf(name_format, sizeof(name_format), "%s", argv[1]);
	for (size_t i = 0; i <= bytes; i += 4096)
		((volatile char *)memory)[i] = 1;
	pthread_barrier_init(&named, NULL, (unsigned)count + 1);
	for (int i = 0; i < count; i++) {
		number[i] = i;
		if (pthread_create(&thread, NULL, thread_main, &number[i]))
			return 3;
	}
	pthread_barrier_wait(&named);
	puts("ready");
	fflush(stdout);
	sleep((unsigned)atoi(argv[3]));
	return 0;
}
