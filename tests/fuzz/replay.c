/* SPDX-License-Identifier: MIT */
/*
 * Feeds a fuzz target with files, each by itself, and with nothing.
 *
 * usage: replay-TARGET FILE|DIRECTORY...
 */
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>

#include "fuzz.h"

static unsigned int nfiles;

/* In memory of its own, so that ASan sees who reads behind it. */
static void feed(const char *path, size_t size)
{
	uint8_t *data = malloc(size ? size : 1);
	FILE *in = fopen(path, "re");

	if (!data || !in || fread(data, 1, size, in) != size) {
		fprintf(stderr, "%s: %s\n", path, strerror(errno));
		exit(1);
	}
	fclose(in);
	/* Of a crash, this is the last line. */
	fprintf(stderr, "%s\n", path);
	LLVMFuzzerTestOneInput(data, size);
	free(data);
	nfiles++;
}

static void replay(const char *path)
{
	struct dirent **names;
	struct stat st;
	int n;

	if (stat(path, &st) < 0) {
		fprintf(stderr, "%s: %s\n", path, strerror(errno));
		exit(1);
	}
	if (!S_ISDIR(st.st_mode)) {
		feed(path, (size_t)st.st_size);
		return;
	}
	n = scandir(path, &names, NULL, alphasort);
	for (int i = 0; i < n; i++) {
		char below[PATH_MAX];

		if (names[i]->d_name[0] != '.') {
			snprintf(below, sizeof(below), "%s/%s", path,
				 names[i]->d_name);
			replay(below);
		}
		free(names[i]);
	}
	if (n >= 0)
		free(names);
}

int main(int argc, char **argv)
{
	LLVMFuzzerInitialize(&argc, &argv);
	LLVMFuzzerTestOneInput((const uint8_t *)"", 0);
	for (int i = 1; i < argc; i++)
		replay(argv[i]);
	fprintf(stderr, "%u files\n", nfiles);
	return nfiles == 0;
}
