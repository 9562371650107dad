/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_CONFIG_SETTER_H
#define TIERFS_CONFIG_SETTER_H

/*
 * Setters of options, for the table of config_option.c: each parses value into
 * field, and returns NULL or what is wrong, a constant.
 */

#include "config_parse.h"

extern const char config_no_memory[];

const char *config_set_size(void *field, const char *value);
const char *config_set_time(void *field, const char *value);
const char *config_set_timeout(void *field, const char *value);
const char *config_set_rate(void *field, const char *value);
const char *config_set_percent(void *field, const char *value);
const char *config_set_count(void *field, const char *value);
const char *config_set_times(void *field, const char *value);
const char *config_set_threads(void *field, const char *value);
const char *config_set_flag(void *field, const char *value);
const char *config_set_policy(void *field, const char *value);
const char *config_set_passthrough(void *field, const char *value);
const char *config_set_io_uring(void *field, const char *value);
const char *config_set_name(void *field, const char *value);
const char *config_set_path(void *field, const char *value);
const char *config_set_spill(void *field, const char *value);
const char *config_set_half_life(void *field, const char *value);
const char *config_set_bytes(void *field, const char *value);
const char *config_set_limit(void *field, const char *value);
const char *config_set_share(void *field, const char *value);
const char *config_set_strategy(void *field, const char *value);
const char *config_set_cold(void *field, const char *value);
const char *config_set_promote(void *field, const char *value);
const char *config_set_background(void *field, const char *value);
const char *config_set_nonblock(void *field, const char *value);
const char *config_set_reserve(void *field, const char *value);

/* The DIR of [NAME=]DIR. */
const char *config_spill_dir(const char *value);

#endif
