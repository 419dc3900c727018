/*
 * What words lead to: slots, areas, and blocks of pages. analysis/reach/leads.py says why.
 */
#ifndef CRASHEXT_TARGETS_H
#define CRASHEXT_TARGETS_H

#include "compiled.h"

/* Ascending numbers, to each of which something belongs. */
struct table {
	const uint64_t *key;
	int64_t length;
};

/* What pointers lead to. */
struct targets {
	struct slots slots;
	struct by_frame of_frame;	/* area or block that has a page frame */
	const uint8_t *state;		/* of each slot */
	const uint8_t *of_tasks;	/* of each slab */
	const uint64_t *poison;		/* what follows a word that holds nothing */
	int64_t poisons;
	uint64_t code_start, code_end;	/* addresses of functions */
	uint64_t direct;		/* address of page frame 0 */
	uint64_t lowest;		/* no word below leads to anything */
	uint64_t span;			/* nor one that is so much higher */
	struct table areas;		/* by start */
	const uint64_t *area_end;
	const int32_t *area_node;	/* -1: is none */
	uint64_t map_start, map_end;	/* addresses of struct pages */
	struct table map_blocks;	/* of the memory map, by address */
	const int64_t *map_order;	/* whose page frames each is of; NULL: in order */
	const uint64_t *map_pfn;
	const uint64_t *map_pages;
	uint64_t page_struct;		/* sizeof(struct page) */
	int32_t first_area;		/* nodes before are slots */
	int32_t first_block;
	uint8_t allocated, unknown;	/* values of state */
};

/* A node, and what else is known of a pointer to it. */
struct lead {
	int32_t node;
	int32_t row;		/* slab of a slot */
	int by_page;
};

/* How many keys are below a value, or not above it. */
static inline int64_t below(struct table table, uint64_t value)
{
	int64_t low = 0, high = table.length;

	while (low < high) {
		int64_t middle = low + (high - low) / 2;

		if (table.key[middle] < value)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static inline int64_t not_above(struct table table, uint64_t value)
{
	return value == UINT64_MAX ? table.length : below(table, value + 1);
}

static inline int has(struct table table, uint64_t value)
{
	int64_t at = below(table, value);

	return at < table.length && table.key[at] == value;
}

static inline int32_t area_at(const struct targets *to, uint64_t word)
{
	int64_t at = not_above(to->areas, word) - 1;

	return at >= 0 && word < to->area_end[at] ? to->area_node[at] : NOTHING;
}

/* Block of pages whose struct page a word leads into; the area there where that is none. */
static inline int32_t block_at(const struct targets *to, uint64_t word)
{
	int64_t at = not_above(to->map_blocks, word) - 1;
	uint64_t inside, frame;
	int32_t node;

	if (at < 0)
		return area_at(to, word);
	inside = (word - to->map_blocks.key[at]) / to->page_struct;
	if (to->map_order)
		at = to->map_order[at];
	frame = to->map_pfn[at] + inside;
	if (inside >= to->map_pages[at] || frame >= (uint64_t)to->of_frame.length)
		return area_at(to, word);
	node = value_at(&to->of_frame, frame);
	return node >= to->first_block ? node : NOTHING;
}

static inline struct lead follow(const struct targets *to, uint64_t word)
{
	uint64_t offset = word - to->direct, frame = offset >> to->slots.page_shift, within;
	struct lead lead = { NOTHING, NOTHING, 0 };
	int64_t slot;

	if (frame >= (uint64_t)to->slots.row_of_page.length) {
		int in_map = word >= to->map_start && word < to->map_end;

		lead.node = in_map ? block_at(to, word) : area_at(to, word);
		lead.by_page = in_map && lead.node >= to->first_block;
		return lead;
	}
	lead.row = value_at(&to->slots.row_of_page, frame);
	slot = lead.row < 0 ? NOTHING : slot_in(&to->slots, lead.row, offset, &within);
	if (slot < 0) {
		lead.node = value_at(&to->of_frame, frame);
		return lead;
	}
	if (to->state[slot] != to->allocated)
		return lead;
	/* A semaphore remembers who read last, with flags in the low bits: it holds no task. */
	if ((word & 7) && within < 8 && to->of_tasks[lead.row])
		return lead;
	lead.node = (int32_t)slot;
	return lead;
}

/* Whether words[at] is the last one before a timer that ran out: see leftovers.py. */
static inline int before_timer(const struct targets *to, const uint64_t *words, int64_t last,
			       int64_t at)
{
	if (at + 4 > last)
		return 1;
	return words[at + 2] == 0 && words[at + 4] >= to->code_start &&
	       words[at + 4] < to->code_end;
}

static inline int holds_nothing(const struct targets *to, const uint64_t *words, int64_t count,
			 int64_t at, uint64_t start)
{
	int64_t last = count - 1;
	uint64_t following = words[at < last ? at + 1 : last];

	for (int64_t i = 0; i < to->poisons; i++)
		if (following == to->poison[i] && !before_timer(to, words, last, at))
			return 1;
	/* The owner of a semaphore that was read, where nobody waits: see leftovers.py. */
	if ((words[at] & 1) && at > 0 && at + 3 <= last) {
		uint64_t itself = start + 8 * (uint64_t)(at + 2);
		return words[at - 1] >> 32 == 0 && words[at + 1] == 0 &&
		       words[at + 2] == itself && words[at + 3] == itself;
	}
	return 0;
}

#endif
