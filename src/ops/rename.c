/* SPDX-License-Identifier: MIT */
#include "ops/rename.h"

#include <errno.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/utf8.h"

/* What \1 to \9 and & can stand for. */
#define GROUPS 10

/* ---- Rules ---- */

static void free_rule(struct stfs_rule_sub *rule)
{
	if (!rule->is_prefix)
		regfree(&rule->regex);
	free(rule->replacement);
	free(rule->prefix);
}

void stfs_renaming_free(struct stfs_renaming *renaming)
{
	for (size_t i = 0; i < renaming->count; i++)
		free_rule(&renaming->rules[i]);
	free(renaming->rules);
	*renaming = (struct stfs_renaming){0};
}

static int add_rule(struct stfs_renaming *renaming, const struct stfs_rule_sub *rule)
{
	struct stfs_rule_sub *rules =
		reallocarray(renaming->rules, renaming->count + 1, sizeof(*rules));

	if (!rules)
		return -ENOMEM;
	renaming->rules = rules;
	rules[renaming->count++] = *rule;
	return 0;
}

/*
 * The part of s/A/B/ that begins at `at`, up to the next bare delimiter, with \DELIMITER made
 * plain. Position behind that delimiter, or NULL when there is none.
 */
static const char *take_part(const char *at, char delimiter, struct stfs_buf *out)
{
	for (; *at && *at != delimiter; at++) {
		if (*at == '\\' && at[1] == delimiter)
			at++;
		else if (*at == '\\' && at[1])
			stfs_buf_putc(out, *at++);
		stfs_buf_putc(out, *at);
	}
	return *at ? at + 1 : NULL;
}

/* The highest group that a replacement names. */
static size_t highest_group(const char *replacement)
{
	size_t highest = 0;

	for (const char *at = replacement; *at; at++) {
		if (*at != '\\')
			continue;
		at++;
		if (*at >= '1' && *at <= '9' && (size_t)(*at - '0') > highest)
			highest = (size_t)(*at - '0');
		if (!*at)
			break;
	}
	return highest;
}

static int compile(struct stfs_rule_sub *rule, const char *pattern, int flags, const char *text,
		   struct stfs_err *err)
{
	char why[200];
	int code = regcomp(&rule->regex, pattern, REG_EXTENDED | flags);

	if (code != 0) {
		regerror(code, &rule->regex, why, sizeof(why));
		return stfs_err_set(err, -EINVAL, STFS_NO_POSITION, "%s: %s", text, why);
	}
	if (highest_group(rule->replacement) <= rule->regex.re_nsub)
		return 0;
	regfree(&rule->regex);
	return stfs_err_set(err, -EINVAL, STFS_NO_POSITION,
			    "%s: \\%zu in the replacement, but the expression has %zu groups in "
			    "parentheses",
			    text, highest_group(rule->replacement), rule->regex.re_nsub);
}

int stfs_renaming_sub(struct stfs_renaming *renaming, const char *text, struct stfs_err *err)
{
	STFS_AUTO_BUF struct stfs_buf pattern = STFS_BUF_INIT, replacement = STFS_BUF_INIT;
	struct stfs_rule_sub rule = {0};
	const char *at = NULL;
	int flags = 0, r;

	if (text[0] == 's' && text[1] && text[1] != '\\')
		at = take_part(text + 2, text[1], &pattern);
	if (at)
		at = take_part(at, text[1], &replacement);
	if (!at || !pattern.len)
		return stfs_err_set(
			err, -EINVAL, STFS_NO_POSITION,
			"%s: a substitution is written s/REGEX/REPLACEMENT/, with g or i "
			"behind it at will",
			text);
	for (; *at; at++) {
		if (*at != 'g' && *at != 'i' && *at != 'I')
			return stfs_err_set(err, -EINVAL, STFS_NO_POSITION,
					    "%s: '%c' is no flag of a substitution: g and i are",
					    text, *at);
		rule.global |= *at == 'g';
		flags |= *at == 'g' ? 0 : REG_ICASE;
	}
	if (!stfs_buf_cstr(&pattern) || !stfs_buf_cstr(&replacement))
		return -ENOMEM;
	rule.replacement = stfs_steal_ptr(&replacement.data);
	r = compile(&rule, pattern.data, flags, text, err);
	if (r < 0) {
		free(rule.replacement);
		return r;
	}
	r = add_rule(renaming, &rule);
	if (r < 0)
		free_rule(&rule);
	return r;
}

int stfs_renaming_prefix(struct stfs_renaming *renaming, const char *text, struct stfs_err *err)
{
	const char *equals = strchr(text, '=');
	struct stfs_rule_sub rule = {.is_prefix = true};
	int r = -ENOMEM;

	if (!equals)
		return stfs_err_set(err, -EINVAL, STFS_NO_POSITION,
				    "%s: a prefix is exchanged by OLD=NEW (either may be empty)",
				    text);
	rule.prefix = strndup(text, (size_t)(equals - text));
	rule.replacement = strdup(equals + 1);
	if (rule.prefix && rule.replacement)
		r = add_rule(renaming, &rule);
	if (r < 0)
		free_rule(&rule);
	return r;
}

/* ---- Applying them ---- */

static void put_replacement(const char *replacement, struct stfs_str name, const regmatch_t *groups,
			    struct stfs_buf *out)
{
	const regmatch_t *group;

	for (const char *at = replacement; *at; at++) {
		group = *at == '&' ? &groups[0] : NULL;
		if (*at == '\\' && at[1]) {
			at++;
			group = *at >= '0' && *at <= '9' ? &groups[*at - '0'] : NULL;
		}
		if (!group)
			stfs_buf_putc(out, *at);
		else if (group->rm_so >= 0)
			stfs_buf_add(out, name.ptr + group->rm_so,
				     (size_t)(group->rm_eo - group->rm_so));
	}
}

/* As sed does it: an empty match right behind the last one is none. */
static int substitute(const struct stfs_rule_sub *rule, struct stfs_str name, struct stfs_buf *out)
{
	regmatch_t groups[GROUPS];
	size_t at = 0, begin, end, width, last = SIZE_MAX;

	while (at <= name.len) {
		/* glibc: the match is looked for in this range, in sight of what stands before it.
		 */
		groups[0] = (regmatch_t){.rm_so = (regoff_t)at, .rm_eo = (regoff_t)name.len};
		if (regexec(&rule->regex, name.ptr, GROUPS, groups, REG_STARTEND) != 0)
			break;
		begin = (size_t)groups[0].rm_so;
		end = (size_t)groups[0].rm_eo;
		stfs_buf_add(out, name.ptr + at, begin - at);
		if (end > begin || begin != last)
			put_replacement(rule->replacement, name, groups, out);
		last = at = end;
		if (!rule->global)
			break;
		if (end > begin)
			continue;
		width = end < name.len ? stfs_utf8_width(name.ptr + end, name.len - end) : 0;
		stfs_buf_add(out, name.ptr + end, width);
		at = end + (width ? width : 1);
	}
	if (at < name.len)
		stfs_buf_add(out, name.ptr + at, name.len - at);
	return stfs_buf_status(out);
}

static int apply_rule(const struct stfs_rule_sub *rule, struct stfs_str name, struct stfs_buf *out)
{
	size_t cut;

	if (!rule->is_prefix)
		return substitute(rule, name, out);
	if (!stfs_str_starts_with(name, rule->prefix))
		return stfs_buf_add_str(out, name);
	cut = strlen(rule->prefix);
	stfs_buf_puts(out, rule->replacement);
	return stfs_buf_add(out, name.ptr + cut, name.len - cut);
}

int stfs_renaming_apply(const struct stfs_renaming *renaming, struct stfs_str name,
			struct stfs_buf *out)
{
	STFS_AUTO_BUF struct stfs_buf now = STFS_BUF_INIT, next = STFS_BUF_INIT;
	struct stfs_buf swapped;

	stfs_buf_add_str(&now, name);
	for (size_t i = 0; i < renaming->count; i++) {
		/* regexec(3) wants an address, an empty name has none. */
		if (!stfs_buf_cstr(&now))
			return -ENOMEM;
		stfs_buf_clear(&next);
		if (apply_rule(&renaming->rules[i], stfs_buf_str(&now), &next) < 0)
			return -ENOMEM;
		swapped = now;
		now = next;
		next = swapped;
	}
	if (stfs_buf_status(&now) < 0)
		return -ENOMEM;
	return stfs_buf_add_str(out, stfs_buf_str(&now));
}

/* ---- Collisions ---- */

static int compare_names(const void *left, const void *right)
{
	return stfs_str_compare(*(const struct stfs_str *)left, *(const struct stfs_str *)right);
}

/* A sorted copy of the list; NULL for want of memory. */
static struct stfs_str *sorted(const struct stfs_names *names)
{
	struct stfs_str *list = calloc(names->count + 1, sizeof(*list));

	for (size_t i = 0; list && i < names->count; i++)
		list[i] = stfs_names_at(names, i);
	if (list)
		qsort(list, names->count, sizeof(*list), compare_names);
	return list;
}

/* New names that stand twice, or belong to a tensor that keeps its name. */
static int find_taken(struct stfs_edit *edit, const struct stfs_names *from,
		      const struct stfs_names *to, struct stfs_names *taken)
{
	STFS_AUTO_FREE struct stfs_str *leaving = sorted(from);
	STFS_AUTO_FREE struct stfs_str *coming = sorted(to);
	struct stfs_edit_tensor tensor;
	bool twice, there;
	int r;

	if (!leaving || !coming)
		return -ENOMEM;
	for (size_t i = 0; i < to->count; i++) {
		if (i > 0 && stfs_str_equal(coming[i], coming[i - 1]))
			continue; /* spoken about */
		twice = i + 1 < to->count && stfs_str_equal(coming[i], coming[i + 1]);
		r = stfs_edit_find(edit, coming[i], &tensor);
		if (r == -ENOMEM)
			return r;
		there = r == 0 &&
			!bsearch(&coming[i], leaving, from->count, sizeof(*leaving), compare_names);
		if ((twice || there) && stfs_names_add(taken, coming[i]) < 0)
			return -ENOMEM;
	}
	return 0;
}

int stfs_renaming_plan(struct stfs_edit *edit, const struct stfs_renaming *renaming,
		       const struct stfs_names *chosen, struct stfs_names *from,
		       struct stfs_names *to, struct stfs_names *taken)
{
	STFS_AUTO_BUF struct stfs_buf made = STFS_BUF_INIT;
	struct stfs_str name;

	for (size_t i = 0; i < chosen->count; i++) {
		name = stfs_names_at(chosen, i);
		stfs_buf_clear(&made);
		if (stfs_renaming_apply(renaming, name, &made) < 0)
			return -ENOMEM;
		if (stfs_str_equal(name, stfs_buf_str(&made)))
			continue;
		if (stfs_names_add(from, name) < 0 || stfs_names_add(to, stfs_buf_str(&made)) < 0)
			return -ENOMEM;
	}
	return find_taken(edit, from, to, taken);
}
