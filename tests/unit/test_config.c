/* SPDX-License-Identifier: MIT */
#include "config_lines.h"

static void defaults(void **state)
{
	struct config *cfg = parsed("tierfs -o spill=@/hdd @/front @/mnt");

	assert_path(cfg->front, "@/front");
	assert_path(cfg->mountpoint, "@/mnt");
	assert_string_equal(cfg->name, "front");
	assert_null(cfg->file);
	assert_int_equal(cfg->ntargets, 1);
	assert_string_equal(cfg->targets[0].name, "hdd");
	assert_path(cfg->targets[0].path, "@/hdd");
	assert_true(cfg->policy_auto);
	assert_int_equal(cfg->passthrough, PASSTHROUGH_AUTO);
	assert_true(cfg->migrate_age_ns == 86400ULL * NSEC_PER_SEC);
	assert_true(cfg->migrate_size == 10 << 20);
	assert_true(cfg->high == 90 && cfg->low == 80);
	assert_int_equal(cfg->restore_after, 3);
	assert_int_equal(cfg->dirty_entries, 1024);
	assert_true(cfg->dirty_bytes == 64 << 20);
	assert_true(cfg->restore_below == 1 << 20);
	assert_true(cfg->recall_timeout_ns == 0);
	assert_true(cfg->bwlimit == 0);
	assert_false(cfg->foreground || cfg->debug || cfg->ro || cfg->noatime);
	assert_int_equal(cfg->io_uring, URING_AUTO);
	assert_int_equal(cfg->max_threads, 0);
	assert_int_equal(cfg->allow_other, geteuid() == 0);
	assert_string_equal(cfg->fuse_opts,
			    geteuid() == 0 ? "suid,dev,rw" : "rw");
	config_free(cfg);
}

static void every_option(void **state)
{
	struct config *cfg = parsed(
		"tierfs -f -d -o spill=@/hdd,spill=b=@/hdd2,name=n,"
		"policy=manual,passthrough=on,migrate_age=2h -o migrate_size=1K"
		" @/front -o high=70%,low=60.5,restore_after=never @/mnt -o "
		"dirty_entries=5,dirty_bytes=6,restore_below=7,"
		"recall_timeout=8s,bwlimit=50M/s,max_threads=9,io_uring,"
		"allow_other=off,ro,noatime,nosuid,nodev,max_read=4096");

	assert_int_equal(cfg->ntargets, 2);
	assert_string_equal(cfg->targets[1].name, "b");
	assert_path(cfg->targets[1].path, "@/hdd2");
	assert_string_equal(cfg->name, "n");
	assert_false(cfg->policy_auto);
	assert_int_equal(cfg->passthrough, PASSTHROUGH_ON);
	assert_true(cfg->migrate_age_ns == 7200ULL * NSEC_PER_SEC);
	assert_true(cfg->migrate_size == 1024);
	assert_true(cfg->high == 70 && cfg->low == 60.5);
	assert_true(cfg->restore_after == CONFIG_NEVER);
	assert_int_equal(cfg->dirty_entries, 5);
	assert_true(cfg->dirty_bytes == 6);
	assert_true(cfg->restore_below == 7);
	assert_true(cfg->recall_timeout_ns == 8ULL * NSEC_PER_SEC);
	assert_true(cfg->bwlimit == 50 << 20);
	assert_int_equal(cfg->max_threads, 9);
	assert_true(cfg->foreground && cfg->debug && cfg->ro && cfg->noatime);
	assert_int_equal(cfg->io_uring, URING_ON);
	assert_false(cfg->allow_other);
	assert_string_equal(
		cfg->fuse_opts,
		geteuid() == 0
			? "suid,dev,nosuid,nodev,max_read=4096,ro,noatime"
			: "nosuid,nodev,max_read=4096,ro,noatime");
	config_free(cfg);
}

static void by_mount(void **state)
{
	struct config *cfg, *none = (void *)1;
	char *why = NULL;

	cfg = parsed("/sbin/mount.fuse.tierfs @/front @/front -n -v -s "
		     "-t fuse.tierfs -o rw,spill=@/hdd,_netdev,nofail,"
		     "x-systemd.automount,X-mount.mkdir=0755,comment=a,user=me,"
		     "defaults,noauto,relatime,noexec");
	assert_false(cfg->foreground);
	assert_path(cfg->mountpoint, "@/front");
	assert_string_equal(cfg->fuse_opts, geteuid() == 0
						    ? "suid,dev,noexec,rw"
						    : "noexec,rw");
	config_free(cfg);
	cfg = parsed("mount.fuse.tierfs @/front @/front -r -o spill=@/hdd");
	assert_true(cfg->ro);
	config_free(cfg);
	/* The later one counts. */
	cfg = parsed("mount.fuse.tierfs @/front @/front -o "
		     "spill=@/hdd,ro,noatime -o relatime -w");
	assert_false(cfg->ro || cfg->noatime);
	config_free(cfg);
	/* mount -f */
	assert_int_equal(parse("mount.fuse.tierfs @/front @/mnt -f -o "
			       "spill=@/hdd",
			       &none, &why),
			 -ECANCELED);
	assert_ptr_equal(none, (void *)1);
	assert_null(why);
	check_refused("mount.fuse.tierfs @/front @/mnt -f", -EINVAL,
		      "no target; give spill=DIR, with -o or in "
		      "/etc/tierfs/front.conf");
	assert_int_equal(bad_lines, 0);
}

static void escapes(void **state)
{
	struct config *cfg = parsed("tierfs @/front @/mnt -o "
				    "spill=a=@/x\\,y,,spill=b=@/q\\\\z\\054,"
				    "context=\"u:r\\,c1\"");

	assert_path(cfg->targets[0].path, "@/x,y");
	assert_path(cfg->targets[1].path, "@/q\\z,");
	assert_non_null(strstr(cfg->fuse_opts, "context=\"u:r\\,c1\""));
	config_free(cfg);
}

static void bad_command_lines(void **state)
{
	static const char need[] = "FRONT and MOUNTPOINT are needed; "
				   "see tierfs --help";
	static const struct {
		const char *line;
		const char *why;
		int err;
	} rows[] = {
		{"tierfs", need},
		{"tierfs @/front", need},
		{"tierfs @/front @/mnt @/hdd",
		 "'@/hdd' is one argument too many"},
		{"tierfs @/front -- @/mnt @/hdd",
		 "'@/hdd' is one argument too many"},
		{"tierfs -q @/front @/mnt", "unknown option -q"},
		{"tierfs --quick @/front @/mnt", "unknown option --quick"},
		{"tierfs @/front @/mnt -o", "-o needs a value"},
		{"tierfs -t ext4 @/front @/mnt", "type 'ext4' is not tierfs"},
		{"tierfs @/front @/mnt",
		 "no target; give spill=DIR, with -o or in "
		 "/etc/tierfs/front.conf"},
		{"tierfs @/none @/mnt",
		 "front @/none: No such file or directory", -ENOENT},
		{"tierfs @/front @/none",
		 "mountpoint @/none: No such file or directory", -ENOENT},
		{"tierfs @/bad~name @/mnt -o spill=@/hdd",
		 "front @/bad name: its last component cannot be the file "
		 "system's name; give name=NAME"},
	};
	size_t i;

	bad_lines = 0;
	for (i = 0; i < ARRAY_SIZE(rows); i++)
		check_refused(rows[i].line, rows[i].err ? rows[i].err : -EINVAL,
			      rows[i].why);
	assert_int_equal(bad_lines, 0);
}

#define NAME_RULE "1 to 63 of A-Z a-z 0-9 . _ -, the first none of . -"

static const struct {
	const char *option;
	const char *why; /* behind "option OPTION: " */
} bad_options[] = {
	{"foo", "unknown option"},
	{"foo=1", "unknown option"},
	{"High=80", "unknown option"},
	{"high", "needs a value"},
	{"high=", "not a per cent, 0 to 100"},
	{"high=abc", "not a per cent, 0 to 100"},
	{"high=101", "not a per cent, 0 to 100"},
	{"low=-1", "not a per cent, 0 to 100"},
	{"migrate_age=1", "not a time, such as 90s, 15m, 1d or 2w"},
	{"migrate_age=99999w", "too long"},
	{"migrate_size=10X", "not a size, such as 10M, 1.5G or 4KiB"},
	{"migrate_size=9999999P", "too big"},
	{"restore_after=-1", "neither a number nor never"},
	{"restore_after=4294967295", "neither a number nor never"},
	{"restore_after=99999999999", "neither a number nor never"},
	{"dirty_entries=1K", "not a number"},
	{"dirty_entries=", "not a number"},
	{"dirty_bytes=x", "not a size, such as 10M, 1.5G or 4KiB"},
	{"restore_below=x", "not a size, such as 10M, 1.5G or 4KiB"},
	{"recall_timeout=never", "not a time, such as 90s, 15m, 1d or 2w"},
	{"bwlimit=fast", "not a rate, such as 50M (a second) or none"},
	{"bwlimit=/s", "not a rate, such as 50M (a second) or none"},
	{"policy=yes", "neither auto nor manual"},
	{"passthrough=yes", "none of auto, on and off"},
	{"passthrough", "needs a value"},
	{"name=a/b", "not a name: " NAME_RULE},
	{"name=", "not a name: " NAME_RULE},
	{"name=.", "not a name: " NAME_RULE},
	{"max_threads=0", "not a number from 1 to 1024"},
	{"max_threads=2000", "not a number from 1 to 1024"},
	{"io_uring=yes", "none of auto, on and off"},
	{"ro=1", "neither on nor off"},
	{"rw=1", "takes no value"},
	{"nosuid=off", "takes no value"},
	{"defaults=1", "takes no value"},
	{"max_read", "needs a value"},
	{"spill", "needs a value"},
	{"spill=", "no directory"},
	{"spill=a=", "no directory"},
	{"spill=/", "the directory's name cannot be the target's; "
		    "give NAME=DIR"},
	{"spill=/a/.b", "the directory's name cannot be the target's; "
			"give NAME=DIR"},
	{"spill=.a=/b", "NAME is not " NAME_RULE},
	{"spill==/b", "NAME is not " NAME_RULE},
	{"spill=/x/hdd", "a second target of that name; give NAME=DIR"},
	{"spill=hdd=/y", "a second target of that name; give NAME=DIR"},
	{"config=", "no file"},
	{"remount=1", "unknown option"},
};

static void wrong_options(void **state)
{
	char line[512], why[512];
	size_t i;

	bad_lines = 0;
	for (i = 0; i < ARRAY_SIZE(bad_options); i++) {
		snprintf(line, sizeof(line),
			 "tierfs @/front @/mnt -o spill=@/hdd,%s",
			 bad_options[i].option);
		snprintf(why, sizeof(why), "option %s: %s",
			 bad_options[i].option, bad_options[i].why);
		check_refused(line, -EINVAL, why);
	}
	check_refused("tierfs @/front @/mnt -o spill=@/hdd,high=\\000", -EINVAL,
		      "option high=: a NUL byte");
	check_refused("tierfs @/front @/mnt -o spill=@/hdd,high=80", -EINVAL,
		      "options low=80, high=80: low is not below high");
	check_refused("tierfs @/front @/mnt -o spill=@/hdd,high=10.5,low=20",
		      -EINVAL,
		      "options low=20, high=10.5: low is not below high");
	check_refused("tierfs @/front @/mnt -o spill=@/hdd,config=@/none",
		      -ENOENT,
		      "option config=@/none: No such file or directory");
	assert_int_equal(bad_lines, 0);
}

static void remount_is_taken_apart(void **state)
{
	struct config *cfg = parsed("mount.fuse.tierfs @/front @/mnt -n -o "
				    "rw,remount,name=x,foo=1");

	assert_path(cfg->front, "@/front");
	assert_path(cfg->mountpoint, "@/mnt");
	assert_string_equal(cfg->remount[0], "rw");
	assert_string_equal(cfg->remount[1], "name=x");
	assert_string_equal(cfg->remount[2], "foo=1");
	assert_null(cfg->remount[3]);
	config_free(cfg);
}

static const struct {
	const char *option;
	const char *why; /* NULL: taken */
} remount_options[] = {
	{"bwlimit=5M", NULL},
	{"name=front", NULL},
	{"name=b", "option name=b: cannot be changed while mounted"},
	{"max_threads=4", NULL},
	{"max_threads=5",
	 "option max_threads=5: cannot be changed while mounted"},
	{"passthrough=auto", NULL},
	{"passthrough=off",
	 "option passthrough=off: cannot be changed while mounted"},
	{"io_uring", "option io_uring: cannot be changed while mounted"},
	{"config=/x", "option config=/x: cannot be changed while mounted"},
	{"config=x", "option config=x: not an absolute path"},
	{"spill=x", "option spill=x: not an absolute path"},
	{"spill=/x", "option spill=/x: cannot be changed while mounted"},
	{"max_read=4096", NULL},
	{"max_read=409",
	 "option max_read=409: cannot be changed while mounted"},
	{"nosuid", NULL},
	{"default_permissions", NULL},
	{"high=abc", "option high=abc: not a per cent, 0 to 100"},
	{"high=60", "options low=80, high=60: low is not below high"},
	{"foo", "option foo: unknown option"},
};

static void remount_is_judged(void **state)
{
	struct config *cfg = parsed("tierfs @/front @/mnt -o "
				    "spill=@/hdd,spill=b=@/hdd2,max_threads=4,"
				    "max_read=4096,sync");
	char spill[64];
	char *options[3] = {NULL};
	struct config *next;

	for (size_t i = 0; i < ARRAY_SIZE(remount_options); i++) {
		_cleanup_free_ char *why = NULL;
		int err;

		options[0] = (char *)remount_options[i].option;
		next = NULL;
		err = config_remount(cfg, options, &next, &why);
		assert_int_equal(err, remount_options[i].why ? -EINVAL : 0);
		if (err)
			assert_string_equal(why, remount_options[i].why);
		config_free(next);
	}
	/* All targets or none; what was not given is as before. */
	snprintf(spill, sizeof(spill), "spill=%s/hdd", base);
	options[0] = spill;
	assert_int_equal(config_remount(cfg, options, &next, NULL), -EINVAL);
	options[1] = (char *)"low=1";
	options[0] = (char *)"bwlimit=7";
	assert_int_equal(config_remount(cfg, options, &next, NULL), 0);
	assert_true(next->low == 1 && next->high == 90 && next->bwlimit == 7);
	assert_true(cfg->low == 80 && cfg->bwlimit == 0);
	assert_int_equal(next->ntargets, 2);
	assert_string_equal(next->fuse_opts, cfg->fuse_opts);
	config_free(next);
	config_free(cfg);
}

static void too_many_targets(void **state)
{
	char line[2048] = "tierfs @/front @/mnt -o x-a";
	struct config *cfg;
	size_t i, len;

	for (i = 0; i < TIERFS_TARGETS_MAX; i++) {
		len = strlen(line);
		snprintf(line + len, sizeof(line) - len, ",spill=@/gone/t%zu",
			 i);
	}
	cfg = parsed(line);
	assert_int_equal(cfg->ntargets, TIERFS_TARGETS_MAX);
	config_free(cfg);
	strcat(line, ",spill=/z");
	bad_lines = 0;
	check_refused(line, -EINVAL, "option spill=/z: more than 16 targets");
	assert_int_equal(bad_lines, 0);
}

static void help(void **state)
{
	static const char *const all[] = {
		"spill=[NAME=]DIR",
		"name=NAME",
		"config=FILE",
		"policy=auto|manual",
		"passthrough=auto|on|off",
		"migrate_age=TIME",
		"migrate_size=SIZE",
		"high=PCT",
		"low=PCT",
		"restore_after=N",
		"dirty_entries=N",
		"dirty_bytes=SIZE",
		"restore_below=SIZE",
		"recall_timeout=TIME",
		"bwlimit=RATE",
		"allow_other",
		"max_threads=N",
		"io_uring=auto|on|off",
		"noatime",
		"nosuid",
		"--version",
		"--help",
		"--foreground",
	};
	_cleanup_free_ char *text = NULL;
	char *line, *save = NULL;
	size_t len, i;
	FILE *f;

	f = open_memstream(&text, &len);
	config_help(f);
	fclose(f);
	for (i = 0; i < ARRAY_SIZE(all); i++) {
		const char *want =
			strcmp(all[i], "nosuid") ? all[i] : "[no]suid";

		if (!strstr(text, want))
			fail_msg("no %s in the help", want);
	}
	for (line = strtok_r(text, "\n", &save); line;
	     line = strtok_r(NULL, "\n", &save))
		if (strlen(line) > 79)
			fail_msg("too long: %s", line);
}

static void help_and_version_are_asked_for(void **state)
{
	static const char *const lines[] = {
		"tierfs -h",	    "tierfs --help",	 "tierfs -V",
		"tierfs --version", "tierfs -h @/front",
	};
	int saved = dup(STDOUT_FILENO), null = open("/dev/null", O_WRONLY);
	struct config *cfg = (void *)1;
	int errs[ARRAY_SIZE(lines)];
	char *why = NULL;
	size_t i;

	fflush(stdout);
	dup2(null, STDOUT_FILENO);
	for (i = 0; i < ARRAY_SIZE(lines); i++)
		errs[i] = parse(lines[i], &cfg, &why);
	fflush(stdout);
	dup2(saved, STDOUT_FILENO);
	close(saved);
	close(null);
	for (i = 0; i < ARRAY_SIZE(lines); i++)
		assert_int_equal(errs[i], -ECANCELED);
	assert_ptr_equal(cfg, (void *)1);
	assert_null(why);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(defaults),
		cmocka_unit_test(every_option),
		cmocka_unit_test(by_mount),
		cmocka_unit_test(escapes),
		cmocka_unit_test(bad_command_lines),
		cmocka_unit_test(wrong_options),
		cmocka_unit_test(remount_is_taken_apart),
		cmocka_unit_test(remount_is_judged),
		cmocka_unit_test(too_many_targets),
		cmocka_unit_test(help),
		cmocka_unit_test(help_and_version_are_asked_for),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
