/* SPDX-License-Identifier: MIT */
#include "stress_round.h"

#include <stdatomic.h>
#include <stdint.h>
#include <unistd.h>

#include "fault.h"
#include "stress_model.h"
#include "util.h"

static const unsigned int shares[][OPS] = {
	{45, 15, 12, 10, 4, 3, 2, 4, 5},
	{55, 3, 5, 5, 1, 1, 0, 1, 29},
	{40, 10, 5, 5, 15, 5, 5, 10, 5},
};

/* Some step now and then is held up, with what it has locked: windows that are
 * small else are open then when everything dies. */
static void hold_up(const char *name)
{
	static _Atomic(uint64_t) next;
	uint64_t dice = atomic_fetch_add(&next, 1) + m->version;

	(void)name;
	dice = (dice + 1) * 0x9E3779B97F4A7C15u >> 32;
	usleep((useconds_t)(dice % 60000));
	fault_arm("*", 1 + (unsigned int)(dice / 60000 % 40), hold_up);
}

struct stress_round stress_round(unsigned int number)
{
	uint64_t dice = (number + 1) * 0x9E3779B97F4A7C15u >> 32;
	struct stress_round ret;

	ret.share = shares[dice % ARRAY_SIZE(shares)];
	dice /= ARRAY_SIZE(shares);
	ret.first = (unsigned int)(dice % SLOTS);
	dice /= SLOTS;
	ret.slots = dice % 2 ? SLOTS : 2;
	if (dice / 2 % 2)
		hold_up(NULL);
	return ret;
}
