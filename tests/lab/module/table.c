// SPDX-License-Identifier: GPL-2.0
/*
 * The ground truth: one line a part in the kernel log, and a table of all addresses a part.
 *
 * The tables are masked, because a table of plain addresses would be a reference to every
 * leaked object; tests/lab/truth.py takes the mask off. They are read as debugfs files and
 * given back before the dump is made.
 */
#include <linux/mm.h>
#include <linux/vmalloc.h>

#include "leaklab.h"

/* Kernel addresses start with 0xffff; masked, they do not even look like one. */
#define ADDRESS_MASK 0xa5c35a3c96690ff0ULL
#define MAX_PARTS 32

static struct leaklab_part parts[MAX_PARTS];
static unsigned int nr_parts;
static struct dentry *directory;

int leaklab_tables_create(void)
{
	directory = debugfs_create_dir("leaklab", NULL);
	return PTR_ERR_OR_ZERO(directory);
}

void leaklab_tables_release(void)
{
	unsigned int i;

	/* Waits for readers, so that the tables are nobody's afterwards. */
	debugfs_remove_recursive(directory);
	directory = NULL;
	for (i = 0; i < nr_parts; i++) {
		vfree(parts[i].masked);
		parts[i].masked = NULL;
		parts[i].blob.data = NULL;
	}
}

struct leaklab_part *leaklab_part_begin(const char *name, unsigned int capacity)
{
	struct leaklab_part *part;

	if (nr_parts == MAX_PARTS)
		return NULL;
	part = &parts[nr_parts];
	part->masked = vmalloc(array_size(capacity, sizeof(u64)));
	if (!part->masked)
		return NULL;
	part->name = name;
	part->capacity = capacity;
	nr_parts++;
	return part;
}

void leaklab_part_add(struct leaklab_part *part, const void *address)
{
	if (!WARN_ON_ONCE(part->count >= part->capacity))
		part->masked[part->count++] = (u64)address ^ ADDRESS_MASK;
}

void *leaklab_part_get(const struct leaklab_part *part, unsigned int index)
{
	return (void *)(part->masked[index] ^ ADDRESS_MASK);
}

/* Log the part and publish its table. @size 0: the allocator knows better than this module. */
void leaklab_part_end(struct leaklab_part *part, bool guilty, size_t size, const char *cache)
{
	part->blob.data = part->masked;
	part->blob.size = part->count * sizeof(u64);
	debugfs_create_blob(part->name, 0400, directory, &part->blob);
	pr_info("leaklab: part=%s guilty=%d count=%u size=%zu cache=%s first=0x%px last=0x%px\n",
		part->name, guilty, part->count, size, cache, leaklab_part_get(part, 0),
		leaklab_part_get(part, part->count - 1));
}

/* Log an address that objects of the part hold, or that holds them. */
void leaklab_pointer(const struct leaklab_part *part, const char *name, const void *address)
{
	pr_info("leaklab: pointer=%s part=%s address=0x%px\n", name, part->name, address);
}
