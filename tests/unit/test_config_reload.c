/* SPDX-License-Identifier: MIT */
#include "config_lines.h"

static int reload(const struct config *mounted, const struct config *now,
		  const char *file, struct config **ret, char **ret_why)
{
	write_conf(file);
	return config_reload(mounted, now, ret, ret_why);
}

static struct config *mounted_with(const char *file, const char *line)
{
	write_conf(file);
	return parsed(line);
}

static struct config *reloaded(const struct config *mounted,
			       const struct config *now, const char *file)
{
	struct config *ret = NULL;
	char *why = NULL;

	if (reload(mounted, now, file, &ret, &why))
		fail_msg("%s: %s", file, why);
	return ret;
}

static void refused(const struct config *mounted, const char *file,
		    const char *want)
{
	_cleanup_free_ char *why = NULL, *text = expand(want);
	struct config *ret = (void *)1;

	assert_true(reload(mounted, mounted, file, &ret, &why) < 0);
	assert_ptr_equal(ret, (void *)1);
	assert_string_equal(why, text);
}

static void the_file_anew(void **state)
{
	struct config *cfg = mounted_with(
		"[tierfs]\nspill = @/hdd\nspill = b=@/hdd2\nhigh = 70\n"
		"low = 60\nname = n\nro = on\nnosuid = on\n"
		"[rule a]\nkeep = yes\n",
		"tierfs -o config=@/conf,migrate_age=3d,noatime -o noexec "
		"@/front @/mnt");
	struct config *to =
		reloaded(cfg, cfg,
			 "[tierfs]\nname = n\nlow = 50\nnosuid = on\nro = on\n"
			 "spill = @/hdd\nspill = b=@/hdd2\nmigrate_age = 9d\n"
			 "[rule b]\npath = /b\ntarget = b\n"
			 "[recall r]\nuser = root\naction = refuse\n"
			 "[rule c]\nkeep = yes\n");

	assert_true(to->low == 50 && to->high == 90);
	assert_true(to->migrate_age_ns == 3 * 86400ULL * NSEC_PER_SEC);
	assert_int_equal(policy_rules_count(to->rules), 2);
	assert_non_null(to->recall);
	assert_int_equal(to->ntargets, 2);
	assert_path(to->targets[0].path, "@/hdd");
	assert_path(to->targets[1].path, "@/hdd2");
	assert_string_equal(to->fuse_opts, cfg->fuse_opts);
	assert_string_equal(to->front, cfg->front);
	assert_string_equal(to->mountpoint, cfg->mountpoint);
	assert_string_equal(to->name, "n");
	assert_string_equal(to->file, cfg->file);
	assert_true(to->ro && to->noatime);
	/* And once more, of what came of it. */
	{
		struct config *again =
			reloaded(cfg, to,
				 "[tierfs]\nname = n\nnosuid = on\nro = on\n"
				 "spill = @/hdd\nspill = b=@/hdd2\n");

		assert_true(again->low == 80);
		assert_true(again->migrate_age_ns == cfg->migrate_age_ns);
		assert_int_equal(policy_rules_count(again->rules), 0);
		assert_null(again->recall);
		config_free(again);
	}
	config_free(to);
	config_free(cfg);
}

static void after_remounts(void **state)
{
	static const char file[] = "[tierfs]\nspill = @/hdd\nhigh = 70\n"
				   "low = 30\n";
	char *const first[] = {(char *)"ro", (char *)"high=85",
			       (char *)"nosuid", NULL};
	char *const second[] = {(char *)"rw", (char *)"high=95",
				(char *)"relatime", NULL};
	struct config *cfg =
		mounted_with(file, "tierfs -o config=@/conf,high=80"
				   " @/front @/mnt");
	struct config *a = NULL, *b = NULL, *c, *d;
	char *why = NULL;

	assert_int_equal(config_remount(cfg, first, &a, &why), 0);
	c = reloaded(cfg, a, file);
	assert_true(c->ro && c->high == 85 && c->low == 30);
	assert_int_equal(config_remount(c, second, &b, &why), 0);
	d = reloaded(cfg, b, file);
	assert_true(!d->ro && d->high == 95 && d->low == 30);
	config_free(a);
	config_free(b);
	config_free(c);
	config_free(d);
	config_free(cfg);
}

static void what_cannot_change(void **state)
{
	static const char file[] = "[tierfs]\nspill = @/hdd\n";
	struct config *cfg =
		mounted_with(file, "tierfs -o config=@/conf @/front "
				   "@/mnt");
	static const struct {
		const char *file, *why;
	} rows[] = {
		{"[tierfs]\n", "@/conf: spill: cannot be changed while "
			       "mounted"},
		{"[tierfs]\nspill = @/hdd2\n",
		 "@/conf: spill: cannot be changed while mounted"},
		{"[tierfs]\nspill = @/hdd\nspill = @/hdd2\n",
		 "@/conf: spill: cannot be changed while mounted"},
		{"[tierfs]\nspill = x=@/hdd\n",
		 "@/conf: spill: cannot be changed while mounted"},
		{"[tierfs]\nspill = @/hdd\nname = x\n",
		 "@/conf: name: cannot be changed while mounted"},
		{"[tierfs]\nspill = @/hdd\npassthrough = off\n",
		 "@/conf: passthrough: cannot be changed while mounted"},
		{"[tierfs]\nspill = @/hdd\ndebug = on\n",
		 "@/conf: debug: cannot be changed while mounted"},
		{"[tierfs]\nspill = @/hdd\nwalk_rate = 3\n",
		 "@/conf: walk_rate: cannot be changed while mounted"},
		{"[tierfs]\nspill = @/hdd\nnoexec = on\n",
		 "@/conf: mount options: cannot be changed while mounted"},
		{"[tierfs]\nspill = @/hdd\nro = on\n",
		 "@/conf: ro: changed by mount -o remount alone"},
		{"[tierfs]\nspill = @/hdd\nnoatime = on\n",
		 "@/conf: noatime: changed by mount -o remount alone"},
		{"[tierfs]\nspill = @/hdd\nlow = 95\n",
		 "options low=95, high=90: low is not below high"},
		{"[tierfs]\nspill = @/hdd\n[rule a]\ntarget = b\n",
		 "@/conf:4: [rule a] target = b: there is no target of that "
		 "name"},
		{"[tierfs]\nspill = @/hdd\n[rule a]\nfoo = b\n",
		 "@/conf:4: [rule a] foo = b: unknown key"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		refused(cfg, rows[i].file, rows[i].why);
	config_free(reloaded(cfg, cfg, file));
	{
		_cleanup_free_ char *path = expand("@/conf");

		unlink(path);
	}
	{
		struct config *to = NULL;
		_cleanup_free_ char *why = NULL;

		assert_int_equal(config_reload(cfg, cfg, &to, &why), -ENOENT);
		assert_non_null(strstr(why, "No such file"));
	}
	config_free(cfg);
}

/* A target by the command line hides the file's; the mounted one stays. */
static void targets_by_the_command_line(void **state)
{
	struct config *cfg = mounted_with("[tierfs]\nspill = b=@/hdd2\n",
					  "tierfs -o config=@/conf,spill=@/hdd "
					  "@/front @/mnt");
	struct config *to = reloaded(cfg, cfg,
				     "[tierfs]\nspill = c=@/nowhere\n"
				     "[rule a]\ntarget = hdd\n");

	assert_int_equal(to->ntargets, 1);
	assert_path(to->targets[0].path, "@/hdd");
	config_free(to);
	config_free(cfg);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_file_anew),
		cmocka_unit_test(after_remounts),
		cmocka_unit_test(what_cannot_change),
		cmocka_unit_test(targets_by_the_command_line),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
