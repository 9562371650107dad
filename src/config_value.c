/* SPDX-License-Identifier: MIT */
/*
 * Sizes, times, per cents and names as people write them.
 *
 * A number is digits with at most one point, without sign, exponent or blanks:
 * strtod() would take "inf", "0x1p3" and what the locale likes.
 */
#include "config.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

#include "util.h"

struct unit {
	const char *name;
	uint64_t factor;
};

#define KIB	   UINT64_C(1024)
#define DIGITS_MAX 18 /* of which any number fits in 64 bits */

/* whole + frac / scale */
struct number {
	uint64_t whole, frac, scale;
};

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* Parses digits[.digits]; *end is set behind. */
static int parse_number(const char *text, struct number *ret, const char **end)
{
	struct number n = {.scale = 1};
	unsigned int digits = 0;

	if (!is_digit(*text))
		return -EINVAL;
	while (*text == '0')
		text++;
	for (; is_digit(*text); text++) {
		if (++digits > DIGITS_MAX)
			return -ERANGE;
		n.whole = n.whole * 10 + (uint64_t)(*text - '0');
	}
	if (*text == '.') {
		if (!is_digit(*++text))
			return -EINVAL;
		for (; is_digit(*text); text++) {
			if (n.scale >= 1000000000) /* below a billionth: cut */
				continue;
			n.scale *= 10;
			n.frac = n.frac * 10 + (uint64_t)(*text - '0');
		}
	}
	*end = text;
	*ret = n;
	return 0;
}

static int parse_scaled(const char *text, const struct unit *units,
			size_t nunits, uint64_t *ret)
{
	unsigned __int128 value;
	struct number n;
	const char *end;
	size_t i;
	int err;

	err = parse_number(text, &n, &end);
	if (err)
		return err;
	for (i = 0; i < nunits; i++)
		if (!strcasecmp(end, units[i].name))
			break;
	if (i == nunits)
		return -EINVAL;
	value = (unsigned __int128)n.whole * units[i].factor +
		(unsigned __int128)n.frac * units[i].factor / n.scale;
	if (value > INT64_MAX)
		return -ERANGE;
	*ret = (uint64_t)value;
	return 0;
}

int config_parse_size(const char *text, uint64_t *ret)
{
	static const struct unit units[] = {
		{"", 1},
		{"B", 1},
		{"K", KIB},
		{"KiB", KIB},
		{"M", KIB * KIB},
		{"MiB", KIB * KIB},
		{"G", KIB * KIB * KIB},
		{"GiB", KIB * KIB * KIB},
		{"T", KIB * KIB * KIB * KIB},
		{"TiB", KIB * KIB * KIB * KIB},
		{"P", KIB * KIB * KIB * KIB * KIB},
		{"PiB", KIB * KIB * KIB * KIB * KIB},
	};

	return parse_scaled(text, units, ARRAY_SIZE(units), ret);
}

int config_parse_time(const char *text, uint64_t *ret_ns)
{
	static const struct unit units[] = {
		{"ms", NSEC_PER_SEC / 1000}, {"s", NSEC_PER_SEC},
		{"m", 60 * NSEC_PER_SEC},    {"h", 3600 * NSEC_PER_SEC},
		{"d", 86400 * NSEC_PER_SEC}, {"w", 7 * 86400 * NSEC_PER_SEC},
	};

	/* Nothing needs no unit; of anything else the unit would be guessed. */
	if (!strcmp(text, "0")) {
		*ret_ns = 0;
		return 0;
	}
	return parse_scaled(text, units, ARRAY_SIZE(units), ret_ns);
}

int config_parse_percent(const char *text, double *ret)
{
	struct number n;
	const char *end;
	double value;
	int err;

	err = parse_number(text, &n, &end);
	if (err)
		return err;
	if (*end && strcmp(end, "%"))
		return -EINVAL;
	value = (double)n.whole + (double)n.frac / (double)n.scale;
	if (value > 100)
		return -ERANGE;
	*ret = value;
	return 0;
}

int config_parse_number(const char *text, double *ret)
{
	struct number n;
	const char *end;
	int err = parse_number(text, &n, &end);

	if (err)
		return err;
	if (*end)
		return -EINVAL;
	*ret = (double)n.whole + (double)n.frac / (double)n.scale;
	return 0;
}

bool config_name_valid(const char *name)
{
	static const char chars[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
				    "abcdefghijklmnopqrstuvwxyz"
				    "0123456789._-";
	size_t len = strlen(name);

	return len >= 1 && len < TIERFS_NAME_MAX && name[0] != '.' &&
	       name[0] != '-' && strspn(name, chars) == len;
}
