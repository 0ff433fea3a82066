#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Puts faults into the sources, one at a time, and tells which test notices each.

    tests/mutants.py [SUITE | WORD ...]

A mutant names a file, the exact text there, what stands in its place, the unit suite to run
(tests/unit/test_SUITE.c) and the test that must fail in it; others may fail as well. The tree is copied
to a temporary directory and built there once. A mutant that no test notices, one that its own test does
not notice, and a text that is not found exactly once are failures: TAP, a case a mutant.
"""
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
from typing import NamedTuple

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
           "src/layout/search.c", "if (hole || !before) {", "if (first == 0) {",
           "small_first_tensors_make_room_for_the_header"),
    Mutant("readers do not hold a plan back",
           "src/layout/plan.c", "r == 0 && !file->replace_only && (!view->block", "r == 0 && (!view->block",
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
]


def failed_tests(build, suite):
    """Names of the tests that fail; None when the suite does not build."""
    target = f"tests/test_{suite}"
    made = subprocess.run(["ninja", "-C", build, target], capture_output=True, text=True, check=False)
    if made.returncode:
        return None
    try:
        ran = subprocess.run([str(build / target)], capture_output=True, text=True, check=False, timeout=600,
                             env={"CK_FORK": "no", "PATH": "/usr/bin:/bin"})
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
        failed = failed_tests(build, mutant.suite)
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
        for suite in sorted({m.suite for m in chosen}):
            if failed_tests(build, suite) != []:
                sys.exit(f"Bail out! the suite {suite} fails without a mutant")
        for number, mutant in enumerate(chosen, 1):
            reason, failed = trial(tree, build, mutant)
            bad += reason is not None
            print(f"{'not ok' if reason else 'ok'} {number} - {mutant.what}"
                  f"{': ' + reason if reason else ''} # {' '.join(failed)}", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
