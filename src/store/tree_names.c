/* SPDX-License-Identifier: MIT */
/* The names of the tree, and what gives them to nodes and takes them away. */
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

/* Names that nobody has, wants or knows. Their numbers and texts are given up when the table is made anew. */
static bool is_dead(const struct stfs_treename *name)
{
	return name->used && name->node == STFS_NO_NUMBER && !name->declared && name->lookups == 0;
}

static void bury(struct stfs_treename *name)
{
	if (name->text_owned)
		free(name->text);
	*name = (struct stfs_treename){.node = STFS_NO_NUMBER};
}

/* Room in the table for one more, twice what lives. */
static int make_room(struct stfs_tree *tree)
{
	struct stfs_nametable table = {0};
	uint32_t live = 0;
	int r;

	if (tree->table.slots && tree->table_used < tree->table_room)
		return 0;
	for (uint32_t i = 0; i < tree->name_count; i++)
		live += tree->names[i].used && !is_dead(&tree->names[i]);
	if (live >= STFS_NO_NUMBER / 8)
		return -EOVERFLOW;
	r = stfs_nametable_make(&table, &tree->key, 2 * live + 64);
	if (r < 0)
		return r;
	for (uint32_t i = 0; i < tree->name_count; i++) {
		struct stfs_treename *name = &tree->names[i];

		if (is_dead(name) && !name->unresolved)
			bury(name);
		if (name->used && !name->unresolved)
			*stfs_nametable_slot(&table, text_of(tree, i), text_of, tree) = i;
	}
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
		for (uint32_t i = 0; i < tree->hashed_count; i++)
			*stfs_nametable_slot(&table, digest_of(tree, i), digest_of, tree) = i;
		stfs_nametable_free(&tree->digests);
		tree->digests = table;
		tree->digests_room = 2 * tree->hashed_count + 16;
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

/* A number that an earlier name has given up; few are looked at, for most are in use. */
static bool reuse_number(struct stfs_tree *tree, uint32_t *number)
{
	for (uint32_t i = tree->name_count; i > 0 && i + 64 > tree->name_count; i--) {
		if (tree->names[i - 1].used)
			continue;
		*number = i - 1;
		return true;
	}
	return false;
}

int stfs_tree_add_name(struct stfs_tree *tree, struct stfs_str text, bool owned, uint32_t *number)
{
	char file[STFS_NAME_MAX + 1];
	size_t len = 0;
	int r = make_room(tree);

	if (r == 0 && !reuse_number(tree, number))
		r = take_number(tree, number);
	if (r < 0)
		return r;
	/* An escape triples a byte at the most: shorter names are never hashed. */
	if (text.len > STFS_NAME_MAX / 3)
		len = stfs_name_encode(text, file);
	if (len && stfs_name_is_hashed(stfs_str_slice(file, len)))
		r = add_digest(tree, file + len - DIGEST, *number);
	if (r < 0)
		return r;
	tree->names[*number] = (struct stfs_treename){.text = (char *)(uintptr_t)text.ptr,
						      .len = (uint32_t)text.len, .node = STFS_NO_NUMBER,
						      .used = true, .text_owned = owned};
	*stfs_nametable_slot(&tree->table, text, text_of, tree) = *number;
	tree->table_used++;
	return 0;
}

static char *copy_text(struct stfs_str text)
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
	char *text = copy_text(stem);
	int r = text ? take_number(tree, name) : -ENOMEM;

	if (r == 0)
		r = add_digest(tree, text + stem.len - DIGEST, *name);
	if (r < 0) {
		free(text);
		return r;
	}
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

	if (r < 0)
		return r;
	copy = copy_text(stfs_buf_str(&text));
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

/* Under the lock: the text of an unresolved name. */
static int resolve(struct stfs_tree *tree, struct stfs_treename *name, uint32_t number, struct stfs_str text)
{
	char *copy = copy_text(text);
	int r = copy ? make_room(tree) : -ENOMEM;

	if (r < 0) {
		free(copy);
		return r;
	}
	free(name->text);
	name->text = copy;
	name->len = (uint32_t)text.len;
	name->unresolved = false;
	*stfs_nametable_slot(&tree->table, text, text_of, tree) = number;
	tree->table_used++;
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

/* ---- Giving and taking ---- */

static void changed(struct stfs_tree *tree)
{
	tree->generation++;
	tree->staged_any = true;
}

/* T1: the node loses its name, or its scratch name. */
static void take_name(struct stfs_tree *tree, struct stfs_node *node)
{
	if (node->name != STFS_NO_NUMBER)
		tree->names[node->name].node = STFS_NO_NUMBER;
	node->name = STFS_NO_NUMBER;
	if (node->scratch) {
		tree->scratches--;
		free(node->scratch);
	}
	node->scratch = NULL;
}

/* The name is free. What was declared for it becomes the type of a node that has none. */
static void give_name(struct stfs_tree *tree, uint32_t number, uint32_t name)
{
	struct stfs_node *node = &tree->nodes[number];
	struct stfs_treename *n = &tree->names[name];

	node->name = name;
	node->hidden = node->detached = false;
	n->node = number;
	if (n->declared && !node->type && node->id == STFS_NO_TENSOR) {
		node->type = n->declared;
		node->settled = n->settled;
		n->declared = NULL;
	}
	n->text_removed = n->settled = false;
	stfs_type_free(n->declared);
	n->declared = NULL;
}

void stfs_tree_absorb(struct stfs_tree *tree, uint32_t number)
{
	struct stfs_node *node;

	stfs_tree_lock(tree);
	node = stfs_tree_get(tree, number);
	if (node)
		node->absorbed = true;
	stfs_tree_unlock(tree);
}

static void remove_node(struct stfs_tree *tree, uint32_t number)
{
	take_name(tree, &tree->nodes[number]);
	stfs_tree_sweep(tree, number);
}

/* A staged file without bytes. */
static int make_node(struct stfs_tree *tree, uint32_t *number)
{
	struct stfs_node *node;

	*number = stfs_tree_new_node(tree);
	if (*number == STFS_NO_NUMBER)
		return -ENOMEM;
	node = &tree->nodes[*number];
	node->content = stfs_content_new(tree->arena, 0, 0, NULL);
	if (!node->content) {
		stfs_tree_sweep(tree, *number);
		return -ENOMEM;
	}
	node->content->staged = true;
	stfs_node_touch(node);
	return 0;
}

static void count_open(struct stfs_node *node, bool opened)
{
	node->lookups = 1;
	node->opens = node->writers = opened;
}

int stfs_tree_create(struct stfs_tree *tree, uint32_t name, bool opened, uint32_t *number)
{
	int r;

	stfs_tree_lock(tree);
	r = stfs_tree_may_change(tree);
	if (r == 0 && tree->names[name].node != STFS_NO_NUMBER)
		r = -EEXIST;
	if (r == 0)
		r = make_node(tree, number);
	if (r == 0) {
		give_name(tree, *number, name);
		count_open(&tree->nodes[*number], opened);
		changed(tree);
	}
	stfs_tree_unlock(tree);
	if (r == 0)
		stfs_tree_tell(tree);
	return r;
}

int stfs_tree_create_scratch(struct stfs_tree *tree, struct stfs_str file, bool opened, uint32_t *number)
{
	char *text = copy_text(file);
	int r;

	if (!text)
		return -ENOMEM;
	stfs_tree_lock(tree);
	r = stfs_tree_may_change(tree);
	if (r == 0 && stfs_tree_scratch(tree, file) != STFS_NO_NUMBER)
		r = -EEXIST;
	if (r == 0)
		r = make_node(tree, number);
	if (r == 0) {
		tree->nodes[*number].scratch = stfs_steal_ptr(&text);
		tree->scratches++;
		tree->generation++;
		count_open(&tree->nodes[*number], opened);
	}
	stfs_tree_unlock(tree);
	free(text);
	return r;
}

int stfs_tree_create_hidden(struct stfs_tree *tree, uint32_t *number)
{
	int r;

	stfs_tree_lock(tree);
	r = stfs_tree_may_change(tree);
	if (r == 0)
		r = make_node(tree, number);
	if (r == 0) {
		tree->nodes[*number].hidden = true;
		tree->nodes[*number].opens = tree->nodes[*number].writers = 1;
	}
	stfs_tree_unlock(tree);
	return r;
}

/*
 * The sidecar of a tensor that is removed: a file of its own, which stays until it is removed as well. 0 or
 * -ENOMEM.
 */
static int leave_sidecar(struct stfs_tree *tree, struct stfs_treename *name)
{
	const struct stfs_node *node = &tree->nodes[name->node];
	STFS_AUTO_FREE uint64_t *dims = NULL;
	struct stfs_typing_view view;

	stfs_node_typing(tree, node, &view);
	if (view.fit == STFS_FIT_NONE || name->text_removed)
		return 0;
	dims = stfs_typing_dims(&view);
	if (!dims)
		return -ENOMEM;
	name->declared = stfs_type_make(view.dtype, dims, view.rank,
					view.other_first ? stfs_node_len(tree, node) : view.bytes);
	name->settled = node->settled;
	return name->declared ? 0 : -ENOMEM;
}

int stfs_tree_remove(struct stfs_tree *tree, uint32_t name)
{
	uint32_t number;
	int r;

	stfs_tree_lock(tree);
	r = stfs_tree_may_change(tree);
	number = stfs_tree_named(tree, name);
	if (r == 0 && number == STFS_NO_NUMBER)
		r = -ENOENT;
	if (r == 0)
		r = leave_sidecar(tree, &tree->names[name]);
	if (r == 0) {
		remove_node(tree, number);
		changed(tree);
	}
	stfs_tree_unlock(tree);
	if (r == 0)
		stfs_tree_tell(tree);
	return r;
}

int stfs_tree_remove_scratch(struct stfs_tree *tree, struct stfs_str file)
{
	uint32_t number;
	int r;

	stfs_tree_lock(tree);
	r = stfs_tree_may_change(tree);
	number = stfs_tree_scratch(tree, file);
	if (r == 0 && number == STFS_NO_NUMBER)
		r = -ENOENT;
	if (r == 0) {
		remove_node(tree, number);
		tree->generation++;
	}
	stfs_tree_unlock(tree);
	return r;
}

void stfs_tree_undeclare(struct stfs_tree *tree, uint32_t name)
{
	stfs_tree_lock(tree);
	stfs_type_free(tree->names[name].declared);
	tree->names[name].declared = NULL;
	tree->names[name].text_removed = tree->names[name].node != STFS_NO_NUMBER;
	tree->generation++;
	stfs_tree_unlock(tree);
}

/* A file without a type takes that of the one whose place it takes. 0 or -ENOMEM. */
static int inherit(struct stfs_tree *tree, struct stfs_node *node, struct stfs_node *old)
{
	struct stfs_typing_view view;
	STFS_AUTO_FREE uint64_t *dims = NULL;

	if (node->type || node->id != STFS_NO_TENSOR)
		return 0;
	stfs_node_typing(tree, old, &view);
	if (view.fit == STFS_FIT_NONE)
		return 0;
	view.other_first = false; /* the type, not the rows that it had come to have */
	dims = stfs_typing_dims(&view);
	if (!dims)
		return -ENOMEM;
	node->type = stfs_type_make(view.dtype, dims, view.rank, view.bytes);
	node->settled = old->settled;
	return node->type ? 0 : -ENOMEM;
}

int stfs_tree_rename(struct stfs_tree *tree, uint32_t number, uint32_t name, bool keep)
{
	struct stfs_node *node;
	uint32_t old;
	int r;

	stfs_tree_lock(tree);
	r = stfs_tree_may_change(tree);
	node = stfs_tree_get(tree, number);
	if (r == 0 && (!node || (!stfs_node_linked(node) && !node->hidden)))
		r = -ENOENT;
	old = stfs_tree_named(tree, name);
	if (r == 0 && keep && old != STFS_NO_NUMBER)
		r = -EEXIST;
	if (r == 0 && old != STFS_NO_NUMBER && old != number)
		r = inherit(tree, node, &tree->nodes[old]);
	if (r == 0 && old != number) {
		if (old != STFS_NO_NUMBER)
			remove_node(tree, old);
		take_name(tree, node);
		give_name(tree, number, name);
		changed(tree);
	}
	stfs_tree_unlock(tree);
	if (r == 0)
		stfs_tree_tell(tree);
	return r;
}

int stfs_tree_renumber(struct stfs_tree *tree, uint32_t number)
{
	struct stfs_node *old, *node;
	uint32_t fresh;
	int r = 0;

	stfs_tree_lock(tree);
	old = stfs_tree_get(tree, number);
	if (!old || old->opens || old->writers)
		r = -EBUSY;
	fresh = r == 0 ? stfs_tree_new_node(tree) : STFS_NO_NUMBER;
	if (r == 0 && fresh == STFS_NO_NUMBER)
		r = -ENOMEM;
	if (r == 0) {
		old = &tree->nodes[number];
		node = &tree->nodes[fresh];
		*node = *old;
		node->lookups = 0;
		*old = (struct stfs_node){.name = STFS_NO_NUMBER, .id = STFS_NO_TENSOR, .used = true,
					  .lookups = old->lookups};
		if (node->name != STFS_NO_NUMBER)
			tree->names[node->name].node = fresh;
		if (node->id != STFS_NO_TENSOR)
			tree->by_id[node->id] = fresh;
		if (node->taking)
			node->taking->node = fresh;
		stfs_tree_sweep(tree, number);
	}
	stfs_tree_unlock(tree);
	return r;
}

int stfs_tree_rename_scratch(struct stfs_tree *tree, uint32_t number, struct stfs_str file, bool keep)
{
	char *text = copy_text(file);
	struct stfs_node *node;
	uint32_t old;
	int r;

	if (!text)
		return -ENOMEM;
	stfs_tree_lock(tree);
	r = stfs_tree_may_change(tree);
	node = stfs_tree_get(tree, number);
	if (r == 0 && (!node || !stfs_node_linked(node)))
		r = -ENOENT;
	old = stfs_tree_scratch(tree, file);
	if (r == 0 && keep && old != STFS_NO_NUMBER)
		r = -EEXIST;
	if (r == 0 && old != number) {
		if (old != STFS_NO_NUMBER)
			remove_node(tree, old);
		take_name(tree, node);
		node->scratch = stfs_steal_ptr(&text);
		tree->scratches++;
		changed(tree);
	}
	stfs_tree_unlock(tree);
	free(text);
	if (r == 0)
		stfs_tree_tell(tree);
	return r;
}

/* The bytes of a hidden node become those of another, which keeps its place in model and directory. */
static void swap_content(struct stfs_tree *tree, struct stfs_node *node, struct stfs_node *hidden)
{
	struct stfs_content *fresh = hidden->content;

	hidden->content = NULL;
	/* What a commit has taken stays until it is over. */
	if (node->taking && node->taking->frozen)
		stfs_content_bury(fresh, node->content);
	else
		stfs_content_free(node->content);
	node->content = fresh;
	node->detached = false;
}

int stfs_tree_adopt(struct stfs_tree *tree, uint32_t name, uint32_t *number, uint64_t skip,
		    const struct stfs_wanted_type *wanted)
{
	struct stfs_type *type = stfs_type_make(wanted->dtype, wanted->dims, wanted->rank, wanted->bytes);
	struct stfs_node *node, *hidden;
	uint32_t old;
	int r;

	if (!type)
		return -ENOMEM;
	stfs_tree_lock(tree);
	r = stfs_tree_may_change(tree);
	if (r == 0) {
		node = hidden = &tree->nodes[*number];
		stfs_content_cut_front(hidden->content, skip);
		old = tree->names[name].node;
		if (old != STFS_NO_NUMBER) {
			node = &tree->nodes[old];
			swap_content(tree, node, hidden);
			*number = old;
		} else {
			give_name(tree, *number, name);
			node->lookups = 0;
		}
		stfs_type_free(node->type);
		node->type = stfs_steal_ptr(&type);
		node->settled = false;
		stfs_node_settle(tree, node);
		stfs_node_touch(node);
		changed(tree);
	}
	stfs_tree_unlock(tree);
	stfs_type_free(type);
	if (r == 0)
		stfs_tree_tell(tree);
	return r;
}
