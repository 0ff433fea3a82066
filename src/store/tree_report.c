/* SPDX-License-Identifier: MIT */
/* What a commit has done, for .stfs and the log. */
#include <inttypes.h>
#include <stdlib.h>

#include "base/log.h"
#include "store/tree_pending.h"

/* So many names are listed. */
#define LISTED_MOST 100

void stfs_commit_report_free(struct stfs_commit_report *report)
{
	stfs_buf_free(&report->names);
	stfs_buf_free(&report->as_bytes);
	*report = (struct stfs_commit_report){0};
}

const char *stfs_change_word(unsigned changes)
{
	return changes & STFS_CHANGE_NEW        ? "new"
	       : changes & STFS_CHANGE_REMOVED  ? "removed"
	       : changes & STFS_CHANGE_REPLACED ? "replaced"
	       : changes & STFS_CHANGE_RENAMED  ? "renamed"
	       : changes & STFS_CHANGE_RETYPED  ? "retyped"
						: "metadata";
}

static void report_one(const struct stfs_tree *tree, const struct stfs_taking *taking,
		       struct stfs_commit_report *report)
{
	struct stfs_str was = {NULL, 0}, name;

	if (taking->id != STFS_NO_TENSOR)
		was = stfs_model_name_of(tree->model, taking->id);
	name = taking->name ? stfs_taking_name(taking) : was;
	report->added += (taking->changes & STFS_CHANGE_NEW) != 0;
	report->removed += (taking->changes & STFS_CHANGE_REMOVED) != 0;
	report->replaced += (taking->changes & STFS_CHANGE_REPLACED) != 0;
	report->renamed += (taking->changes & STFS_CHANGE_RENAMED) != 0;
	report->retyped += (taking->changes & STFS_CHANGE_RETYPED) != 0;
	if (taking->changes & (STFS_CHANGE_NEW | STFS_CHANGE_REPLACED))
		report->bytes += taking->len;
	if (taking->as_bytes && report->as_bytes.len < 65536) {
		stfs_buf_puts(&report->as_bytes, report->as_bytes.len ? ", " : "");
		stfs_json_quote(name, &report->as_bytes);
	}
	if (report->listed++ >= LISTED_MOST)
		return;
	stfs_buf_puts(&report->names, report->names.len ? ", {\"name\": " : "{\"name\": ");
	stfs_json_quote(name, &report->names);
	stfs_buf_printf(&report->names, ", \"change\": \"%s\"", stfs_change_word(taking->changes));
	if (taking->changes & STFS_CHANGE_RENAMED) {
		stfs_buf_puts(&report->names, ", \"from\": ");
		stfs_json_quote(was, &report->names);
	}
	stfs_buf_putc(&report->names, '}');
}

void stfs_tree_report(const struct stfs_tree *tree, struct stfs_commit_report *report)
{
	for (size_t i = 0; i < tree->taking_count; i++) {
		report_one(tree, &tree->takings[i], report);
		/* One that takes the place of a tensor of its name is no removal and addition to the user. */
		if (tree->takings[i].changes == STFS_CHANGE_REMOVED &&
		    stfs_tree_puts_anew(tree, stfs_model_name_of(tree->model, tree->takings[i].id))) {
			report->removed--;
			report->added--;
			report->replaced++;
		}
	}
	report->metadata = tree->metadata_staged;
}

void stfs_tree_say_as_bytes(const struct stfs_tree *tree)
{
	char quoted[STFS_QUOTED_MAX];

	for (size_t i = 0; i < tree->taking_count; i++)
		if (tree->takings[i].as_bytes)
			stfs_log(STFS_LOG_WARNING, "%s: tensor \"%s\" had no type that fits: committed as U8 [%" PRIu64
				 "]; write its .json to give it one", tree->path,
				 stfs_quote(stfs_taking_name(&tree->takings[i]), quoted), tree->takings[i].len);
}
