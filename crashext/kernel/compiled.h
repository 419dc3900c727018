/*
 * What the compiled loops share: values of page frames, and slots of slabs.
 */
#ifndef CRASHEXT_COMPILED_H
#define CRASHEXT_COMPILED_H

#include <stddef.h>
#include <stdint.h>

/* What loops.py expects: one more with every change that it could notice. */
enum { LOOPS_VERSION = 3 };

/* byframe.ByFrame of int32 or bool: rows of page frames, of which those alike are kept once. */
struct by_frame {
	const int32_t *number;	/* row of a stretch; NULL: rows has a value for each page frame */
	const void *rows;
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

enum { NOTHING = -1 };

/* Where in its rows the value of a page frame is that there is. */
static inline int64_t place_in(const struct by_frame *frames, uint64_t frame)
{
	if (!frames->number)
		return (int64_t)frame;
	return ((int64_t)frames->number[frame >> frames->shift] << frames->shift) +
	       (int64_t)(frame & ((1u << frames->shift) - 1));
}

static inline int32_t value_at(const struct by_frame *frames, uint64_t frame)
{
	if (frame >= (uint64_t)frames->length)
		return NOTHING;
	return ((const int32_t *)frames->rows)[place_in(frames, frame)];
}

static inline int is_set(const struct by_frame *frames, uint64_t frame)
{
	if (frame >= (uint64_t)frames->length)
		return 0;
	return ((const uint8_t *)frames->rows)[place_in(frames, frame)];
}

/* Slot of a slab that a direct-map offset is in, and where in its object. */
static inline int64_t slot_in(const struct slots *slots, int32_t row, uint64_t offset,
			      uint64_t *within)
{
	int64_t inside = (int64_t)offset - slots->begin[row];
	uint32_t number, beside;

	*within = 0;
	if (inside < 0 || inside > UINT32_MAX)
		return NOTHING;
	number = (uint32_t)inside / slots->size[row];
	beside = (uint32_t)inside - number * slots->size[row];
	*within = beside;
	if (beside >= slots->length[row] || number >= slots->objects[row])
		return NOTHING;
	return slots->first[row] + number;
}

#endif
