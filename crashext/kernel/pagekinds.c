/*
 * What struct pages say of their pages: kernel/pages/frames.py does the same with numpy, and says
 * why.
 */
#include <string.h>

#include "compiled.h"

enum { ABSENT, FREE, SLAB, RESERVED, ANON, PAGE_CACHE, SHMEM, HUGETLB, TABLE, KERNEL, OFFLINE,
       UNKNOWN, APART };
enum { TAIL = 1, BUDDY = 2, HEAD = 4 };

struct page_fields {
	int64_t size;	/* sizeof(struct page) */
	/* Offsets of members; -1: this kernel has none. */
	int32_t flags, mapping, type, refcount, link, owner;
	/* Bits of flags; -1: none. */
	int32_t lru, swapbacked, reserved, slab;
	/* Values of the page type, whole or of those bits; a count is 0 where there is none. */
	uint32_t bits, slab_type, buddy, offline, hugetlb;
	uint32_t has_slab_type, has_buddy, has_offline, has_hugetlb;
	uint32_t tables[4], frozen[4];
	int32_t tables_count, frozen_count;
	const uint64_t *crowds;	/* addresses of caches */
	int64_t crowds_count;
};

static uint64_t word(const uint8_t *row, int32_t offset)
{
	uint64_t value;

	memcpy(&value, row + offset, sizeof(value));
	return value;
}

static uint32_t half(const uint8_t *row, int32_t offset)
{
	uint32_t value;

	memcpy(&value, row + offset, sizeof(value));
	return value;
}

static int bit(uint64_t flags, int32_t number)
{
	return number >= 0 && (flags >> number & 1);
}

static int among(uint32_t value, const uint32_t *values, int32_t count)
{
	for (int32_t i = 0; i < count; i++)
		if (values[i] == value)
			return 1;
	return 0;
}

static uint64_t mask(int32_t number)
{
	return number >= 0 ? 1ull << number : 0;
}

/* What a page type says; the pages of a stretch have one of few. */
struct type_says {
	uint32_t type;
	uint8_t kind;	/* of a page that is in use; ABSENT: nothing */
	uint8_t huge, frozen, buddy, slab;
};

static struct type_says type_says(const struct page_fields *at, uint32_t type)
{
	struct type_says says = {.type = type};
	uint32_t whole = type & at->bits;

	says.huge = at->has_hugetlb && whole == at->hugetlb;
	says.frozen = at->type >= 0 && among(type & 0xff000000u, at->frozen, at->frozen_count);
	says.buddy = at->has_buddy && whole == at->buddy;
	says.slab = at->has_slab_type && type == at->slab_type;
	if (at->type >= 0 && at->has_offline && type == at->offline)
		says.kind = OFFLINE;
	else if (at->type >= 0 && among(whole, at->tables, at->tables_count))
		says.kind = TABLE;
	return says;
}

/*
 * Uses of pages by their struct pages alone, and which are tails, head a free block or a slab.
 * Returns which uses there are, a bit each, and from bit 16 on which marks.
 */
uint32_t crashext_kinds_of_pages(const struct page_fields *fields, const uint8_t *rows, int64_t count,
			     uint8_t *use, uint8_t *marks)
{
	const struct page_fields here = *fields, *at = &here; /* what is written is not in it */
	const uint64_t reserved = mask(at->reserved), slab_flag = mask(at->slab);
	const uint64_t lru = mask(at->lru), swapbacked = mask(at->swapbacked);
	struct type_says says = type_says(at, 0);
	uint32_t uses = 0, seen = 0;

	for (int64_t i = 0; i < count; i++) {
		const uint8_t *row = rows + i * at->size;
		uint64_t flags = word(row, at->flags), mapping;
		uint32_t type = at->type >= 0 ? half(row, at->type) : 0;
		uint8_t mark = (word(row, at->link) & 1) ? TAIL : 0, kind = KERNEL;

		if (type != says.type)
			says = type_says(at, type);
		if (says.buddy)
			mark |= BUDDY;
		if (!(mark & TAIL) && ((flags & slab_flag) || says.slab))
			mark |= HEAD;
		if (mark & HEAD) {
			kind = SLAB;
			for (int64_t k = 0; k < at->crowds_count; k++)
				if (at->crowds[k] == word(row, at->owner))
					kind = APART;
		} else if (flags & reserved) {
			kind = RESERVED;
		} else if (says.huge) {
			kind = HUGETLB;
		} else if (at->refcount >= 0 && !half(row, at->refcount) && !says.frozen) {
			kind = FREE;
		} else if (says.kind != ABSENT) {
			kind = says.kind;
		} else if (at->mapping >= 0 && (mapping = word(row, at->mapping)) > 1ull << 63) {
			if ((mapping & 1) && (flags & (swapbacked | lru)))
				kind = ANON;
			else if (!(mapping & 3) && (flags & swapbacked))
				kind = SHMEM;
			else if (!(mapping & 3) && (flags & lru))
				kind = PAGE_CACHE;
		}
		use[i] = kind;
		marks[i] = mark;
		uses |= 1u << kind;
		seen |= mark;
	}
	return uses | seen << 16;
}

/* Which pages head slabs: by a bit of flags, or, where that is -1, by a page type. */
void crashext_slab_heads(const uint8_t *rows, int64_t size, int64_t count, int32_t flags,
			 int32_t slab, int32_t type, uint32_t slab_type, int32_t link,
			 uint8_t *heads)
{
	for (int64_t i = 0; i < count; i++) {
		const uint8_t *row = rows + i * size;
		int is_slab = slab < 0 ? half(row, type) == slab_type
				       : bit(word(row, flags), slab);

		heads[i] = is_slab && !(word(row, link) & 1);
	}
}
