/* SPDX-License-Identifier: MIT */
#include "config_lines.h"

static void paths(void **state)
{
	struct config *cfg;
	int cwd = open(".", O_PATH | O_DIRECTORY);

	cfg = parsed("tierfs @/link @/link/. -o "
		     "spill=@/gone/far/../hdd/,spill=x=@/link/../new");
	assert_path(cfg->front, "@/front");
	assert_path(cfg->mountpoint, "@/front");
	assert_path(cfg->targets[0].path, "@/gone/hdd");
	assert_string_equal(cfg->targets[0].name, "hdd");
	config_free(cfg);
	assert_int_equal(chdir(base), 0);
	cfg = parsed("tierfs front ./mnt/ -o spill=./hdd,spill=a=b=c");
	assert_path(cfg->front, "@/front");
	assert_path(cfg->mountpoint, "@/mnt");
	assert_path(cfg->targets[0].path, "@/hdd");
	assert_path(cfg->targets[1].path, "@/b=c");
	config_free(cfg);
	assert_int_equal(fchdir(cwd), 0);
	close(cwd);
	/* A '=' behind a '/' is the directory's. */
	cfg = parsed("tierfs @/front @/mnt -o spill=@/a=b/hdd");
	assert_string_equal(cfg->targets[0].name, "hdd");
	assert_path(cfg->targets[0].path, "@/a=b/hdd");
	config_free(cfg);
	cfg = parsed("tierfs -o spill=@/hdd -- @/front @/mnt");
	config_free(cfg);
}

static void overlaps(void **state)
{
	static const struct {
		const char *args, *why;
	} rows[] = {
		{"@/front @/mnt -o spill=@/front",
		 "target front (@/front) is the same as the front (@/front)"},
		{"@/front @/mnt -o spill=hdd=@/link",
		 "target hdd (@/front) is the same as the front (@/front)"},
		{"@/front @/mnt -o spill=@/front/sub",
		 "target sub (@/front/sub) is inside the front (@/front)"},
		{"@/front @/mnt -o spill=@/link/not/yet",
		 "target yet (@/front/not/yet) is inside the front (@/front)"},
		{"@/hdd/sub @/mnt -o spill=@/hdd",
		 "the front (@/hdd/sub) is inside target hdd (@/hdd)"},
		{"@/front @/hdd/sub -o spill=@/hdd",
		 "the mountpoint (@/hdd/sub) is inside target hdd (@/hdd)"},
		{"@/front @/mnt -o spill=@/mnt",
		 "target mnt (@/mnt) is the same as the mountpoint (@/mnt)"},
		{"@/front @/mnt -o spill=@/mnt/sub",
		 "target sub (@/mnt/sub) is inside the mountpoint (@/mnt)"},
		{"@/front @/front/sub -o spill=@/hdd",
		 "the mountpoint (@/front/sub) is inside the front (@/front)"},
		{"@/mnt/sub @/mnt -o spill=@/hdd",
		 "the front (@/mnt/sub) is inside the mountpoint (@/mnt)"},
		{"@/front @/mnt -o spill=@/hdd,spill=@/hdd/sub",
		 "target hdd (@/hdd) and target sub (@/hdd/sub) overlap"},
		{"@/front @/mnt -o spill=a=@/hdd,spill=b=@/hdd",
		 "target a (@/hdd) and target b (@/hdd) overlap"},
		{"@/front @/mnt -o spill=r=/",
		 "the front (@/front) is inside target r (/)"},
	};
	struct config *cfg;
	char line[512];
	size_t i;

	bad_lines = 0;
	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		snprintf(line, sizeof(line), "tierfs %s", rows[i].args);
		check_refused(line, -EINVAL, rows[i].why);
	}
	assert_int_equal(bad_lines, 0);
	/* A name that only begins alike. */
	cfg = parsed("tierfs @/hdd @/mnt -o spill=@/hdd2");
	config_free(cfg);
}

static void a_file(void **state)
{
	struct config *cfg;

	write_conf("# a comment\n"
		   "; another\n"
		   "[tierfs]\n"
		   "spill = one=@/hdd\n"
		   "spill=@/hdd2\n"
		   "  high = 70 ; inline\n"
		   "low: 5\n"
		   "restore_after = never\n"
		   "name = fromfile\n"
		   "io_uring = on\n"
		   "nosuid = on\n"
		   "ro = off");
	cfg = parsed("tierfs @/front @/mnt -o config=@/conf");
	assert_path(cfg->file, "@/conf");
	assert_int_equal(cfg->ntargets, 2);
	assert_string_equal(cfg->targets[0].name, "one");
	assert_path(cfg->targets[1].path, "@/hdd2");
	assert_true(cfg->high == 70 && cfg->low == 5);
	assert_true(cfg->restore_after == CONFIG_NEVER);
	assert_string_equal(cfg->name, "fromfile");
	assert_true(cfg->io_uring == URING_ON && !cfg->ro);
	assert_non_null(strstr(cfg->fuse_opts, "nosuid"));
	config_free(cfg);

	/* The command line wins; its targets replace the file's. */
	cfg = parsed("tierfs @/front @/mnt -o config=@/conf,high=60,low=50,"
		     "name=n,spill=three=@/hdd,io_uring=off,suid");
	assert_int_equal(cfg->ntargets, 1);
	assert_string_equal(cfg->targets[0].name, "three");
	assert_true(cfg->high == 60 && cfg->low == 50);
	assert_string_equal(cfg->name, "n");
	assert_int_equal(cfg->io_uring, URING_OFF);
	assert_true(cfg->restore_after == CONFIG_NEVER);
	assert_non_null(strstr(cfg->fuse_opts, "nosuid,suid"));
	config_free(cfg);
}

static void bad_files(void **state)
{
	static const struct {
		const char *text, *why;
	} rows[] = {
		{"[tierfs]\nfoo = 1\n", "@/conf:2: foo=1: unknown option"},
		{"[tierfs]\n\n# x\nhigh = 101\n",
		 "@/conf:4: high=101: not a per cent, 0 to 100"},
		{"high = 10\n[tierfs]\n",
		 "@/conf:1: high=10: before any section; [tierfs] must come "
		 "first"},
		{"[tierfs]\n[tierf]\n", "@/conf:2: [tierf]: unknown section"},
		{"[tierfs]\n [x]\nhigh=1\n", "@/conf:2: [x]: unknown section"},
		{"[tierfs\nhigh=1\n", "@/conf:1: [tierfs: unknown section"},
		{"[tierfs]\nhigh\n", "@/conf:2: not KEY = VALUE"},
		{"[tierfs]\nhigh = 90\n continued\n",
		 "@/conf:3: not KEY = VALUE"},
		{"[tierfs]\nhigh=90\nlow=80\nhigh=90\n",
		 "@/conf:4: high=90: given twice"},
		{"[tierfs]\nconfig=/x\n",
		 "@/conf:2: config=/x: cannot stand in a configuration file"},
		{"[tierfs]\nspill=hdd2\n",
		 "@/conf:2: spill=hdd2: not an absolute path"},
		{"[tierfs]\nspill=a=hdd2\n",
		 "@/conf:2: spill=a=hdd2: not an absolute path"},
		{"[tierfs]\nspill=a=/x\nspill=a=/y\n",
		 "@/conf:3: spill=a=/y: a second target of that name; give "
		 "NAME=DIR"},
		{"[tierfs]\nio_uring=\n",
		 "@/conf:2: io_uring=: none of auto, on and off"},
		{"[tierfs]\nhigh=5\n",
		 "options low=80, high=5: low is not below high"},
	};
	char text[10000] = "[tierfs]\nname=";
	size_t i;

	bad_lines = 0;
	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		write_conf(rows[i].text);
		check_refused("tierfs @/front @/mnt -o spill=@/hdd,"
			      "config=@/conf",
			      -EINVAL, rows[i].why);
	}
	memset(text + strlen(text), 'x', 9000);
	write_conf(text);
	check_refused("tierfs @/front @/mnt -o spill=@/hdd,config=@/conf",
		      -EINVAL, "@/conf:2: the line is too long");
	assert_int_equal(bad_lines, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(paths),
		cmocka_unit_test(overlaps),
		cmocka_unit_test(a_file),
		cmocka_unit_test(bad_files),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
