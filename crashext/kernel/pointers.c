/*
 * The loop over every word of memory: which words lead to nodes, and what these words are in.
 * analysis/reach/by_arrays.py does the same with numpy, and says why at each step.
 */
#include <string.h>

#include "targets.h"

/* What words are in. */
struct sources {
	struct by_frame wanted;		/* page frames */
	struct by_frame used;
	struct table own;		/* addresses of what describes areas */
	const int32_t *own_area;	/* row of which; -1: of no one */
	const int64_t *area_row;	/* of nodes that are areas */
	const int64_t *block_first;	/* page frame of nodes that are blocks */
	struct table silent;		/* offsets where ranges begin that hold nothing */
	const uint64_t *silent_end;
	struct table dead;		/* page frames with dead parts of stacks */
	const int64_t *dead_part;	/* begin and end in the page */
	struct table stale;		/* page frames of which the first word alone is in use */
	struct table map;		/* offsets where pieces of the memory map begin */
	const uint64_t *map_end;
	const int64_t *map_pfn;
	const uint64_t *links;		/* begin and end of members that link tasks to tasks */
	int64_t links_count;
	const uint8_t *bookkeeping;	/* slabs whose objects point at everything */
	uint64_t bookkeeping_word;	/* but for this one */
	uint64_t vector;		/* where in a struct page a slab's vector of cgroups is */
};

/* Those of "PAGE" point by a struct page. by_arrays.py has them in this order. */
enum kind {
	IN_SLAB, IN_NODE,
	IN_MAP, IN_SLAB_PAGE, IN_NODE_PAGE, IN_MAP_PAGE,
	DEAD,
	IN_MAYBE_FREE, ROOT, IN_MAYBE_FREE_PAGE, ROOT_PAGE,
	KINDS, NONE = KINDS,
};

/* Arrays have room for as many as there are words, `work` for seven times as many and 16 more. */
struct found {
	int32_t *from;	/* node, or index of a word */
	int32_t *to;	/* node */
	int32_t *work;
	int64_t begin[KINDS], count[KINDS];	/* those of each kind, in the order of memory */
};

enum where { ELSEWHERE, SLAB, NODE, MAP };

/* The page that a word is in. */
struct page {
	enum where where;
	int32_t row, holder;
	int stale;
	uint64_t dead_begin, dead_end;
};

/* Page frame whose struct page is at an offset; -1 outside of the memory map. */
static int64_t described(const struct sources *in, uint64_t page_struct, uint64_t where,
			 uint64_t *within)
{
	int64_t at = not_above(in->map, where) - 1;

	if (at < 0 || where >= in->map_end[at])
		return NOTHING;
	*within = (where - in->map.key[at]) % page_struct;
	return in->map_pfn[at] + (int64_t)((where - in->map.key[at]) / page_struct);
}

static struct page page_at(const struct sources *in, const struct targets *to, uint64_t frame)
{
	int shift = to->slots.page_shift;
	uint64_t begin = frame << shift, end = (frame + 1) << shift, within;
	struct page page = { ELSEWHERE, NOTHING, NOTHING, 0, 0, 0 };
	int64_t at = below(in->dead, frame);

	page.row = value_at(&to->slots.row_of_page, frame);
	page.holder = value_at(&to->of_frame, frame);
	if (page.row >= 0)
		page.where = SLAB;
	else if (page.holder >= 0)
		page.where = NODE;
	else if (described(in, to->page_struct, begin, &within) >= 0 ||
		 described(in, to->page_struct, end - 8, &within) >= 0)
		page.where = MAP;
	page.stale = page.where == NODE && has(in->stale, frame);
	if (at < in->dead.length && in->dead.key[at] == frame) {
		page.dead_begin = begin + (uint64_t)in->dead_part[2 * at];
		page.dead_end = begin + (uint64_t)in->dead_part[2 * at + 1];
	}
	return page;
}

/* Whether what is at an address points at a node only because it describes it. */
static int describes(const struct sources *in, const struct targets *to, uint64_t address,
		     int32_t node)
{
	int64_t at;

	if (node < to->first_area || node >= to->first_block)
		return 0;
	at = below(in->own, address);
	if (at == in->own.length || in->own.key[at] != address)
		return 0;
	return in->own_area[at] == NOTHING || in->own_area[at] == in->area_row[node - to->first_area];
}

static enum kind in_slab(const struct sources *in, const struct targets *to,
			 const struct page *page, uint64_t where, struct lead lead, int32_t *from)
{
	uint64_t within;
	int64_t slot = slot_in(&to->slots, page->row, where, &within);

	if (slot < 0)
		return NONE;
	if (lead.node < to->first_area && to->of_tasks[page->row] && to->of_tasks[lead.row])
		for (int64_t i = 0; i < in->links_count; i++)
			if (within >= in->links[2 * i] && within < in->links[2 * i + 1])
				return NONE;
	if (in->bookkeeping[page->row] && within != in->bookkeeping_word)
		return NONE;
	if (describes(in, to, to->direct + where - within, lead.node))
		return NONE;
	*from = (int32_t)slot;
	if (to->state[slot] == to->allocated)
		return slot == lead.node ? NONE : IN_SLAB;
	return to->state[slot] == to->unknown ? IN_MAYBE_FREE : NONE;
}

/* A word of an area or of a block of pages, or of its struct page. */
static enum kind in_node(const struct sources *in, const struct targets *to, int32_t holder,
			 struct lead lead, int32_t *from)
{
	uint64_t start;

	*from = holder;
	if (holder >= to->first_block)
		start = to->direct + ((uint64_t)in->block_first[holder - to->first_block]
				      << to->slots.page_shift);
	else
		start = to->areas.key[in->area_row[holder - to->first_area]];
	return holder == lead.node || describes(in, to, start, lead.node) ? NONE : IN_NODE;
}

/* A struct page speaks for the node that its page is of; that of a free page for none. */
static enum kind in_map(const struct sources *in, const struct targets *to, uint64_t where,
			struct lead lead, int32_t *from)
{
	uint64_t within = 0, last = (uint64_t)to->slots.row_of_page.length - 1, at;
	int64_t frame = described(in, to->page_struct, where, &within);
	int32_t holder, row;

	if (frame < 0 || frame >= to->of_frame.length)
		return ROOT;
	holder = value_at(&to->of_frame, (uint64_t)frame);
	if (holder >= to->first_block && in->block_first[holder - to->first_block] == frame)
		return in_node(in, to, holder, lead, from) == NONE ? NONE : IN_MAP;
	if (holder >= 0 || (lead.node >= to->first_area && !is_set(&in->used, (uint64_t)frame)))
		return NONE;
	at = (uint64_t)frame < last ? (uint64_t)frame : last;
	row = value_at(&to->slots.row_of_page, at);
	if (row >= 0 && lead.node < to->first_area && lead.row == row && within != in->vector)
		return NONE;
	return ROOT;
}

static enum kind sorted(const struct sources *in, const struct targets *to,
			const struct page *page, uint64_t where, struct lead lead, int silent,
			int32_t *from)
{
	enum kind kind = ROOT;

	int dead = where >= page->dead_begin && where < page->dead_end;

	if (page->where == NODE) {
		if (dead)
			return DEAD;	/* a stack of pages, as all are before VMAP_STACK */
		if (page->stale && (where & ((1ull << to->slots.page_shift) - 1)) >= 8)
			return NONE;
		return in_node(in, to, page->holder, lead, from);
	}
	if (page->where == SLAB)
		kind = silent ? NONE : in_slab(in, to, page, where, lead, from);
	else if (page->where == MAP)
		kind = in_map(in, to, where, lead, from);
	if (kind != ROOT && kind != IN_MAYBE_FREE)
		return kind;
	if (silent)
		return NONE;
	return dead ? DEAD : kind;
}

/* Of words that point at one node the first stays: how many are left. */
static int64_t once(int32_t *from, int32_t *to, int64_t count, int32_t *seen)
{
	int64_t size = 16, left = 0;

	while (size < 2 * count)
		size *= 2;
	memset(seen, 0xff, (size_t)size * sizeof(*seen));
	for (int64_t i = 0; i < count; i++) {
		uint64_t at = ((uint32_t)to[i] * 0x9e3779b1u) & (uint64_t)(size - 1);

		while (seen[at] != NOTHING && seen[at] != to[i])
			at = (at + 1) & (uint64_t)(size - 1);
		if (seen[at] == to[i])
			continue;
		seen[at] = to[i];
		from[left] = from[i];
		to[left++] = to[i];
	}
	return left;
}

static enum kind by_page(enum kind kind)
{
	switch (kind) {
	case IN_SLAB: return IN_SLAB_PAGE;
	case IN_NODE: return IN_NODE_PAGE;
	case IN_MAP: return IN_MAP_PAGE;
	case IN_MAYBE_FREE: return IN_MAYBE_FREE_PAGE;
	case ROOT: return ROOT_PAGE;
	default: return kind;
	}
}

/* Those of each kind in a row, and of roots each target's first; how many in all were roots. */
static int64_t by_kind(struct found *out, const int32_t *from, const int32_t *to,
		       const int32_t *kinds, int64_t count, int32_t *work)
{
	int64_t next[KINDS] = { 0 }, at = 0, roots = 0;

	memset(out->count, 0, sizeof(out->count));
	for (int64_t i = 0; i < count; i++)
		out->count[kinds[i]]++;
	for (int kind = 0; kind < KINDS; kind++) {
		next[kind] = out->begin[kind] = at;
		at += out->count[kind];
	}
	for (int64_t i = 0; i < count; i++) {
		at = next[kinds[i]]++;
		out->from[at] = from[i];
		out->to[at] = to[i];
	}
	for (int kind = IN_MAYBE_FREE; kind < KINDS; kind++) {
		at = out->begin[kind];
		roots += out->count[kind];
		if (out->count[kind])
			out->count[kind] = once(out->from + at, out->to + at, out->count[kind],
						work);
	}
	return roots;
}

/*
 * Pointers among words that begin at an offset of the direct map, sorted by what they are in.
 * Returns how many words in all are roots.
 */
int64_t crashext_pointers(const struct targets *to, const struct sources *in,
			  const uint64_t *words, int64_t count, uint64_t offset,
			  struct found *out)
{
	int32_t *from = out->work, *node = from + count, *kinds = node + count;
	int shift = to->slots.page_shift;
	int64_t silent = not_above(in->silent, offset), found = 0;
	uint64_t before = 0;
	struct lead lead = { NOTHING, NOTHING, 0 };

	for (int64_t i = 0; i < count;) {
		uint64_t frame = (offset + 8 * (uint64_t)i) >> shift;
		int64_t stop = (int64_t)((((frame + 1) << shift) - offset) / 8);
		struct page page;
		int known = 0;

		if (stop > count)
			stop = count;
		if (!is_set(&in->wanted, frame))
			i = stop;
		for (; i < stop; i++) {
			uint64_t word = words[i], where = offset + 8 * (uint64_t)i;
			enum kind kind;
			int hushed;

			if (word - to->lowest >= to->span)
				continue;
			if (word != before) {
				/* Objects in a row often hold one pointer. */
				before = word;
				lead = follow(to, word);
			}
			if (lead.node == NOTHING ||
			    holds_nothing(to, words, count, i, to->direct + offset))
				continue;
			if (!known) {
				page = page_at(in, to, frame);
				known = 1;
			}
			while (silent < in->silent.length && in->silent.key[silent] <= where)
				silent++;
			hushed = silent > 0 && where < in->silent_end[silent - 1];
			kind = sorted(in, to, &page, where, lead, hushed, &from[found]);
			if (kind == NONE)
				continue;
			if (kind == DEAD || kind == ROOT || kind == IN_MAYBE_FREE)
				from[found] = (int32_t)i;
			node[found] = lead.node;
			kinds[found++] = lead.by_page ? by_page(kind) : kind;
		}
	}
	return by_kind(out, from, node, kinds, found, kinds + found);
}
