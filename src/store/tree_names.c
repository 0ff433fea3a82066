/* SPDX-License-Identifier: MIT */
/* The names of the tree: their tables, finding and making them. */
#include <errno.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "format/names.h"
#include "store/tree_internal.h"

#define DIGEST 32

/* ---- The tables ---- */

static struct stfs_str text_of(const void *owner, uint32_t number)
{
	const struct stfs_tree *tree = owner;

	return stfs_str_slice(tree->names[number].text, tree->names[number].len);
}

struct stfs_str stfs_tree_text(const struct stfs_tree *tree, uint32_t name)
{
	return text_of(tree, name);
}

static struct stfs_str digest_of(const void *owner, uint32_t number)
{
	const struct stfs_tree *tree = owner;

	return stfs_str_slice(tree->hashed[number].digest, DIGEST);
}

uint32_t stfs_tree_lookup(const struct stfs_tree *tree, struct stfs_str text)
{
	return tree->table.slots ? *stfs_nametable_slot(&tree->table, text, text_of, tree) : STFS_NO_NUMBER;
}

/*
 * Names that nobody has, wants or knows, and retired numbers. Their numbers and texts are given up when the table is
 * made anew.
 */
static bool is_dead(const struct stfs_treename *name)
{
	return (name->retired || (name->used && name->node == STFS_NO_NUMBER && !name->declared)) && name->lookups == 0;
}

/* Without memory for it the number is lost, no more. */
static void give_up_number(struct stfs_tree *tree, uint32_t number)
{
	uint32_t *grown, cap = tree->free_name_cap ? 2 * tree->free_name_cap : 64;

	if (tree->free_name_count == tree->free_name_cap) {
		grown = reallocarray(tree->free_names, cap, sizeof(*grown));
		if (!grown)
			return;
		tree->free_names = grown;
		tree->free_name_cap = cap;
	}
	tree->free_names[tree->free_name_count++] = number;
}

static void bury(struct stfs_tree *tree, uint32_t number)
{
	struct stfs_treename *name = &tree->names[number];

	if (name->text_owned)
		free(name->text);
	*name = (struct stfs_treename){.node = STFS_NO_NUMBER};
	give_up_number(tree, number);
}

/* Puts all digests into a table that is large enough. */
static void use_digests(struct stfs_tree *tree, const struct stfs_nametable *table, uint32_t room)
{
	for (uint32_t i = 0; i < tree->hashed_count; i++)
		*stfs_nametable_slot(table, digest_of(tree, i), digest_of, tree) = i;
	stfs_nametable_free(&tree->digests);
	tree->digests = *table;
	tree->digests_room = room;
}

/* Gives up the dead. */
static void bury_all(struct stfs_tree *tree)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < tree->name_count; i++)
		if (is_dead(&tree->names[i]))
			bury(tree, i);
	for (uint32_t i = 0; i < tree->hashed_count; i++)
		if (tree->names[tree->hashed[i].name].used)
			tree->hashed[kept++] = tree->hashed[i];
	tree->hashed_count = kept;
}

/* Room in the tables for one more, twice what lives. */
static int make_room(struct stfs_tree *tree)
{
	struct stfs_nametable table = {0}, digests = {0};
	uint32_t live = 0, hashed = 2 * tree->hashed_count + 16;
	int r;

	if (tree->table.slots && tree->table_used < tree->table_room)
		return 0;
	for (uint32_t i = 0; i < tree->name_count; i++)
		live += tree->names[i].used && !is_dead(&tree->names[i]);
	if (live >= STFS_NO_NUMBER / 8)
		return -EOVERFLOW;
	r = stfs_nametable_make(&table, &tree->key, 2 * live + 64);
	if (r == 0)
		r = stfs_nametable_make(&digests, &tree->key, hashed);
	if (r < 0) {
		stfs_nametable_free(&table);
		return r;
	}
	bury_all(tree);
	use_digests(tree, &digests, hashed);
	for (uint32_t i = 0; i < tree->name_count; i++)
		if (tree->names[i].used && !tree->names[i].unresolved)
			*stfs_nametable_slot(&table, text_of(tree, i), text_of, tree) = i;
	stfs_nametable_free(&tree->table);
	tree->table = table;
	tree->table_room = 2 * live + 64;
	tree->table_used = live;
	return 0;
}

static int add_digest(struct stfs_tree *tree, const char *digest, uint32_t name)
{
	struct stfs_nametable table = {0};
	struct stfs_hashed *grown;
	int r;

	if (tree->hashed_count == tree->hashed_cap) {
		uint32_t cap = tree->hashed_cap ? 2 * tree->hashed_cap : 16;

		grown = reallocarray(tree->hashed, cap, sizeof(*grown));
		if (!grown)
			return -ENOMEM;
		tree->hashed = grown;
		tree->hashed_cap = cap;
	}
	if (!tree->digests.slots || tree->hashed_count == tree->digests_room) {
		r = stfs_nametable_make(&table, &tree->key, 2 * tree->hashed_count + 16);
		if (r < 0)
			return r;
		use_digests(tree, &table, 2 * tree->hashed_count + 16);
	}
	memcpy(tree->hashed[tree->hashed_count].digest, digest, DIGEST);
	tree->hashed[tree->hashed_count].name = name;
	*stfs_nametable_slot(&tree->digests, stfs_str_slice(digest, DIGEST), digest_of, tree) =
		tree->hashed_count++;
	return 0;
}

/* A free number for a name. */
static int take_number(struct stfs_tree *tree, uint32_t *number)
{
	struct stfs_treename *names;
	uint32_t cap;

	if (tree->free_name_count) {
		*number = tree->free_names[--tree->free_name_count];
		return 0;
	}
	if (tree->name_count == tree->name_cap) {
		cap = tree->name_cap ? 2 * tree->name_cap : 64;
		names = reallocarray(tree->names, cap, sizeof(*names));
		if (!names)
			return -ENOMEM;
		tree->names = names;
		tree->name_cap = cap;
	}
	*number = tree->name_count++;
	tree->names[*number] = (struct stfs_treename){.node = STFS_NO_NUMBER};
	return 0;
}

int stfs_tree_add_name(struct stfs_tree *tree, struct stfs_str text, bool owned, uint32_t *number)
{
	char file[STFS_NAME_MAX + 1];
	size_t len = 0;
	int r = make_room(tree);

	if (r == 0)
		r = take_number(tree, number);
	if (r < 0)
		return r;
	/* An escape triples a byte at the most: shorter names are never hashed. */
	if (text.len > STFS_NAME_MAX / 3)
		len = stfs_name_encode(text, file);
	if (len && stfs_name_is_hashed(stfs_str_slice(file, len)))
		r = add_digest(tree, file + len - DIGEST, *number);
	if (r < 0) {
		give_up_number(tree, *number);
		return r;
	}
	tree->names[*number] = (struct stfs_treename){.text = (char *)(uintptr_t)text.ptr,
						      .len = (uint32_t)text.len, .node = STFS_NO_NUMBER,
						      .used = true, .text_owned = owned};
	*stfs_nametable_slot(&tree->table, text, text_of, tree) = *number;
	tree->table_used++;
	return 0;
}

char *stfs_tree_copy_text(struct stfs_str text)
{
	char *copy = malloc(text.len + 1);

	if (!copy)
		return NULL;
	if (text.len)
		memcpy(copy, text.ptr, text.len);
	copy[text.len] = '\0';
	return copy;
}

/* ---- Finding ---- */

bool stfs_tree_name(const struct stfs_tree *tree, uint32_t name, struct stfs_str *text)
{
	if (name >= tree->name_count || !tree->names[name].used)
		return false;
	*text = text_of(tree, name);
	return true;
}

size_t stfs_tree_file_name(const struct stfs_tree *tree, uint32_t name, char out[])
{
	const struct stfs_treename *n = &tree->names[name];

	if (!n->unresolved)
		return stfs_name_encode(text_of(tree, name), out);
	memcpy(out, n->text, n->len + 1);
	return n->len;
}

static int find_hashed(const struct stfs_tree *tree, struct stfs_str stem, uint32_t *name)
{
	struct stfs_str digest = stfs_str_slice(stem.ptr + stem.len - DIGEST, DIGEST);
	char file[STFS_NAME_MAX + 1];
	uint32_t found = tree->digests.slots
				 ? *stfs_nametable_slot(&tree->digests, digest, digest_of, tree)
				 : STFS_NO_NUMBER;
	size_t len;

	if (found == STFS_NO_NUMBER)
		return -ENOENT;
	*name = tree->hashed[found].name;
	len = stfs_tree_file_name(tree, *name, file); /* the prefix must be right as well */
	return stfs_str_equal(stem, stfs_str_slice(file, len)) ? 0 : -ENOENT;
}

int stfs_tree_find(const struct stfs_tree *tree, struct stfs_str stem, uint32_t *name)
{
	STFS_AUTO_BUF struct stfs_buf text = STFS_BUF_INIT;
	int r;

	*name = STFS_NO_NUMBER;
	if (stfs_name_is_hashed(stem))
		return find_hashed(tree, stem, name);
	r = stfs_name_decode(stem, &text);
	if (r < 0)
		return r;
	*name = stfs_tree_lookup(tree, stfs_buf_str(&text));
	return *name == STFS_NO_NUMBER ? -ENOENT : 0;
}

uint32_t stfs_tree_named(const struct stfs_tree *tree, uint32_t name)
{
	return name < tree->name_count && tree->names[name].used ? tree->names[name].node : STFS_NO_NUMBER;
}

/* There are few: temporaries of editors and of rsync. */
uint32_t stfs_tree_scratch(const struct stfs_tree *tree, struct stfs_str file)
{
	for (uint32_t i = 0; tree->scratches && i < tree->node_count; i++)
		if (tree->nodes[i].used && tree->nodes[i].scratch && stfs_str_is(file, tree->nodes[i].scratch))
			return i;
	return STFS_NO_NUMBER;
}

void stfs_tree_know_name(struct stfs_tree *tree, uint32_t name)
{
	if (name < tree->name_count)
		tree->names[name].lookups++;
}

void stfs_tree_forget_name(struct stfs_tree *tree, uint32_t name, uint64_t times)
{
	stfs_tree_hold(tree);
	if (name < tree->name_count)
		tree->names[name].lookups -= times;
	stfs_tree_release(tree);
}

/* ---- Making names ---- */

/* A name that only its digest tells: until a sidecar says what it is. */
static int add_unresolved(struct stfs_tree *tree, struct stfs_str stem, uint32_t *name)
{
	char *text = stfs_tree_copy_text(stem);
	int r = text ? make_room(tree) : -ENOMEM;

	if (r == 0)
		r = take_number(tree, name);
	if (r < 0) {
		free(text);
		return r;
	}
	r = add_digest(tree, text + stem.len - DIGEST, *name);
	if (r < 0) {
		give_up_number(tree, *name);
		free(text);
		return r;
	}
	tree->table_used++; /* its text will stand there */
	tree->names[*name] = (struct stfs_treename){.text = text, .len = (uint32_t)stem.len,
						    .node = STFS_NO_NUMBER, .used = true, .text_owned = true,
						    .unresolved = true};
	return 0;
}

static int add_decoded(struct stfs_tree *tree, struct stfs_str stem, uint32_t *name)
{
	STFS_AUTO_BUF struct stfs_buf text = STFS_BUF_INIT;
	char *copy;
	int r = stfs_name_decode(stem, &text);

	if (r == 0 && stfs_str_is(stfs_buf_str(&text), "__metadata__"))
		r = -EINVAL; /* no header can hold it, and so no commit that has it could be made */
	if (r < 0)
		return r;
	copy = stfs_tree_copy_text(stfs_buf_str(&text));
	if (!copy)
		return -ENOMEM;
	r = stfs_tree_add_name(tree, stfs_str_slice(copy, text.len), true, name);
	if (r < 0)
		free(copy);
	return r;
}

int stfs_tree_make_name(struct stfs_tree *tree, struct stfs_str stem, uint32_t *name)
{
	int r;

	stfs_tree_lock(tree);
	r = stfs_tree_find(tree, stem, name);
	if (r == -ENOENT)
		r = stfs_name_is_hashed(stem) ? add_unresolved(tree, stem, name)
					      : add_decoded(tree, stem, name);
	if (r == 0)
		tree->names[*name].lookups++;
	stfs_tree_unlock(tree);
	return r;
}

/* The tables lead to the fresh number, the old one nowhere. */
static void move_name(struct stfs_tree *tree, uint32_t number, uint32_t fresh)
{
	struct stfs_treename *name = &tree->names[number];
	char file[STFS_NAME_MAX + 1];
	size_t len = name->len > STFS_NAME_MAX / 3 || name->unresolved ? stfs_tree_file_name(tree, number, file) : 0;

	if (!name->unresolved)
		*stfs_nametable_slot(&tree->table, text_of(tree, number), text_of, tree) = fresh;
	if (len && stfs_name_is_hashed(stfs_str_slice(file, len)))
		tree->hashed[*stfs_nametable_slot(&tree->digests, stfs_str_slice(file + len - DIGEST, DIGEST), digest_of,
						  tree)].name = fresh;
	if (name->node != STFS_NO_NUMBER)
		tree->nodes[name->node].name = fresh;
	tree->names[fresh] = *name;
	tree->names[fresh].lookups = 0;
	*name = (struct stfs_treename){.node = STFS_NO_NUMBER, .retired = true, .lookups = name->lookups};
}

int stfs_tree_retire_name(struct stfs_tree *tree, uint32_t number)
{
	uint32_t fresh;
	int r = 0;

	stfs_tree_lock(tree);
	if (tree->names[number].used && tree->names[number].lookups) {
		r = make_room(tree);
		if (r == 0)
			r = take_number(tree, &fresh);
		if (r == 0) {
			move_name(tree, number, fresh);
			tree->table_used++; /* so that retired ones are given up as well */
		}
	}
	stfs_tree_unlock(tree);
	return r;
}

/* Under the lock: the text of an unresolved name. */
static int resolve(struct stfs_tree *tree, struct stfs_treename *name, uint32_t number, struct stfs_str text)
{
	char *copy = stfs_tree_copy_text(text);

	if (!copy)
		return -ENOMEM;
	free(name->text);
	name->text = copy;
	name->len = (uint32_t)text.len;
	name->unresolved = false;
	*stfs_nametable_slot(&tree->table, text, text_of, tree) = number;
	return 0;
}

int stfs_tree_resolve_name(struct stfs_tree *tree, uint32_t number, struct stfs_str text, struct stfs_err *err)
{
	char file[STFS_NAME_MAX + 1], own[STFS_NAME_MAX + 1], quoted[STFS_QUOTED_MAX];
	size_t len = stfs_name_encode(text, file), own_len;
	int r = 0;

	stfs_tree_lock(tree);
	own_len = stfs_tree_file_name(tree, number, own);
	if (!stfs_str_equal(stfs_str_slice(file, len), stfs_str_slice(own, own_len)))
		r = stfs_err_set(err, -EINVAL, STFS_NO_POSITION, "\"name\" is \"%s\", whose file name is not "
				 "this one but %s", stfs_quote(text, quoted), file);
	else if (tree->names[number].unresolved)
		r = resolve(tree, &tree->names[number], number, text);
	stfs_tree_unlock(tree);
	return r;
}
