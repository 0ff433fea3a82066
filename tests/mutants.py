#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Puts faults into the sources, one at a time, and tells which test notices each.

    tests/mutants.py [SUITE | WORD ...]

A mutant names a file, the exact text there, what stands in its place, the suite to run
(tests/unit/test_SUITE.c, tests/crash/test_crash.c) and the test that must fail in it; others may fail
as well. Of a suite "mount/FILE", which is tests/mount/test_FILE.py, that test alone is run: it needs a Python
with pytest and the outside judges, as this one. The tree is copied to a temporary directory and built there once.
A mutant that no test notices, one that its own test does not notice, and a text that is not found exactly once are
failures: TAP, a case a mutant.
"""
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
from typing import NamedTuple

MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else "/tmp"  # much is synced
ROOT = pathlib.Path(__file__).resolve().parent.parent


class Mutant(NamedTuple):
    """One fault: `what` is wrong with it, in words."""
    what: str
    file: str
    old: str
    new: str
    test: str
    suite: str = "layout"


MUTANTS = [
    Mutant("what a shift drops from memory costs nothing",
           "src/layout/plan.c", " + (uint64_t)((double)file->cached * share) / STFS_CACHED_PER_COST;", ";",
           "a_shift_that_drops_pages_is_dear"),
    Mutant("a shift is never weighed against filling the gap",
           "src/layout/plan.c", "	if (r == 0 && other.cost.total < plan->cost.total) {",
           "	if (r == 0 && other.cost.total < plan->cost.total && !other.count) {", "a_shift_that_drops_pages_is_dear"),
    Mutant("where nothing is shifted the header keeps what it can",
           "src/layout/view.c", "(by_blocks ? 2 * file->block : SLACK_MOST)",
           "(view->block ? 2 * file->block : SLACK_MOST)", "a_shift_that_drops_pages_is_dear"),
    Mutant("filling the gap always wins over a shift",
           "src/layout/plan.c", "	if (r == 0 && other.cost.total < plan->cost.total) {", "	if (r == 0) {",
           "a_shift_that_drops_pages_is_dear"),
    Mutant("what was written in place before a commit is not synced behind it",
           "src/store/tree_commit.c", "		unsynced |= atomic_load(&tree->unsynced[i]);", "		;",
           "a_commit_is_not_synced_again", "tree"),
    Mutant("a commit is synced twice",
           "src/store/tree_commit.c", "	bool unsynced = false;", "	bool unsynced = true;",
           "a_commit_is_not_synced_again", "tree"),
    Mutant("the end of the mount is a fault to one that reads a request",
           "src/fs/init_reply.c", "errno == ECONNABORTED", "errno == ECONNRESET", "end_of_the_mount", "fs"),
    Mutant("the edge before a hole is copied the wrong way",
           "src/layout/steps.c", "at - before, at + len - before, before);",
           "at - before, at + len, before);", "every_item_has_its_bytes"),
    Mutant("a collapse begins a block too early",
           "src/layout/steps.c", "push(b, STFS_STEP_COLLAPSE, NO_ITEM, 0, at, len);\n	b->length -= len;",
           "push(b, STFS_STEP_COLLAPSE, NO_ITEM, 0, at - b->block, len);\n	b->length -= len;",
           "every_item_has_its_bytes"),
    Mutant("a collapse reaches the end of the file",
           "src/layout/steps.c", "if (rest <= after) {", "if (rest < after) {",
           "a_hole_before_the_last_edge_is_cut_off"),
    Mutant("the first block is collapsed",
           "src/layout/steps.c", "(after <= before || keep_first_block)", "(after <= before)",
           "calls_are_legal"),
    Mutant("the truncation before the tail falls is missing",
           "src/layout/steps.c", "	if (length != b->length)\n		push(b, STFS_STEP_TRUNCATE, NO_ITEM, 0, length, 0);",
           "", "items_lie_one_behind_the_other"),
    Mutant("gaps are closed from the first to the last",
           "src/layout/steps.c", "	close_gaps(&b);\n	move_front(&b);", "	move_front(&b);\n	close_gaps(&b);",
           "every_item_has_its_bytes"),
    Mutant("fillers are copied before the record",
           "src/layout/steps.c", "	plan->before = plan->count;\n	copy_fillers(&b, scratch);",
           "	copy_fillers(&b, scratch);\n	plan->before = plan->count;",
           "nothing_old_is_touched_before_the_record"),
    Mutant("fillers lie in another order than their places say",
           "src/layout/steps.c", "			push(b, STFS_STEP_COPY, number, from, at, item->size);\n			at += item->size;",
           "			at += item->size;\n			push(b, STFS_STEP_COPY, number, from, at, item->size);",
           "every_item_has_its_bytes"),
    Mutant("the tail is written without regard to the block",
           "src/layout/steps.c", "		at += (end % b->block + b->block - at % b->block) % b->block;",
           "		at += 0;", "calls_are_legal"),
    Mutant("neighbouring copies become one though they then overlap",
           "src/layout/steps.c", " &&\n	       (last->to >= last->from + len || last->from >= last->to + len);", ";",
           "copies_may_be_done_again"),
    Mutant("the pieces of a rebuild come in any order",
           "src/layout/steps.c", "		qsort(plan->steps, plan->count, sizeof(*plan->steps), by_target);",
           "		(void)by_target;", "new_bytes_come_before_the_record"),
    Mutant("shared pieces begin off a block",
           "src/layout/steps.c", "(b->block - from % b->block) % b->block);", "from % b->block);",
           "calls_are_legal"),
    Mutant("a filler in the way of others is not saved first",
           "src/layout/choice.c", "stfs_item_is_new(item) || ((from > 0 || front) && from < t->run_count)",
           "stfs_item_is_new(item)", "every_item_has_its_bytes"),
    Mutant("tensors that shall lie before the run leave the header what they need themselves",
           "src/layout/choice.c", "	t->data_start = at;\n", "	t->data_start = at + 8;\n",
           "without_shifts_the_front_is_filled"),
    Mutant("fillers of a gap that vanished are not released",
           "src/layout/choice.c", "		t->gap_of[number] = STFS_IN_TAIL;\n		stfs_pool_release(&c->pool, number);",
           "		t->gap_of[number] = STFS_IN_TAIL;", "items_lie_one_behind_the_other"),
    Mutant("gaps that are no whole blocks count as such",
           "src/layout/choice.c", "c->view->block && gap % c->view->block == 0);",
           "c->view->block && gap % c->view->block < 16);", "calls_are_legal"),
    Mutant("a window ends where the place does not fit",
           "src/layout/choice.c", "slot_of(c, (uint32_t)(run_end(c, i - 1) % c->view->block));",
           "slot_of(c, (uint32_t)((run_end(c, i - 1) + 512) % c->view->block));", "calls_are_legal"),
    Mutant("no window is searched for",
           "src/layout/search.c", "	if (r == 0)\n		r = search_windows(&s);\n", "	(void)search_windows;\n",
           "a_window_elsewhere_fills_an_odd_hole"),
    Mutant("the tail is not tidied",
           "src/layout/search.c", "	if (r == 0)\n		r = tidy_tail(&s);\n", "	(void)tidy_tail;\n",
           "small_odd_tensors_stay_last"),
    Mutant("runs begin at the first tensor only",
           "src/layout/search.c", "if (hole || !before || (stays && !stayed)) {", "if (first == 0) {",
           "small_first_tensors_make_room_for_the_header"),
    Mutant("readers do not hold a plan back",
           "src/layout/plan.c", "r == 0 && !file->replace_only && ((!view->block", "r == 0 && ((!view->block",
           "readers_keep_their_file"),
    Mutant("a plan that moves is searched for where a reader allows none",
           "src/layout/choice.c", " || (file->replace_only && !file->can_clone && !in_place))", ")",
           "readers_do_not_forbid_to_append"),
    Mutant("an estimate is trusted beyond the rewrite",
           "src/layout/plan.c", "(!c.found || c.best.cost.total > whole->cost.total)", "!c.found",
           "pieces_too_small_to_share_are_written_anew"),
    Mutant("a plan that does not fit is taken",
           "src/layout/plan.c", "made == 0 && other->cost.space <= c->room &&", "made == 0 &&",
           "room_is_never_exceeded"),
    Mutant("the header is said to fit where it does not",
           "src/layout/plan.c", "8 + p->header_same > p->file.data_start)", "p->header_same > p->file.data_start + 64)",
           "items_lie_one_behind_the_other"),
    Mutant("a new tensor's alignment is forgotten",
           "src/layout/internal.h", "view->problem->compact || stfs_item_is_new(item) || ", "view->problem->compact || ",
           "alignments_are_kept"),
    Mutant("a shift leaves the map where it was",
           "src/layout/moves.c", "	case STFS_STEP_INSERT: return now >= step->to ? now + step->len : now;",
           "	case STFS_STEP_INSERT: return now;", "what_the_map_says_is_so", "moves"),
    Mutant("what a copy overwrites stays in the map",
           "src/layout/moves.c", "		return now >= step->to && now < end ? STFS_MOVED_NOWHERE : now;", "		return now;",
           "what_the_map_says_is_so", "moves"),
    Mutant("copies before the record are not in the map",
           "src/layout/moves.c", "	for (size_t i = 0; i < plan->before; i++)\n		stfs_moves_apply(moves, &plan->steps[i]);",
           "", "items_are_found_after_every_step", "moves"),
    Mutant("the map falls into ever more pieces",
           "src/layout/moves.c", "	if (count && continues(&pieces[count - 1], &next)) {", "	if (count && next.len == 0) {",
           "the_map_covers_the_file", "moves"),
    Mutant("compact keeps what is badly aligned",
           "src/layout/internal.h", "	if (view->problem->compact || ", "	if (",
           "compact_aligns_all_and_keeps_no_reserve"),
    Mutant("compact keeps the header's reserve",
           "src/layout/view.c", "		view->header_good = view->header_min;",
           "		view->header_good = view->header_min + 4096;", "compact_aligns_all_and_keeps_no_reserve"),
    Mutant("data may begin anywhere",
           "src/layout/view.c", "	if (old % 8 || (!view->block && old < view->header_min))",
           "	if (!view->block && old < view->header_min)", "data_begins_at_a_multiple_of_eight"),
    Mutant("small tensors lie before large ones in a tail",
           "src/layout/view.c", "+ (item->size < SMALL);", "+ (item->size >= SMALL);",
           "small_tensors_lie_behind_large_ones"),
    Mutant("overlapping tensors are taken",
           "src/layout/view.c", "		if (item->old < end || ", "		if (",
           "items_that_overlap_or_lie_outside_are_refused"),
    Mutant("a single filler may be larger than its gap",
           "src/layout/fill.c", "		if (item->size > gap || residue_of", "		if (residue_of",
           "fillers_fit_into_their_hole"),
    Mutant("a set of fillers may be larger than its gap",
           "src/layout/fill.c", " && from->bytes + more.bytes <= gap &&", " &&", "fillers_fit_into_their_hole"),
    Mutant("a slide goes up from its beginning",
           "src/layout/slide.c", "up ? x->len - done - len : done;", "done;", "every_item_has_its_bytes"),
    Mutant("a slide's pieces are longer than its way",
           "src/layout/slide.c", "		if (len > distance(x)) {", "		if (len > x->len) {",
           "copies_may_be_done_again"),
    Mutant("what slides up goes after what slides down from the front",
           "src/layout/slide.c", "	for (size_t i = s->count; i-- > 0;)\n		if (s->stretches[i].to > s->stretches[i].from)",
           "	for (size_t i = 0; i < s->count; i++)\n		if (s->stretches[i].to > s->stretches[i].from)",
           "every_item_has_its_bytes"),
    # The executor: commit/test_commit.c, crash/test_crash.c, unit/test_edit.c.
    Mutant("the length word is not poisoned before the steps",
           "src/commit/in_place.c", "r = stfs_commit_put_words(&journal, fds, STFS_WORDS_POISONED);",
           "r = stfs_commit_put_words(&journal, fds, STFS_WORDS_OLD);", "large_tensors", "crash"),
    Mutant("the length word is written with the header",
           "src/commit/in_place.c", "r = stfs_io_write(fd, file->header.data + 8, file->header.len - 8, 8);",
           "r = stfs_io_write(fd, file->header.data, file->header.len, 0);", "one_file", "crash"),
    Mutant("the header is written before the steps",
           "src/commit/in_place.c", "	int r = stfs_steps_run_marked(journal, number, fd, commit);",
           "	int r = stfs_io_write(fd, file->header.data + 8, file->header.len - 8, 8);\n\n"
           "	if (r == 0)\n		r = stfs_steps_run_marked(journal, number, fd, commit);",
           "large_tensors", "crash"),
    Mutant("the poison is not synced",
           "src/commit/in_place.c", "			r = put_word(fds[i], word_of(&journal->files[i], words));",
           "			r = words == STFS_WORDS_NEW ? put_word(fds[i], word_of(&journal->files[i], words)) :\n"
           "				stfs_io_write(fds[i], &(uint64_t){htole64(word_of(&journal->files[i], words))}, 8, 0);",
           "large_tensors", "crash"),
    Mutant("the journal's record is not synced",
           "src/commit/journal.c", "		r = stfs_io_sync(journal->fd);\n	if (r == 0)\n		journal->recorded = true;",
           "		journal->recorded = true;", "one_file", "crash"),
    Mutant("recovery trusts a record, or its erasure, that nobody has synced",
           "src/commit/recover.c", "	int r = stfs_io_sync(journal->fd);", "	int r = 0;", "late_reader", "crash"),
    Mutant("recovery trusts a file that nobody has synced",
           "src/commit/recover.c", "			r = stfs_io_sync(fds[i]);\n		if (r == -EINVAL)", "			r = 0;\n		if (r == -EINVAL)",
           "late_reader", "crash"),
    Mutant("the journal's name is not synced",
           "src/commit/journal.c", "	return r < 0 ? r : stfs_io_sync_folder(folder_fd);\n}\n\nstatic void put_file",
           "	return r;\n}\n\nstatic void put_file", "one_file", "crash"),
    Mutant("the file is not synced before a mark",
           "src/commit/steps.c", "			r = stfs_io_sync(fd);\n			if (r == 0)\n"
           "				r = stfs_journal_mark(journal, number, i, NULL);",
           "			r = stfs_journal_mark(journal, number, i, NULL);", "marks_follow_what_they_say", "commit"),
    Mutant("the file is not synced after the trial shift",
           "src/commit/in_place.c", "if (r == 0 && (plan->before || shifts))", "if (r == 0 && plan->before)",
           "large_tensors", "crash"),
    Mutant("new bytes are not synced before the record",
           "src/commit/in_place.c", "if (r == 0 && (plan->before || shifts))", "if (r == 0 && shifts)", "one_file", "crash"),
    Mutant("no mark stands before a shift",
           "src/commit/steps.c", "			r = stfs_journal_mark(journal, number, next, &map);", "			r = 0;",
           "large_tensors", "crash"),
    Mutant("no mark stands behind a shift",
           "src/commit/steps.c", "	return r < 0 ? r : stfs_journal_mark(journal, number, next + 1, NULL);",
           "	return r;", "large_tensors", "crash"),
    Mutant("a half insert counts as done",
           "src/commit/steps.c", "	*done = step->kind == STFS_STEP_COLLAPSE;", "	*done = true;", "large_tensors", "crash"),
    Mutant("the block that an insert puts first is not poisoned",
           "src/commit/steps.c", "step->to >= sizeof(word))", "true)",
           "an_insert_at_the_front_is_poisoned_again", "commit"),
    Mutant("copies whose source is overwritten are run again",
           "src/commit/steps.c", "	return step->to < end && from < step->to + step->len;", "	return false;",
           "marks_stand_where_steps_could_not_be_run_again", "commit"),
    Mutant("the room for marks forgets the map of the file",
           "src/commit/steps.c", "stfs_journal_mark_len(extents + 4", "stfs_journal_mark_len(4",
           "marks_keep_to_the_room_reserved_for_them", "commit"),
    Mutant("a hostile copy may overlap itself",
           "src/commit/journal_read.c", "		return step->from >= end || step->to >= from_end;", "		return true;",
           "hostile_copies_are_refused", "commit"),
    Mutant("a new file is not synced before it is renamed",
           "src/commit/replace.c", "		r = stfs_io_sync(file->new_fd);", "		r = 0;", "one_file", "crash"),
    Mutant("the lock does not pass to the new file",
           "src/commit/beside.c", "	r = stfs_beside_lock(folder_fd, name, fd);\n	if (r == 0)\n		return fd;",
           "	r = 0;\n	if (r == 0)\n		return fd;",
           "a_model_is_locked_while_it_is_edited", "edit"),
    Mutant("the journal goes before the length word is synced",
           "src/commit/in_place.c", "			r = put_word(fds[i], word_of(&journal->files[i], words));",
           "			r = words == STFS_WORDS_NEW ? stfs_io_write(fds[i], journal->files[i].header.data, 8, 0) :\n"
           "				put_word(fds[i], word_of(&journal->files[i], words));", "one_file", "crash"),
    Mutant("the new files' names are not synced before the record",
           "src/commit/in_place.c", "if (r == 0 && built)", "if (false && built)", "two_shards", "crash"),
    Mutant("renames are not synced before the length words",
           "src/commit/in_place.c", "if (r == 0 && renamed)", "if (false && renamed)", "two_shards", "crash"),
    Mutant("a record stays when a commit is taken back",
           "src/commit/in_place.c", "	if (journal->record_tried) {", "	if (false) {", "large_tensors", "crash"),
    Mutant("the new bytes stay when a commit is taken back",
           "src/commit/in_place.c", "r = stfs_io_truncate(commit->files[i].fd, journal->files[i].old_length);", "r = 0;",
           "a_call_that_fails_costs_nothing", "edit"),
    Mutant("recovery leaves new bytes behind the old end",
           "src/commit/recover.c", "		r = stfs_io_truncate(fds[i], file->old_length);", "		r = 0;",
           "takes_back_what_has_no_record", "commit"),
    Mutant("recovery takes a damaged record for none",
           "src/commit/recover.c", "	int r = check_record(journal, fds, err);",
           "	int r = journal->recorded ? check_record(journal, fds, err) : 0;",
           "a_damaged_journal_of_a_poisoned_model_is_kept", "commit"),
    Mutant("samples are not compared",
           "src/commit/extents.c", "r == 0 && hash != before->samples[i].hash", "false",
           "refuses_files_that_do_not_come_of_the_shift", "commit"),
    Mutant("a half collapse is finished on the wrong side",
           "src/commit/extents.c", "*hole = insert ? x : x - step->len;", "*hole = insert ? x : x + step->len;",
           "judges_every_state_of_a_shift", "commit"),
    Mutant("a map need not fit behind the border",
           "src/commit/extents.c", "physical + good, len - good) < len - good)", "physical + good, len - good) > len - good)",
           "refuses_files_that_do_not_come_of_the_shift", "commit"),
    Mutant("a journal's checksum is not compared",
           "src/commit/journal_read.c", "	return stfs_commit_hash(stfs_buf_str(out)) == sum;",
           "	return stfs_commit_hash(stfs_buf_str(out)) == sum || sum;", "a_flipped_byte_of_a_journal_is_seen", "commit"),
    Mutant("a journal with other links is believed",
           "src/commit/journal_read.c", "else if (st->st_nlink != 1)", "else if (st->st_nlink < 1)",
           "believes_no_journal_that_others_may_have_written", "commit"),
    Mutant("a journal that others may write is believed",
           "src/commit/journal_read.c", "st->st_mode & 022", "st->st_mode & 02",
           "believes_no_journal_that_others_may_have_written", "commit"),
    Mutant("a journal's name may lead out of the folder",
           "src/commit/journal_read.c", "!memchr(name, '/', len) &&\n", "\n", "takes_no_name_that_leads_elsewhere", "commit"),
    Mutant("a link in the journal's place is followed",
           "src/commit/journal_read.c", "O_RDWR | O_NOFOLLOW |", "O_RDWR |",
           "believes_no_journal_that_others_may_have_written", "commit"),
    Mutant("a file that somebody has changed is gone over",
           "src/commit/recover.c", "			if (state == STATE_FOREIGN)", "			if (false)",
           "a_foreign_file_is_left_alone", "commit"),
    Mutant("a file that took the model's place is gone over",
           "src/commit/commit.c", "	int r = check_names(commit, err);", "	int r = commit->count ? 0 : check_names(commit, err);",
           "nothing_is_committed_over_another_file", "edit"),
    Mutant("a header that was changed is gone over",
           "src/store/edit_commit.c", "	int r = check_shards(edit, err);",
           "	int r = edit->stuck ? check_shards(edit, err) : 0;", "nothing_is_committed_over_another_header", "edit"),
    Mutant("the index is no part of the commit",
           "src/store/edit_commit.c", ".count = all->count + all->has_index,", ".count = all->count,",
           "the_index_follows_the_shards", "edit"),
    Mutant("readers are not looked for",
           "src/commit/abilities.c", "		readers = errno != EINVAL && errno != ENOTTY && errno != EOPNOTSUPP;",
           "		readers = false;", "readers_keep_the_file_they_have_open", "edit"),
    Mutant("readers are not looked for again behind the poison",
           "src/commit/in_place.c", "r == 0 && new_readers(commit)", "r != 0 && new_readers(commit)",
           "a_reader_that_comes_late_keeps_its_file", "edit"),
    Mutant("readers that are known ask for another plan for ever",
           "src/commit/in_place.c", "commit->ignore_readers || commit->readers)\n		return false;",
           "commit->ignore_readers)\n		return false;\n	if (commit->readers)\n		return true;",
           "a_plan_that_moves_nothing_does_not_mind_readers", "edit"),
    Mutant("a rename that fails leaves names taken out",
           "src/store/edit_stage.c", "for (size_t i = 0; r < 0 && i < moves.count; i++)",
           "for (size_t i = 0; r > 0 && i < moves.count; i++)",
           "a_failing_edit_leaves_everything_as_it_was_staged", "edit"),
    Mutant("metadata goes into the first shard alone",
           "src/store/edit_metadata.c", "		put_pair(edit, i, key, &fresh[i]);",
           "		if (i == 0)\n			put_pair(edit, i, key, &fresh[i]);",
           "the_index_follows_the_shards", "edit"),
    Mutant("the map is told of a copy before the copy is made",
           "src/commit/steps.c", "	int r = stfs_step_run(fd, fd, step, NULL, commit);\n\n	if (r < 0 || !moves)\n		return r;\n"
           "	stfs_commit_stop(commit);\n	stfs_moves_apply(moves, step);\n	stfs_commit_go_on(commit);\n	return 0;",
           "	stfs_commit_stop(commit);\n	if (moves)\n		stfs_moves_apply(moves, step);\n	stfs_commit_go_on(commit);\n"
           "	return stfs_step_run(fd, fd, step, NULL, commit);", "bytes_are_found_at_each_call", "readers"),
    Mutant("readers are let in between a shift and the map",
           "src/commit/steps.c", "	if (r == 0 && moves)\n		stfs_moves_apply(moves, step);",
           "	stfs_commit_go_on(commit);\n	stfs_commit_stop(commit);\n	if (r == 0 && moves)\n"
           "		stfs_moves_apply(moves, step);", "bytes_are_found_at_each_call", "readers"),
    Mutant("a shift that failed is taken for one that was done",
           "src/commit/steps.c", "	if (r == 0 && moves)\n		stfs_moves_apply(moves, step);",
           "	if (moves)\n		stfs_moves_apply(moves, step);", "bytes_are_found_when_a_commit_gets_stuck", "readers"),
    Mutant("readers keep to the map of the commit before",
           "src/store/edit.c", "	anew->moves = NULL;", "", "bytes_are_found_at_each_call", "readers"),
    Mutant("a new tensor is looked for where another was written",
           "src/store/edit_readers.c", "edit->slots[part->slots[mid]].order <= slot->order",
           "edit->slots[part->slots[mid]].order < slot->order", "bytes_are_found_at_each_call", "readers"),
    Mutant("a write begins at the first of its pieces",
           "src/commit/steps.c", "		from -= skip;", "		from = 0;", "writes_begin_and_end_inside_pieces", "commit"),
    Mutant("a lent spool is closed",
           "src/store/spool.c", "	if (edit->spool_lent)\n		return;", "", "a_lent_spool_becomes_the_rescue_file", "edit"),
    Mutant("pieces of the spool are taken for a tensor that lies in it",
           "src/store/rescue.c", "slot->len && !slot->source.pieces && slot", "slot->len && slot", "a_lent_spool_becomes_the_rescue_file", "edit"),
    Mutant("hard links are not guarded",
           "src/store/guard.c", "st.st_nlink > 1", "st.st_nlink > 2", "the_guard_holds_back_what_is_shared", "edit"),
    Mutant("a truncated model is taken",
           "src/store/guard.c", "if (shard->findings.counts[STFS_RULE_TRUNCATED])", "if (false)",
           "a_tolerant_commit_closes_holes", "edit"),
    Mutant("short input counts as all of it",
           "src/store/spool.c", "return len == UINT64_MAX ? 0 : -ENODATA;", "return 0;",
           "the_spool_takes_pipes_and_says_what_is_missing", "edit"),
    # The tree: unit/test_tree*.c.
    Mutant("metadata that came during a commit counts as committed",
           "src/store/tree_commit.c", "b->metadata && tree->metadata_edits == b->metadata_edits", "b->metadata",
           "a_commit_takes_what_was_there", "tree"),
    Mutant("a tensor that got its name back is detached",
           "src/store/tree_commit.c", "if (r == 0 && node->name == STFS_NO_NUMBER) {", "if (r == 0) {",
           "a_tensor_that_gets_its_name_back_while_it_is_kept_stays", "tree_threads"),
    Mutant("layers that wait for the end of a commit are not rescued",
           "src/store/tree_commit.c", "			tree->nodes[i].content->staged = true;",
           "			tree->nodes[i].content->staged |= false;", "writes_beside_a_commit_that_failed_are_rescued", "tree"),
    Mutant("blocks of the rescue file are given back",
           "src/store/arena.c", "if (!count || is_left(arena))", "if (!count)", "what_cannot_be_committed_is_rescued", "tree"),
    Mutant("a layer that comes between hides a write in place",
           "src/store/tree_data.c", "			if (r == 0 && node->content)\n", "			if (r == 0 && node->content && false)\n",
           "a_write_in_place_is_not_hidden_by_one_that_grows", "tree_threads"),
    Mutant("a write in place does not ask for a sync",
           "src/store/tree_data.c", "	atomic_store(&tree->unsynced[shard], true);\n	return r;", "	return r;",
           "a_write_that_ends_behind_a_sync_is_synced_by_the_next", "tree_threads"),
    Mutant("who is blocked by one that is blocked is taken",
           "src/store/tree_take.c", "			suspects[count++] = heir;", "			(void)heir;",
           "who_wants_the_name_of_one_that_waits_waits_too", "tree"),
    Mutant("a tensor goes though what takes its place is left out",
           "src/store/tree_take.c", "return heir != STFS_NO_NUMBER && !tree->nodes[heir].taking;", "return false;",
           "reads_the_newest_bytes", "tree_random"),
    Mutant("what was removed while it was taken is not swept up",
           "src/store/tree_take.c", "		stfs_tree_sweep(tree, tree->takings[i].node); /* it may", "		(void)0; /* it may",
           "nothing_is_left_of_what_went_while_it_was_taken", "tree"),
    Mutant("numbers of names are lost",
           "src/store/tree_names.c", "	give_up_number(tree, number);\n}", "}",
           "temporary_names_and_nodes_are_used_again", "tree_names"),
    Mutant("a new number leaves the tensor its old node",
           "src/store/tree_change.c", "			tree->by_id[node->id] = fresh;", "			(void)fresh;",
           "every_tensor_has_its_node", "tree"),
    Mutant("a file that starts over frees what a commit has taken",
           "src/store/tree_data.c", "	if (node->taking && node->taking->frozen)\n		stfs_content_bury(fresh, node->content);\n	else\n",
           "", "a_commit_takes_what_was_there", "tree"),
    Mutant("writes go to the model in the middle of a commit",
           "src/store/tree_data.c", "!tree->staged && !tree->committing && !node->content", "!tree->staged && !node->content",
           "reads_the_newest_bytes", "tree_random"),
    Mutant("a replaced tensor is read where it was, though its new bytes are elsewhere",
           "src/store/tree_data.c", "	if (node->taking && node->taking->written) {", "	if (node->taking && node->taking->written && false) {",
           "reads_the_newest_bytes", "tree_random"),
    Mutant("a type that never fitted follows the size by rows",
           "src/store/tree_types.c", "	node->settled = view.fit == STFS_FIT_EXACT;", "	node->settled = true;",
           "reads_the_newest_bytes", "tree_random"),
    Mutant("a type settles while somebody writes",
           "src/store/tree.c", "	return node->writers == node->resting;", "	return true;",
           "a_type_settles_when_all_writers_rest", "tree"),
    Mutant("layers above a frozen one keep it under them",
           "src/store/tree_commit.c", "		above->under = NULL;\n", "", "a_commit_takes_what_was_there", "tree"),
    Mutant("a commit that was finished late is not heard of",
           "src/store/edit_reopen.c", "go_over(edit, fresh, *what != STFS_RECOVERED_OLD)", "go_over(edit, fresh, false)",
           "a_call_that_fails_costs_nothing", "tree_random"),
    Mutant("all tensors of a sharded model go",
           "src/store/tree_take.c", "		keep_one(c);\n", "		(void)keep_one;\n",
           "test_last_tensor_of_a_sharded_model", "mount/cli_sync"),
    Mutant("every small tensor takes a whole block of the room",
           "src/store/arena.c", "	return stfs_min_u64(most, disk);", "	return most + 0 * disk;",
           "test_small_tensors_take_little_of_a_small_disk", "mount/writing"),
    Mutant("what was written to the spool needs no second place",
           "src/store/arena.c", "stfs_add_overflows(written(arena), grown, &model)", "stfs_add_overflows(0 * written(arena), grown, &model)",
           "test_bytes_that_would_not_fit_twice_are_refused", "mount/writing"),
    # What the kernel remembers: mount/test_renames.py.
    Mutant("a renamed .npy goes on to be that of its old name",
           "src/fs/change.c", "	r = retire_name(fs, from->name);\n	if (r == 0)\n		r = retire_name(fs, to->name);",
           "	r = retire_name(fs, to->name);", "test_a_renamed_npy_is_no_file_of_its_old_name", "mount/renames"),
    Mutant("a mapping goes on to be that of the name",
           "src/fs/change.c", "	(void)retire_name(fs, name);", "	(void)name;",
           "test_a_mapping_of_a_npy_stays_with_its_tensor", "mount/renames"),
    Mutant("what is written to a number that was retired is lost",
           "src/fs/draft.c", "&& is_name(fs, draft->name)))", "&& (is_name(fs, draft->name) || true)))",
           "test_what_the_kernel_remembers_is_not_written_to", "mount/renames"),
    Mutant("a backup of the metadata goes on to be the metadata",
           "src/fs/fs.h", "	return ino == STFS_INO_METADATA && stfs_fs_writable(fs) ? 0 : STFS_FOREVER;",
           "	return ino == STFS_INO_METADATA && !fs ? 0 : STFS_FOREVER;",
           "test_random_renames_of_remembered_files", "mount/renames"),
    Mutant("attributes of a file that is gone are remembered as those of its name",
           "src/fs/attr.c", "	*timeout = 0; /* the kernel would", "	*timeout = STFS_FOREVER; /* the kernel would",
           "test_who_reads_a_file_that_is_gone_brings_it_not_back", "mount/renames"),
    Mutant("a name is found by the number that was retired",
           "src/store/tree_names.c", "text_of(tree, number), text_of, tree) = fresh;", "text_of(tree, number), text_of, tree) = number;",
           "a_name_gets_another_number", "tree_names"),
    Mutant("retired numbers are lost",
           "src/store/tree_names.c", "	return (name->retired || (", "	return ((", "retired_numbers_are_used_again", "tree_names"),
    Mutant("a tensor that could not be removed is not found any more",
           "src/fs/change.c", "	if (r == 0) {\n		leave_raw_name(fs, target->node);",
           "	leave_raw_name(fs, target->node);\n	if (r == 0) {",
           "test_what_a_folder_that_cannot_be_written_cannot_take", "mount/unprivileged"),
    Mutant("a signal ends the requests before the notifier",
           "src/fs/signals.c", "	take_over(SIGTERM);\n", "", "test_a_signal_ends_a_mount_that_is_busy_with_both_forms",
           "mount/programs"),
    Mutant("a removed draft is found by its name",
           "src/fs/draft.c", "		draft->removed = true;\n		stfs_draft_unlist(fs, draft);", "		draft->removed = true;",
           "test_a_removed_array_does_not_take_in_the_next", "mount/drafts"),
    Mutant("fsync of a sidecar that was there asks for no tensor",
           "src/fs/change.c", "		name = handle->draft->name;\n", "",
           "test_fsync_of_a_sidecar_commits_its_tensor", "mount/drafts"),
    Mutant("what is being written at the end of the mount is dropped",
           "src/fs/sync.c", "	stfs_draft_take_all(sync->fs);\n	r = commit", "	r = commit",
           "test_what_is_complete_at_the_end_is_committed", "mount/drafts"),
    Mutant("the last box of an axis is as large as the others",
           "src/fs/fortran.c", "stfs_min_u64(t->axes[i].most, t->axes[i].len - t->axes[i].from)", "t->axes[i].most",
           "test_an_array_in_fortran_order", "mount/drafts"),
    Mutant("the kernel's count of a name stays when nothing was created",
           "src/fs/handle.c", "	if (r < 0)\n		stfs_fs_forget(fs, handle->ino, 1);\n	return r;", "	return r;",
           "test_files_that_cannot_be_created_cost_nothing", "mount/unprivileged"),
    Mutant("an array is written to while it is taken over",
           "src/fs/draft.c", "	while (draft->busy)\n", "	while (draft->busy && false)\n",
           "what_is_written_while_it_is_taken_comes_after_it", "draft"),
    Mutant("an array in Fortran order is let go before its place is taken",
           "src/fs/draft_take.c", "	if (r < 0)\n		return r;\n	stfs_tree_hold(fs->tree);\n	stfs_tree_opened",
           "	drop_hidden(fs, draft->node);\n	draft->node = array->node;\n	if (r < 0)\n		return r;\n	stfs_tree_hold(fs->tree);\n"
           "	stfs_tree_opened", "an_array_that_was_not_taken_may_be_taken_later", "draft"),
    # Checkpoints that are written.
    Mutant("content of an archive lies wherever it comes to lie",
           "src/codec/zip_write.c", "padding = (size_t)(stfs_align_up(data, STFS_ZIP_WRITE_ALIGN) - data);",
           "padding = 0;", "aligns_the_content", "zip_write"),
    Mutant("a place of exactly 32 bits is written as it is, which means another thing",
           "src/codec/zip_write.c", "	return number >= UINT32_MAX;", "	return number > UINT32_MAX;",
           "begins_at_the_border", "zip_write"),
    Mutant("descriptors beyond 4 GiB have 32 bits",
           "src/codec/zip_write.c", "unsigned width = zip64_len(zip) ? 8 : 4;", "unsigned width = 4;",
           "passes_32_bits", "zip_write"),
    Mutant("the directory has no checksums",
           "src/codec/zip_write.c", "		memcpy(zip->directory.data + zip->central + 16, le, 4);",
           "		memset(zip->directory.data + zip->central + 16, 0, 4);", "is_read_back", "zip_write"),
    Mutant("a number's top bit is taken for its size",
           "src/codec/torch_write.c", "while (len < 8 && number >> (8 * len - 1))",
           "while (len < 8 && number >> (8 * len))", "numbers_of_every_width", "torch_write"),
    Mutant("all items of a dict are one batch",
           "src/codec/torch_write.c", "	if (*done % BATCH == 0 || *done == count)", "	if (*done == count)",
           "random_models_are_read_back", "torch_write"),
    Mutant("a value is recalled by the place behind its own",
           "src/codec/torch_write.c", "	uint32_t place = *known - 1;", "	uint32_t place = *known;",
           "random_models_are_read_back", "torch_write"),
    Mutant("strides of tensors without elements pass 63 bits",
           "src/codec/torch_write.c", " ||\n		    extent > INT64_MAX)", ")", "what_torch_cannot_have", "torch_write"),
    Mutant("a reader that closes completes what another writes",
           "src/fs/handle.c", "if (handle->draft && !handle->reads) {", "if (handle->draft) {",
           "test_a_reader_that_closes_completes_nothing", "mount/drafts"),
    Mutant("pieces that begin with a zero are left out",
           "src/base/str.h", "memcmp(bytes.ptr, bytes.ptr + 1, bytes.len - 1) == 0;",
           "memcmp(bytes.ptr, bytes.ptr + 1, 1) == 0;",
           "test_pieces_and_zeros", "mount/export"),
    Mutant("a model that changed while it was read is exported",
           "src/ops/export.c", "		if (r > 0 && behind)", "		if (r > 0 && !behind)",
           "test_a_model_that_changes_meanwhile", "mount/export"),
    Mutant("an unfinished file beside stays when it is given up",
           "src/ops/newfile.c", "	if (file->temp)\n		(void)stfs_io_unlink", "	if (!file->temp)\n		(void)stfs_io_unlink",
           "test_a_signal_leaves_nothing", "mount/export"),
    Mutant("the model's own file may be replaced by its export",
           "src/cli/export_pytorch.c", "file->old_fd >= 0 && stfs_extract", "file->old_fd < 0 && stfs_extract",
           "test_never_onto_the_model", "mount/export"),
    Mutant("strided tensors of a checkpoint are read where they do not lie",
           "src/store/checkpoint.c", "if (found->bytes == 0 || !stfs_torch_is_plain(shard->torch, found))",
           "if (found->bytes == 0)", "reads_a_checkpoint", "checkpoint"),
    Mutant("leaves are not metadata",
           "src/store/checkpoint.c", ".pair_count = leaves->count};", ".pair_count = 0};", "reads_a_checkpoint",
           "checkpoint"),
    Mutant("what looks like a checkpoint is one, whatever its header says",
           "src/store/checkpoint.c", "return word > STFS_HEADER_MAX || (", "return true || (",
           "a_safetensors_file_stays_one", "checkpoint"),
    Mutant("a checkpoint is opened for writing",
           "src/store/model.c", "if (r == 0 && flags & STFS_OPEN_WRITE && stfs_model_has_checkpoint(model))",
           "if (false && stfs_model_has_checkpoint(model))", "is_never_opened_for_writing", "checkpoint"),
    Mutant("a dry run edits a checkpoint",
           "src/store/guard.c", "if (stfs_model_has_checkpoint(edit->model))",
           "if (false && stfs_model_has_checkpoint(edit->model))", "is_never_opened_for_writing", "checkpoint"),
    Mutant("a pickle that changed underneath is not noticed",
           "src/codec/torch_zip.c", "return r < 0 ? r : memcmp(bytes, torch->bytes, torch->pickle.len) == 0;",
           "return r < 0 ? r : 1;", "test_the_pickle_is_changed", "mount/checkpoints"),
    Mutant("local headers that changed underneath are not noticed",
           "src/codec/torch_zip.c", "a->entries[i].offset != b->entries[i].offset)", "false)",
           "test_a_local_header_is_changed", "mount/checkpoints"),
    Mutant("a directory that changed underneath is not noticed",
           "src/codec/torch_zip.c", "memcmp(a->directory, b->directory, a->directory_len) != 0)", "false)",
           "test_the_directory_is_changed", "mount/checkpoints"),
    Mutant("cow takes a checkpoint",
           "src/store/tree_open.c", "options->mode == STFS_TREE_COW && stfs_model_has_checkpoint(tree->owned)",
           "false && stfs_model_has_checkpoint(tree->owned)", "test_mounted_read_only_unless_asked_otherwise",
           "mount/checkpoints"),
    Mutant("a writable mount that was asked for becomes a read-only one",
           "src/fs/fs.c", "(o->asked_rw || o->force)", "o->force",
           "test_mounted_read_only_unless_asked_otherwise", "mount/checkpoints"),
    Mutant("bytes that must be put together are zeros in a mount",
           "src/store/tree_data.c", "if (place.assembled)\n", "if (false)\n", "test_mount", "mount/checkpoints"),
    Mutant("a refused global is no danger",
           "src/ops/check.c", "file->verdict = STFS_VERDICT_DANGEROUS;", "(void)0;", "test_dangerous",
           "mount/checkpoints_check"),
    Mutant("a wrong CRC passes",
           "src/ops/scan.c", "	if (r != -EBADMSG)\n		return r;\n	return stfs_findings_add(findings, STFS_RULE_DAMAGED",
           "	if (r != -EBADMSG || true)\n		return r == -EBADMSG ? 0 : r;\n	return stfs_findings_add(findings, "
           "STFS_RULE_DAMAGED", "test_damaged", "mount/checkpoints_check"),
    Mutant("a bomb is inflated",
           "src/ops/scan.c", "	if (storage->size > *room)\n		return false;\n	*room -= storage->size;",
           "	*room -= 0;", "test_a_bomb_is_not_inflated", "mount/checkpoints_check"),
]


def failed_mount_tests(tree, build, suite, test):
    """As failed_tests(), of one test (None: there is nothing to be judged by)."""
    made = subprocess.run(["ninja", "-C", build, "src/fs/safetensorsfs", "src/cli/stfs"], capture_output=True,
                          text=True, check=False)
    if made.returncode:
        return None
    if not test:
        return []
    file = tree / f"tests/mount/test_{suite.partition('/')[2]}.py"
    ran = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "0", "--tb=no", "-rfE",
                          "-k", test, file], capture_output=True, text=True, check=False,
                         env=dict(os.environ, STFS_BUILD=str(build)))
    failed = re.findall(r"^(?:FAILED|ERROR) \S+::(\w+)", ran.stdout, re.M)
    return sorted(set(failed)) or ([f"(exit {ran.returncode})"] if ran.returncode else [])


def failed_tests(tree, build, suite, test=None):
    """Names of the tests that fail; None when the suite does not build."""
    if suite.startswith("mount/"):
        return failed_mount_tests(tree, build, suite, test)
    target = f"tests/test_{suite}"
    made = subprocess.run(["ninja", "-C", build, target], capture_output=True, text=True, check=False)
    if made.returncode:
        return None
    try:
        ran = subprocess.run([str(build / target)], capture_output=True, text=True, check=False, timeout=600,
                             env={"CK_FORK": "no", "STFS_CRASH_ROUNDS": "3", "PATH": "/usr/bin:/bin",
                                  "TMPDIR": MEMORY})
    except subprocess.TimeoutExpired:
        return ["(timeout)"]
    failed = re.findall(r"^not ok \d+ - [^:]*:[^:]*:(\w+):", ran.stdout, re.M)
    return sorted(set(failed)) or ([f"(exit {ran.returncode})"] if ran.returncode else [])


def trial(tree, build, mutant):
    """What is wrong with the tests, judged by this mutant: (None or a reason, tests that failed)."""
    path = tree / mutant.file
    text = path.read_text()
    if text.count(mutant.old) != 1:
        return f"its text stands {text.count(mutant.old)} times in {mutant.file}", []
    path.write_text(text.replace(mutant.old, mutant.new))
    try:
        failed = failed_tests(tree, build, mutant.suite, mutant.test)
    finally:
        path.write_text(text)
    if failed is None:
        return "it does not build", []
    if not failed:
        return "it survived", failed
    if mutant.test not in failed and not failed[0].startswith("("):
        return f"{mutant.test} did not notice it", failed
    return None, failed


def main(wanted):
    chosen = [m for m in MUTANTS if not wanted or m.suite in wanted or any(w in m.what for w in wanted)]
    bad = 0
    print(f"1..{len(chosen)}", flush=True)
    with tempfile.TemporaryDirectory(prefix="stfs-mutants-") as scratch:
        tree, build = pathlib.Path(scratch) / "tree", pathlib.Path(scratch) / "build"
        shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".git", "build*"))
        subprocess.run(["meson", "setup", build, tree, "-Dbuildtype=debugoptimized"], check=True,
                       stdout=subprocess.DEVNULL)
        for suite, test in sorted({(m.suite, m.test if "/" in m.suite else "") for m in chosen}):
            failed = failed_tests(tree, build, suite, test)
            if failed != []:
                sys.exit(f"Bail out! the suite {suite} fails without a mutant: {failed}")
        for number, mutant in enumerate(chosen, 1):
            reason, failed = trial(tree, build, mutant)
            bad += reason is not None
            print(f"{'not ok' if reason else 'ok'} {number} - {mutant.what}"
                  f"{': ' + reason if reason else ''} # {' '.join(failed)}", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
