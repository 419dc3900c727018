/*
 * Which slots addresses are in, and which words are physical addresses: what numpy does in a dozen
 * passes over arrays, in one. It needs no Python.h; kernel/compiled.py calls it by ctypes, which
 * lets other threads run meanwhile. Without it numpy does the same: slots.py, blocks.py.
 */
#include "compiled.h"

int32_t crashext_version(void)
{
	return LOOPS_VERSION;
}

void crashext_locate(const struct slots *slots, const uint64_t *offsets, int64_t count,
		     int64_t *found, uint64_t *within)
{
	for (int64_t i = 0; i < count; i++) {
		int32_t row = value_at(&slots->row_of_page, offsets[i] >> slots->page_shift);

		within[i] = 0;
		found[i] = row < 0 ? NOTHING : slot_in(slots, row, offsets[i], &within[i]);
	}
}

struct physical {
	struct by_frame of_frame;
	uint64_t flags;		/* bits of an entry of a page table that are no address */
	uint64_t present;	/* those of them of which one at least is set in an entry */
	uint64_t limit;		/* end of memory */
	int64_t entries;	/* words of a page */
	int32_t page_shift;
	int32_t first_node;	/* those before are not asked for */
	int32_t least;		/* of fewer words that a page uses all must be entries */
	int32_t unused;
};

/*
 * Whether most words of a page, where they are not zero, may be entries of a page table: of few,
 * all of them.
 */
static int is_table(const struct physical *known, const uint64_t *words)
{
	int64_t used = 0, entry = 0;

	for (int64_t i = 0; i < known->entries; i++) {
		uint64_t place = words[i] & ~known->flags;

		used += words[i] != 0;
		entry += (place - 1 < known->limit - 1) & ((words[i] & known->present) != 0);
	}
	return used < known->least ? entry == used : 2 * entry > used;
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
