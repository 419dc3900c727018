/*
 * Many pages of a compressed kdump in one call, so that threads need not wait for each other at
 * every page. decompress.py calls it by ctypes with the library's function, and does without it
 * page by page.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef int (*lzo)(const uint8_t *from, size_t length, uint8_t *to, size_t *room, void *work);
typedef int (*snappy)(const char *from, size_t length, char *to, size_t *room);
typedef size_t (*zstd)(void *to, size_t room, const void *from, size_t length);

enum form { LZO = 0x2, SNAPPY = 0x4, ZSTD = 0x20 };

static int unpacked(void *function, int32_t form, const uint8_t *from, size_t length, uint8_t *to,
		    size_t page)
{
	size_t room = page;

	switch (form) {
	case LZO:
		return !((lzo)function)(from, length, to, &room, NULL) && room == page;
	case SNAPPY:
		return !((snappy)function)((const char *)from, length, (char *)to, &room) &&
		       room == page;
	case ZSTD:
		return ((zstd)function)(to, page, from, length) == page;
	}
	return 0;
}

/* Pages of `page` bytes each, in a row in `to`; returns how many before the first damaged one. */
int64_t crashext_unpack(void *function, int32_t form, const uint8_t *data, const int64_t *offsets,
			const int64_t *sizes, const uint8_t *packed, int64_t count, int64_t page,
			uint8_t *to)
{
	for (int64_t i = 0; i < count; i++, to += page) {
		const uint8_t *from = data + offsets[i];

		if (packed[i]) {
			if (!unpacked(function, form, from, (size_t)sizes[i], to, (size_t)page))
				return i;
		} else if (sizes[i] == page) {
			memcpy(to, from, (size_t)page);
		} else {
			return i;
		}
	}
	return count;
}
