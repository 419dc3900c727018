/*
 * The loop over every word of memory, and which slot an address is in: what numpy does in a dozen
 * passes over arrays, in one. It needs no Python.h; kernel/compiled.py calls it by ctypes, which
 * lets other threads run meanwhile. Without it numpy does the same: references.py, slots.py.
 */
#include <stdint.h>

/* byframe.ByFrame of int32: rows of page frames, of which those that are alike are kept once. */
struct by_frame {
	const int32_t *number;	/* row of a stretch; NULL: rows has a value for each page frame */
	const int32_t *rows;
	int64_t length;
	int32_t shift;
	int32_t unused;
};

struct slots {
	struct by_frame row_of_page;
	const int64_t *begin;	/* of each slab: direct-map offset of its first object */
	const uint32_t *size;	/* bytes of a slot */
	const uint32_t *length;	/* bytes of an object */
	const uint32_t *objects;
	const int64_t *first;	/* number of the first slot */
	int32_t page_shift;
	int32_t unused;
};

struct pointers {
	struct slots slots;
	struct by_frame of_frame;	/* area or block that has a page frame */
	const uint8_t *state;		/* of each slot */
	const uint8_t *flagged;		/* of each slab: flags in low bits may stand for no pointer */
	const uint64_t *poison;		/* what follows a word that holds nothing */
	int64_t poisons;
	uint64_t direct;		/* address of page frame 0 */
	uint64_t lowest;		/* no word below leads to anything */
	uint64_t span;			/* nor one that is so much higher */
	int32_t allocated;		/* value of state */
	int32_t unused;
};

enum { NOTHING = -1, ASK = -2 };

static int32_t value_at(const struct by_frame *frames, uint64_t frame)
{
	if (frame >= (uint64_t)frames->length)
		return NOTHING;
	if (!frames->number)
		return frames->rows[frame];
	return frames->rows[((int64_t)frames->number[frame >> frames->shift] << frames->shift) +
			    (int64_t)(frame & ((1u << frames->shift) - 1))];
}

/* Slot that a direct-map offset is in, and where in its object; row is -1 outside of slabs. */
static int64_t slot_at(const struct slots *slots, uint64_t offset, int32_t *row, uint64_t *within)
{
	int32_t at = value_at(&slots->row_of_page, offset >> slots->page_shift);
	uint32_t number, beside;
	int64_t inside;

	*row = at;
	*within = 0;
	if (at < 0)
		return NOTHING;
	inside = (int64_t)offset - slots->begin[at];
	if (inside < 0 || inside > UINT32_MAX)
		return NOTHING;
	number = (uint32_t)inside / slots->size[at];
	beside = (uint32_t)inside - number * slots->size[at];
	*within = beside;
	if (beside >= slots->length[at] || number >= slots->objects[at])
		return NOTHING;
	return slots->first[at] + number;
}

void crashext_locate(const struct slots *slots, const uint64_t *offsets, int64_t count,
		     int64_t *found, uint64_t *within)
{
	int32_t row;

	for (int64_t i = 0; i < count; i++)
		found[i] = slot_at(slots, offsets[i], &row, &within[i]);
}

static int32_t node_of(const struct pointers *known, uint64_t word)
{
	uint64_t offset = word - known->direct, within;
	int32_t row;
	int64_t slot;

	if (offset >> known->slots.page_shift >= (uint64_t)known->slots.row_of_page.length)
		return ASK;
	slot = slot_at(&known->slots, offset, &row, &within);
	if (slot < 0)
		return value_at(&known->of_frame, offset >> known->slots.page_shift);
	if (known->state[slot] != known->allocated)
		return NOTHING;
	if ((word & 7) && within < 8 && known->flagged[row])
		return NOTHING;
	return (int32_t)slot;
}

static int holds_nothing(const struct pointers *known, const uint64_t *words, int64_t count,
			 int64_t at, uint64_t start)
{
	int64_t last = count - 1;
	uint64_t following = words[at < last ? at + 1 : last];

	for (int64_t i = 0; i < known->poisons; i++)
		if (following == known->poison[i])
			return 1;
	if (words[at] & 7) {
		int64_t waiting = at + 2 < last ? at + 2 : last;
		return words[waiting] == start + 8 * (uint64_t)waiting;
	}
	return 0;
}

/*
 * Indices of words that lead to nodes, and to which; ASK where page tables must be asked. `start`
 * is the address of the first word. Returns how many there are.
 */
int64_t crashext_find(const struct pointers *known, const uint64_t *words, int64_t count,
		      uint64_t start, int32_t *at, int32_t *node)
{
	uint64_t before = 0;
	int32_t led = NOTHING;
	int64_t found = 0;

	for (int64_t i = 0; i < count; i++) {
		uint64_t word = words[i];

		if (word - known->lowest >= known->span)
			continue;
		if (word != before) {
			/* Objects in a row often hold one pointer. */
			before = word;
			led = node_of(known, word);
		}
		if (led == NOTHING || holds_nothing(known, words, count, i, start))
			continue;
		at[found] = (int32_t)i;
		node[found++] = led;
	}
	return found;
}

struct physical {
	struct by_frame of_frame;
	uint64_t flags;		/* bits of an entry of a page table that are no address */
	uint64_t present;	/* those of them of which one at least is set in an entry */
	uint64_t limit;		/* end of memory */
	int64_t entries;	/* words of a page */
	int32_t page_shift;
	int32_t first_node;	/* those before are not asked for */
	int32_t least;		/* used entries that a page needs to be taken for a table */
	int32_t unused;
};

/* Whether most words of a page, where they are not zero, may be entries of a page table. */
static int is_table(const struct physical *known, const uint64_t *words)
{
	int64_t used = 0, entry = 0;

	for (int64_t i = 0; i < known->entries; i++) {
		uint64_t place = words[i] & ~known->flags;

		used += words[i] != 0;
		entry += (place - 1 < known->limit - 1) & ((words[i] & known->present) != 0);
	}
	return 2 * entry > used && used >= known->least;
}

/*
 * Indices of words, of whole pages that are wanted, which are physical addresses of nodes: whole
 * words, or entries in page tables. Returns how many there are.
 */
int64_t crashext_physical(const struct physical *known, const uint64_t *words, int64_t pages,
			  const uint8_t *wanted, int32_t *at, int32_t *node)
{
	int64_t found = 0;

	for (int64_t page = 0; page < pages; page++) {
		const uint64_t *first = words + page * known->entries;
		int table;

		if (!wanted[page])
			continue;
		table = is_table(known, first);
		for (int64_t i = 0; i < known->entries; i++) {
			uint64_t place = first[i] & ~known->flags;
			int32_t led;

			if (place - 1 >= known->limit - 1)
				continue;
			if ((first[i] & known->flags) && !(table && (first[i] & known->present)))
				continue;
			led = value_at(&known->of_frame, place >> known->page_shift);
			if (led < known->first_node)
				continue;
			at[found] = (int32_t)(page * known->entries + i);
			node[found++] = led;
		}
	}
	return found;
}
