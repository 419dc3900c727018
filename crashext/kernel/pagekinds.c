/*
 * What struct pages say of their pages: kernel/pages/frames.py does the same with numpy, and says
 * why.
 */
#include <string.h>

#include "compiled.h"

enum { ABSENT, FREE, SLAB, RESERVED, ANON, PAGE_CACHE, SHMEM, HUGETLB, TABLE, KERNEL, OFFLINE,
       UNKNOWN, APART };
enum { TAIL = 1, BUDDY = 2 };

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

static uint8_t kind_of(const struct page_fields *at, const uint8_t *row, uint64_t flags,
		       uint32_t type)
{
	uint32_t whole = type & at->bits;
	uint8_t use = KERNEL;

	if (bit(flags, at->reserved))
		return RESERVED;
	if (at->has_hugetlb && whole == at->hugetlb)
		return HUGETLB;
	if (at->refcount >= 0 && !half(row, at->refcount) &&
	    !(at->type >= 0 && among(type & 0xff000000u, at->frozen, at->frozen_count)))
		return FREE;
	if (at->type >= 0) {
		if (at->has_offline && type == at->offline)
			return OFFLINE;
		if (among(whole, at->tables, at->tables_count))
			return TABLE;
	}
	if (at->mapping >= 0) {
		uint64_t mapping = word(row, at->mapping);
		int swapbacked = bit(flags, at->swapbacked), lru = bit(flags, at->lru);

		if (mapping > 1ull << 63) {
			if ((mapping & 1) && (swapbacked || lru))
				use = ANON;
			else if (!(mapping & 3) && swapbacked)
				use = SHMEM;
			else if (!(mapping & 3) && lru)
				use = PAGE_CACHE;
		}
	}
	return use;
}

/* Uses of pages by their struct pages alone, and which are tails or head a free block. */
void crashext_page_kinds(const struct page_fields *at, const uint8_t *rows, int64_t count,
			 uint8_t *use, uint8_t *marks)
{
	for (int64_t i = 0; i < count; i++) {
		const uint8_t *row = rows + i * at->size;
		uint64_t flags = word(row, at->flags);
		uint32_t type = at->type >= 0 ? half(row, at->type) : 0;
		int tail = word(row, at->link) & 1;
		int slab = at->has_slab_type ? type == at->slab_type : bit(flags, at->slab);

		marks[i] = (uint8_t)(tail ? TAIL : 0);
		if (at->has_buddy && (type & at->bits) == at->buddy)
			marks[i] |= BUDDY;
		if (!slab || tail) {
			use[i] = kind_of(at, row, flags, type);
			continue;
		}
		use[i] = SLAB;
		for (int64_t k = 0; k < at->crowds_count; k++)
			if (at->crowds[k] == word(row, at->owner))
				use[i] = APART;
	}
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
